"""Hearts in units of their own: three contrasts are found, presets are what they are."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tools.synthesis.generator import SliceSettings
from tools.synthesis.hearts.textures import HeartTextures

from tools.cli import main
from tools.histograms import load_presets
from tools.prepare.cluster_textures import Clustering
from tools.prepare.heart_textures import (
    _presets,
    cluster_hearts,
    has_slices,
    measure_hearts,
)

# intensity of the infarct where myocardium is 0.3, blood 0.5, air 0 and fat 1
KINDS = {"pale": 0.4, "middle": 0.6, "light": 0.85}
NO_REFLOW = 0.2
SETTINGS = SliceSettings((1, 2, 3, 4), (72, 72), 1.5, (0.5, 99.5), 0, (3, 4))


def write_hearts(folder: Path, per_kind: int = 3) -> Path:
    """Hearts of each kind, every scan in another unit; only light ones have no-reflow."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(*2 * [np.arange(64) - 32], indexing="ij")
    radius = np.hypot(x, y)[..., None].repeat(4, 2)
    (folder / "cases").mkdir(parents=True)
    entries = []
    for i, kind in enumerate([*list(KINDS) * per_kind, "healthy"]):
        label = np.where(radius < 12, 1, np.where(radius < 20, 2, 0)).astype(np.uint8)
        image = np.choose(label, [0.05, 0.5, 0.3]) + rng.normal(0, 0.01, label.shape)
        image[:8] = 1  # fat
        if kind in KINDS:
            infarct = (label == 2) & (x > 5)[..., None]
            label[infarct] = 3
            image[infarct] = KINDS[kind] + rng.normal(0, 0.01, int(infarct.sum()))
        if kind == "light":
            core = (label == 3) & (radius < 15)
            label[core], image[core] = 4, NO_REFLOW
        names = {key: f"cases/{i}_{key}.nii.gz" for key in ("image", "label")}
        values = (1 + image * rng.uniform(100, 3000)).astype(np.float32)
        for name, array in zip(names.values(), (values, label), strict=True):
            nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 10, 1])), folder / name)
        entries.append({"name": f"{kind}_{i}", **names})
    content = {"training": entries, "normal": entries[-1:]}
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hearts(tmp_path_factory.mktemp("hearts") / "hearts")


@pytest.fixture
def bundle(repository: Path, tmp_path: Path) -> Path:
    configs = tmp_path / "bundle" / "configs"
    shutil.copytree(repository / "bundles" / "lefusion_emidec" / "configs", configs)
    return configs.parent


@pytest.fixture
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.prepare.heart_textures.write_heart_figure", lambda *_: None)


def peak(histogram: list[float], block: int) -> float:
    """Middle of the fullest bin; the rim of a lesion is blurred, so the mean says less."""
    return float(np.linspace(-1, 1, 33)[1::2][np.reshape(histogram, (2, 16))[block].argmax()])


def test_three_contrasts_are_found_whatever_the_units(
    dataset: Path, bundle: Path, tmp_path: Path
) -> None:
    before = (bundle / "configs" / "histograms.json").read_bytes()
    results = cluster_hearts(str(dataset), str(bundle), out=tmp_path / "out", space="cumulative")
    assert (results["lesions"], results["left_out"]) == (9, 1)
    assert [group["name"] for group in results["clusters"]] == ["faint", "moderate", "bright"]
    assert [group["weight"] for group in results["clusters"]] == [33, 34, 33]
    for group, (kind, level) in zip(results["clusters"], KINDS.items(), strict=True):
        assert [name.split("_")[0] for name in group["members"]] == [kind] * 3
        assert group["contrast_quartiles"][1] == pytest.approx((level - 0.3) / 0.2, abs=0.05)
        assert group["medoid"] in group["members"]
    # all scans are made alike but for their units, so nothing moves: the levels are the model's
    presets = load_presets(tmp_path / "out" / "histograms.json")
    assert list(presets) == ["faint", "moderate", "bright"]
    wall, blood = results["tissue"]
    for name, level in zip(presets, KINDS.values(), strict=True):
        expected = wall + (level - 0.3) / 0.2 * (blood - wall)
        assert peak(presets[name]["histogram"], 0) == pytest.approx(expected, abs=0.08)
        assert presets[name]["tissue"] == results["tissue"]
        assert presets[name]["gain"] == results["gain"] == 0.5
    # groups without no-reflow have it from the others
    expected = wall + (NO_REFLOW - 0.3) / 0.2 * (blood - wall)
    assert peak(presets["bright"]["histogram"], 1) == pytest.approx(expected, abs=0.08)
    cores = [preset["histogram"][16:] for preset in presets.values()]
    assert cores[0] == cores[1] == cores[2]
    assert [group["members_by_class"] for group in results["clusters"]] == [[3, 0], [3, 0], [3, 3]]
    assert max(results["fit"]["mean"]) < 0.05
    assert json.loads((tmp_path / "out" / "cluster.json").read_text()) == results
    assert (tmp_path / "out" / "cluster.png").read_bytes()[:4] == b"\x89PNG"
    assert (bundle / "configs" / "histograms.json").read_bytes() == before


