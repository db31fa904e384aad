"""All methods at the masks of the same lesions, in surroundings that show none of the old ones."""

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from tests.studies.test_judge import write_lesion
from tools.cli import main
from tools.phantoms.datasets import write_tumour_dataset
from tools.phantoms.heart_datasets import write_heart_dataset
from tools.studies import compare as compare_module
from tools.transforms.healing import heal, remote_wall
from tools.transforms.wall import wall_coordinates

GRID = np.indices((30, 30, 30)) - 14.5
RADIUS = np.sqrt((GRID**2).sum(0))


def test_nothing_of_a_lesion_stays_where_it_was_healed() -> None:
    rng = np.random.default_rng(0)
    slope = -850 + 3 * GRID[0]
    image = slope + rng.normal(0, 20, RADIUS.shape) + 900 * (RADIUS < 6)
    healed = heal(image, RADIUS < 6, (1, 1, 1), rng, margin_mm=2.0)
    hole = RADIUS < 6
    assert np.array_equal(healed[RADIUS > 8.5], image[RADIUS > 8.5].astype(np.float32))
    assert np.abs((healed - slope)[hole].mean()) < 10
    assert (healed - slope)[hole].std() == pytest.approx(20, rel=0.35)
    with pytest.raises(ValueError, match="image must reach beyond lesion"):
        heal(image, RADIUS < 99, (1, 1, 1), rng)


def test_a_wall_is_healed_from_the_wall() -> None:
    x, y, z = np.indices((40, 40, 4)) - np.array([19.5, 19.5, 1.5])[:, None, None, None]
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    cavity, wall = radius < 8, (radius >= 8) & (radius < 14)
    depth = (radius - 8) / 6
    image = np.where(wall, 100 + 20 * depth, np.where(cavity, 1000.0, -500.0))
    lesion = wall & ((np.abs(angle) < 0.8) | (np.abs(z - 0.5) < 0.1))  # all round in one slice
    place = wall_coordinates(wall, np.diag([1, 1, 8, 1]), cavity)
    sick, rng = np.where(lesion, 400.0, image), np.random.default_rng(0)
    far = ndimage.distance_transform_edt(~lesion, sampling=(1, 1, 8)) > 2
    expected = remote_wall(sick, wall & far, place)
    healed = heal(sick, lesion, (1, 1, 8), rng, 2.0, wall, expected)
    assert np.array_equal(healed[~wall], sick[~wall].astype(np.float32))
    # neither blood nor what lies outside comes in: the wall is what it was, at each depth
    assert np.abs(healed - image)[wall].max() < 12
    assert np.abs((healed - image)[lesion].mean()) < 2
    with pytest.raises(ValueError, match="image must show a part of the wall without lesions"):
        remote_wall(sick, wall & False, place)


@pytest.fixture(scope="module")
def nodules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    real = tmp_path_factory.mktemp("nodules")
    entries = [write_lesion(real, f"n{n}", n) for n in range(11)]
    for kind in ("image", "label"):  # of three slices, as crops are
        thin = nib.load(real / f"n10_{kind}.nii.gz")
        nib.save(thin.slicer[..., 14:17], real / f"n10_{kind}.nii.gz")
    sections = {"training": entries[:6], "validation": entries[6:]}
    (real / "datalist.json").write_text(json.dumps(sections))
    return real


