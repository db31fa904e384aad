"""Training lesions by subtype: what is counted, what is kept, and that it can be read back."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.cli import main
from tools.prepare.subtypes import collect_subtypes
from tools.synthesis.catalogue import read_subtypes

LEVELS = {5.0: 50.0, 3.0: -300.0, 1.0: -650.0}  # HU by texture rating
SIDES = (3, 4, 5, 6, 7, 8)


def write_lesion(folder: Path, number: int, side: int, level: float, spacing: float) -> dict:
    """A cube of a lesion in a window of 16^3."""
    rng = np.random.default_rng(number)
    label = np.zeros((16, 16, 16), np.uint8)
    label[4 : 4 + side, 4 : 4 + side, 4 : 4 + side] = 1
    image = rng.normal(-850, 20, label.shape)
    image[label > 0] = rng.normal(level, 20, int(label.sum()))
    affine = np.diag([spacing, spacing, spacing, 1.0])
    entry = {"name": f"n{number}", "image": f"{number}_image.nii.gz"}
    entry["label"] = f"{number}_label.nii.gz"
    nib.save(nib.Nifti1Image(image.astype(np.int16), affine), folder / entry["image"])
    nib.save(nib.Nifti1Image(label, affine), folder / entry["label"])
    return entry


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six solid lesions of all sizes, three part-solid, one ground-glass, one without rating."""
    folder = tmp_path_factory.mktemp("rated")
    entries = []
    plan = [(5.0, s) for s in SIDES] + [(3.0, s) for s in (4, 5, 6)] + [(1.0, 6), (0.0, 6)]
    for number, (rating, side) in enumerate(plan):
        entry = write_lesion(folder, number, side, LEVELS.get(rating, 0.0), spacing=1.0)
        entries.append(entry | {"texture": rating})
    (folder / "datalist.json").write_text(json.dumps({"training": entries}))
    return folder


def test_subtypes_are_counted_and_kept_by_rating(dataset: Path, tmp_path: Path) -> None:
    content = collect_subtypes(str(dataset), tmp_path / "s.json", min_voxels=27)
    assert content["lesions"] == 10
    counts = {name: entry["count"] for name, entry in content["subtypes"].items()}
    assert counts == {"solid": 6, "part_solid": 3, "ground_glass": 1}
    assert content["subtypes"]["solid"]["frequency"] == 0.6
    for number, (name, level) in enumerate(
        zip(("solid", "part_solid", "ground_glass"), LEVELS.values(), strict=True)
    ):
        entry = content["subtypes"][name]
        assert entry["number"] == number
        assert entry["mean_hu"] == pytest.approx(level, abs=6)
        assert len(entry["histograms"]) == len(entry["diameters_mm"]) == counts[name]
        # bins of 35 HU from -1000 on
        assert abs(int(np.argmax(entry["medoid"])) - int((level + 1000) // 35)) <= 1
    spheres = [(6 * side**3 / np.pi) ** (1 / 3) for side in SIDES]
    assert content["subtypes"]["solid"]["diameters_mm"] == pytest.approx(spheres, abs=0.01)


def test_the_library_keeps_the_spread_of_sizes(dataset: Path, tmp_path: Path) -> None:
    content = collect_subtypes(str(dataset), tmp_path / "s.json", library=3, min_voxels=27)
    kept = content["subtypes"]["solid"]["diameters_mm"]
    edges = [(6 * side**3 / np.pi) ** (1 / 3) for side in (4.5, 6.5)]
    assert len(kept) == 3
    assert kept[0] < edges[0] < kept[1] < edges[1] < kept[2]
    again = collect_subtypes(str(dataset), tmp_path / "s2.json", library=3, min_voxels=27)
    assert again == content


def test_small_lesions_count_for_the_frequency_only(dataset: Path, tmp_path: Path) -> None:
    content = collect_subtypes(str(dataset), tmp_path / "s.json", min_voxels=200)
    solid = content["subtypes"]["solid"]
    assert (solid["count"], len(solid["histograms"])) == (6, 3)
    none = collect_subtypes(str(dataset), tmp_path / "s.json", min_voxels=300)["subtypes"]
    assert list(none) == ["solid"]


def test_the_limits_decide_the_subtype(dataset: Path, tmp_path: Path) -> None:
    content = collect_subtypes(
        str(dataset), tmp_path / "s.json", solid=3.0, part_solid=1.0, min_voxels=27
    )
    counts = {name: entry["count"] for name, entry in content["subtypes"].items()}
    assert counts == {"solid": 9, "part_solid": 1}
    assert content["rule"] == {"solid_from": 3.0, "part_solid_from": 1.0}


def test_the_command_writes_what_synthesis_reads(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "configs" / "subtypes.json"
    words = ["--dataset_dir", str(dataset), "--out", str(out), "--min_voxels", "27"]
    assert main(["subtypes", *words]) == 0
    assert "solid: 6 lesions, 6 kept" in capsys.readouterr().out
    library = read_subtypes(out)
    assert list(library) == ["solid", "part_solid", "ground_glass"]
    assert library["solid"].histograms.shape == (6, 40)
    assert not list(out.parent.glob(".*"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--dataset_dir", "nowhere"], "dataset_dir must"),
        (["--dataset_dir", "{data}", "--bins", "0"], "bins must be a whole number"),
        (["--dataset_dir", "{data}", "--window_hu", "400,-1000"], "window_hu must be two HU"),
        (["--dataset_dir", "{data}", "--solid", "2"], "part_solid_from and solid_from must"),
        (["--dataset_dir", "{plain}"], "dataset_dir must have a texture rating"),
    ],
)
def test_bad_input_is_one_sentence(
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    entry = write_lesion(tmp_path, 0, 5, 0.0, 1.0)
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [entry]}))
    given = [word.format(data=dataset, plain=tmp_path) for word in words]
    assert main(["subtypes", *given, "--out", str(tmp_path / "s.json")]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "s.json").exists()