@pytest.mark.usefixtures("no_figure")
def test_write_replaces_the_presets_of_the_bundle(
    dataset: Path, bundle: Path, tmp_path: Path
) -> None:
    path = bundle / "configs" / "histograms.json"
    old = json.loads(path.read_text())
    cluster_hearts(str(dataset), str(bundle), out=tmp_path, write=True, preset="medoid")
    new = json.loads(path.read_text())
    assert new.keys() == old.keys()
    assert new != old
    for preset in new["presets"].values():
        assert np.reshape(preset["histogram"], (2, 16)).sum(1) == pytest.approx([1, 1], abs=1e-12)
    drawn = HeartTextures("mixed", load_presets(path)).draw(
        0, np.random.default_rng(0), (-0.4, 0.0), [True, True]
    )
    assert drawn[0] in new["presets"]
    # without a file, the default of bins and gain
    path.unlink()
    results = cluster_hearts(str(dataset), str(bundle), 2, tmp_path)
    assert (results["bins"], results["gain"]) == (16, 0.5)
    with pytest.raises(ValueError, match=r"write needs presets with the texture .*'moderate'"):
        cluster_hearts(str(dataset), str(bundle), 2, tmp_path, write=True)
    assert not path.exists()


def test_a_heart_is_measured_as_the_model_sees_it(dataset: Path) -> None:
    entry = json.loads((dataset / "datalist.json").read_text())["training"][2]
    files = [{key: str(dataset / entry[key]) for key in ("image", "label")}]
    found = measure_hearts(files, SETTINGS, 16)
    assert found.histograms.shape == (1, 2, 256)
    assert found.histograms.sum(-1) == pytest.approx(1)
    assert found.contrast[0] == pytest.approx((0.85 - 0.3) / 0.2, abs=0.05)
    assert found.voxels[0, 0] > found.voxels[0, 1] > 0
    own = found.move(0, found.tissue[0], gain=1)
    assert own == pytest.approx(found.histograms[0].reshape(2, 16, 16).sum(-1))


def test_one_heart_does_not_speak_for_a_group() -> None:
    """Two groups of six, one heart of the second has the other class: the most similar join it."""
    moved = np.zeros((12, 2, 4))
    moved[:6, 0, 0] = moved[6:, 0, 3] = 1
    moved[2:6, 0, :2] = [0.5, 0.5]  # nearer to the second group than hearts 0 and 1
    moved[:6, 1, 0] = moved[11, 1, 3] = 1
    moved[:2, 1] = [0, 1, 0, 0]
    clustering = Clustering(np.repeat([0, 1], 6), np.arange(12, 0, -1.0), 0.0)
    found = _presets(moved, clustering, "mean")
    assert found[0, 1] == pytest.approx([4 / 6, 2 / 6, 0, 0])
    assert found[1, 1] == pytest.approx([0.8, 0, 0, 0.2])
    assert found[1, 0].tolist() == [0, 0, 0, 1]
    assert _presets(moved, clustering, "medoid")[1, 1].tolist() == [0, 0, 0, 1]


def test_which_bundles_have_slices() -> None:
    assert has_slices("lefusion_emidec")
    assert not has_slices("lefusion_lidc")


@pytest.mark.usefixtures("no_figure")
def test_the_command_knows_hearts_by_their_bundle(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["cluster", "--dataset_dir", str(dataset), "--bundle", "lefusion_emidec"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "bright: 3 lesions (33 %), contrast 2.7" in printed
    assert "median divergence of lesions from their preset" in printed
    failures = {
        "--preset=mode": "preset must be one of ['mean', 'medoid'], got 'mode'",
        "--clusters=1": "clusters must be a whole number from 2 to",
        "--section=normal": "dataset must hold a lesion, got 1 hearts without",
    }
    for word, sentence in failures.items():
        assert main([*words, "--out", str(tmp_path / "none"), word]) == 1
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