@pytest.mark.usefixtures("small_forests")
@pytest.mark.parametrize("surroundings", ["healed", "real"])
def test_methods_are_compared_and_taken_up_again(
    nodules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], surroundings: str
) -> None:
    out = tmp_path / "out"
    words = ["compare", "--real", str(nodules), "--out", str(out), "--surroundings", surroundings]
    words += ["--methods", "hand_crafted,copy_paste"]
    assert main(words) == 0
    page = (out / "compare.md").read_text()
    rows = [line.split(" | ")[0].strip("| ") for line in page.splitlines() if line.startswith("|")]
    healed = ["healed"] if surroundings == "healed" else []
    expected = ["real halves", *healed, "hand_crafted", "copy_paste"]
    assert rows[2 : 2 + len(expected)] == expected
    assert "| repaint | 18.91 | - |" in page  # a published row without ours
    found = json.loads((out / "compare.json").read_text())["methods"]
    assert found["hand_crafted"]["jsd"]["n"] == found["hand_crafted"]["ssim"]["n"] == 5
    assert 0 < found["hand_crafted"]["ssim"]["mean"] < 100
    assert found["hand_crafted"]["psnr"]["mean"] < 35  # the real lesion itself is not seen
    if healed:  # the real lesion is put back: nothing differs inside
        assert found["healed"]["jsd"]["mean"] == pytest.approx(0, abs=1e-6)
        assert found["healed"]["w1"]["mean"] == 0
    with (out / "compare.csv").open(newline="") as stream:
        table = {(row["method"], row["measure"]): row for row in csv.DictReader(stream)}
    area = table["copy_paste", "told_apart_border"]
    assert float(area["low"]) <= float(area["value"]) <= float(area["high"])
    html = (out / "compare.html").read_text()
    assert html.count("data:image/png;base64,") == 2
    assert 'src="http' not in html
    if not healed:
        return
    image = out / "copy_paste" / "n7_1_image.nii.gz"
    stamp = image.stat().st_mtime_ns
    capsys.readouterr()
    assert main(words) == 0
    assert image.stat().st_mtime_ns == stamp
    assert (out / "compare.md").read_text() == page
    assert main([*words, "--seed", "1"]) == 1
    assert "made with seed=0 where 1 is asked for" in capsys.readouterr().err
    assert image.stat().st_mtime_ns == stamp


@pytest.mark.usefixtures("small_forests")
def test_hearts_take_the_same_way(tmp_path: Path) -> None:
    hearts = tmp_path / "hearts"
    write_heart_dataset(hearts, sections={"validation": 4})
    out = tmp_path / "out"
    words = ["--preset", "heart", "--real", str(hearts), "--methods", "hand_crafted"]
    assert main(["compare", *words, "--out", str(out)]) == 0
    results = json.loads((out / "compare.json").read_text())
    assert results["settings"]["unit"] == "%"
    assert list(results["methods"]) == ["healed", "hand_crafted"]
    classes = results["methods"]["hand_crafted"]["classes"]
    assert classes["infarct"]["jsd"]["n"] == 4 > classes["no_reflow"]["jsd"]["n"] > 0
    assert results["methods"]["healed"]["classes"]["infarct"]["w1"]["mean"] == 0
    for entry in json.loads((hearts / "datalist.json").read_text())["validation"]:
        name = Path(entry["image"]).name.removesuffix("_image.nii.gz")
        real, before = (nib.load(hearts / entry[key]) for key in ("label", "image"))
        label, after = (
            nib.load(out / "hand_crafted" / f"{name}_1_{kind}.nii.gz")
            for kind in ("label", "image")
        )
        labels = np.asarray(real.dataobj)
        assert np.array_equal(np.asarray(label.dataobj), labels)
        changed = np.asarray(before.dataobj) != np.asarray(after.dataobj)
        assert changed[labels >= 3].mean() > 0.9
        assert not changed[labels < 2].any()  # blood, and all beside the heart
    page = (out / "compare.md").read_text()
    assert "| hand_crafted | 9.39 | " in page


@pytest.mark.usefixtures("small_forests")
def test_each_tumour_of_a_liver_is_drawn_anew_beside_the_others(tmp_path: Path) -> None:
    livers, out = tmp_path / "livers", tmp_path / "out"
    write_tumour_dataset(livers, sections={"validation": 3})
    words = ["compare", "--preset", "liver", "--real", str(livers), "--out", str(out)]
    assert main([*words, "--methods", "hand_crafted"]) == 0
    settings = json.loads((out / "compare.json").read_text())["settings"]
    assert (settings["lesions"], settings["halves"]) == (6, "lesion")  # of three patients
    assert "halves by lesion, as patients are few" in (out / "compare.md").read_text()
    for case, count in enumerate((1, 2, 3)):
        files = (f"phantom_{case:03d}_{kind}.nii.gz" for kind in ("image", "label"))
        image, label = (np.asarray(nib.load(livers / "cases" / name).dataobj) for name in files)
        pieces, number = ndimage.label(label == 2, np.ones((3, 3, 3)))
        assert number == count
        for turn in range(1, count + 1):
            made = out / "hand_crafted" / f"phantom_{case:03d}_{turn}_image.nii.gz"
            changed = np.asarray(nib.load(made).dataobj) != image
            shares = [changed[pieces == k].mean() for k in range(1, count + 1)]
            assert shares.pop(turn - 1) > 0.9
            assert not any(shares) or min(shares) < 0.1  # a neighbour's rim at most


@pytest.mark.usefixtures("small_forests")
def test_a_network_is_shown_under_control(nodules: Path, tmp_path: Path) -> None:
    preset = json.loads(Path(compare_module.__file__).with_name("compare_lung.json").read_text())
    own = tmp_path / "own.json"
    own.write_text(json.dumps(preset | {"controls": 1, "limit": 4, "steps": 1}))
    out = tmp_path / "out"
    words = ["--preset", str(own), "--real", str(nodules), "--methods", "lefusion_lidc"]
    assert main(["compare", *words, "--surroundings", "real", "--out", str(out)]) == 0
    alike = json.loads((out / "compare.json").read_text())["controls"]["alike"]
    assert list(alike) == ["none", "ground_glass", "part_solid", "solid"]  # from dark to bright
    assert all(5 < each["psnr"] < 60 for each in alike.values())
    assert len(list((out / "lefusion_lidc_controls").glob("*_image.nii.gz"))) == 8
    assert (out / "compare_controls.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--methods", "nothing"],
            "methods must be of lefusion_lidc, hr_ldm, cond_diffusion_latent, hand_crafted, ",
        ),
        (
            ["--preset", "skin"],
            "preset must be one of heart, liver, lung or a JSON file, got 'skin'",
        ),
        (["--preset", "own.json"], "preset must have the keys"),
        (["--surroundings", "none"], "surroundings must be one of healed, real, got 'none'"),
        (["--methods", "hr_ldm,hr_ldm"], "methods must differ in their names, got two hr_ldm"),
        (["--limit", "3"], "real must hold at least 4 lesions, two for each half, got 3"),
        (
            ["--methods", "hand_crafted,hr_ldm", "--steps", "20"],
            "num_inference_steps (steps) must be at least 50 for ddim",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(
    nodules: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    (tmp_path / "own.json").write_text(json.dumps({"title": "", "colour": 1}))
    bundles = Path("bundles").resolve()
    monkeypatch.setattr("tools.bundle.bundle_folders", lambda: [bundles])
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--real", str(nodules), "--out", "out", *words]) == 1
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize("quick", [False, True])
def test_a_preset_asks_every_method_for_steps_that_it_takes(
    nodules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    opened = {}

    def jobs_only(bench: compare_module.Bench, job: Any, folder: Path, name: str) -> list[Any]:
        opened[name] = job.texturer.record
        return [each.crop for each in bench.lesions]

    monkeypatch.setattr(compare_module, "_drawn", jobs_only)
    monkeypatch.setattr(compare_module, "_controls", lambda *_: None)
    monkeypatch.setattr(compare_module, "write_comparison", lambda *_: None)
    settings = compare_module.Settings(limit=4, surroundings="real", quick=quick)
    compare_module.compare(nodules, tmp_path / "out", settings)
    assert {"lefusion_lidc", "hr_ldm", "hand_crafted", "copy_paste"} <= set(opened)
    requests = {
        name: json.loads((tmp_path / "out" / name / "request.json").read_text())
        for name in ("lefusion_lidc", "hr_ldm")
    }
    assert requests["lefusion_lidc"]["steps"] == ("8" if quick else "20")
    assert requests["hr_ldm"]["steps"] == "None"  # its own


def test_nobodys_own_lesion_is_copied_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tmp_path / "real"
    entries = [write_lesion(real, f"n{n}", n) for n in range(5)]
    (real / "datalist.json").write_text(
        json.dumps({"training": entries[4:], "validation": entries})
    )
    words = ["--real", str(real), "--library", str(real), "--out", str(tmp_path / "out")]
    assert main(["compare", *words, "--methods", "copy_paste"]) == 1
    assert "library must hold no patient of validation, got n4" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
