"""The phantom heart: what a short-axis stack shows, where infarcts lie, and its datalist."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from tools.phantoms import heart_datasets
from tools.phantoms.heart_anatomy import TERRITORIES
from tools.phantoms.heart_datasets import heart_datalist, write_heart_dataset, write_heart_phantom
from tools.phantoms.heart_mr import HeartPhantom, heart_mr

SHAPE, SPACING = (80, 80, 6), (2.0, 2.0, 15.0)
PLANE = ndimage.generate_binary_structure(2, 1)[:, :, None]


def small(**arguments: object) -> HeartPhantom:
    return heart_mr(SHAPE, SPACING, **arguments)


@pytest.fixture(scope="module")
def struck() -> HeartPhantom:
    """An anterior infarct with a core without flow."""
    return small(seed=1, territory="left_anterior_descending")


def medians(phantom: HeartPhantom) -> list[float]:
    return [float(np.median(phantom.image[phantom.label == value])) for value in (1, 2, 3, 4)]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_myocardium_is_dark_and_no_reflow_lies_between_it_and_infarct(seed: int) -> None:
    phantom = small(seed=seed)
    blood, myocardium, infarct, no_reflow = medians(phantom)
    assert myocardium + 150 < blood
    assert myocardium < no_reflow < infarct
    # measured in patients: between myocardium and blood 0.65 to 2 times the contrast
    assert 0.65 < (infarct - myocardium) / (blood - myocardium) < 2
    assert phantom.image.dtype == np.int16
    assert phantom.image.min() >= 0
    assert phantom.image.max() <= 4095


def test_wall_closes_round_the_cavity_in_every_slice_that_has_one(struck: HeartPhantom) -> None:
    cavity = struck.label == 1
    assert struck.label.any((0, 1)).all()
    assert cavity.any((0, 1)).sum() >= 5
    beside = ndimage.binary_dilation(cavity, PLANE) & ~cavity
    assert (struck.label[beside] >= 2).all()


def test_ventricle_tapers_to_the_apex(struck: HeartPhantom) -> None:
    area = (struck.label > 0).sum((0, 1))
    assert (np.diff(area[:4]) > 0).all()
    assert area[0] < 0.6 * area.max()
    millilitres = [(struck.label == v).sum() * 0.06 for v in (1, 2)]
    assert 40 < millilitres[0] < 250
    assert 50 < millilitres[1] < 250


def test_infarct_touches_the_cavity_and_holds_its_core(struck: HeartPhantom) -> None:
    cavity, dead, core = (np.isin(struck.label, v) for v in ((1,), (3, 4), (4,)))
    beside = ndimage.binary_dilation(cavity, PLANE) & ~cavity
    # every slice with necrosis has it at the inner layer
    slices = np.flatnonzero(dead.any((0, 1)))
    assert all((dead & beside)[..., k].any() for k in slices)
    around = ndimage.binary_dilation(core, PLANE) & ~core
    assert core.any()
    assert not np.isin(struck.label[around], (0, 2)).mean() > 0.1


@pytest.mark.parametrize("territory", list(TERRITORIES))
def test_infarct_lies_where_its_artery_runs(territory: str) -> None:
    phantom = small(seed=4, no_reflow=False, territory=territory)
    assert not (phantom.label == 4).any()
    dead = np.argwhere(phantom.label == 3)[:, :2].mean(0)
    middle = np.argwhere(phantom.label > 0)[:, :2].mean(0)
    to_left, to_back = dead - middle
    angle = np.rad2deg(np.arctan2(to_back, to_left))
    away = (angle - TERRITORIES[territory][0] + 180) % 360 - 180
    assert abs(away) < 45
    assert phantom.infarct is not None
    assert phantom.infarct["territory"] == territory


def test_healthy_heart_has_no_lesion() -> None:
    phantom = small(infarct=False)
    assert set(np.unique(phantom.label)) == {0, 1, 2}
    assert phantom.infarct is None


def test_same_seed_same_heart_and_others_differ(struck: HeartPhantom) -> None:
    again = small(seed=1, territory="left_anterior_descending")
    np.testing.assert_array_equal(struck.image, again.image)
    np.testing.assert_array_equal(struck.label, again.label)
    assert (small(seed=2).label != again.label).any()


def test_noise_is_gaussian_round_zero_signal_and_rician_in_the_magnitude() -> None:
    # outside the body, in front of the chest
    corner = (slice(0, 8), slice(0, 8))
    real = small(seed=5, noise=0.05).image[corner].astype(float)
    assert abs(real.mean() - 2048) < 15
    assert 35 < real.std() < 65
    magnitude = small(seed=5, noise=0.05, phase_sensitive=False).image[corner].astype(float)
    # Rayleigh: mean / std = sqrt(pi / (4 - pi))
    assert magnitude.mean() / magnitude.std() == pytest.approx(1.913, abs=0.25)
    quiet = small(seed=5, noise=0.0, phase_sensitive=False).image[corner]
    assert quiet.max() < 30


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"shape": (32, 80, 6)}, r"shape must be at least \(64, 64, 3\), got \(32, 80, 6\)"),
        ({"spacing_mm": (1.0, 0.0, 8.0)}, "spacing_mm must be three numbers > 0"),
        ({"noise": -1}, "noise must be >= 0, got -1"),
        ({"territory": "aorta"}, "territory must be one of .* got 'aorta'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        heart_mr(**arguments)


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hearts, drawn coarser than the embedded ones."""
    folder = tmp_path_factory.mktemp("hearts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heart_datasets, "_SIDE", 80)
        patch.setattr(heart_datasets, "_SPACING_MM", (2.0, 2.0, 10.0))
        write_heart_dataset(folder, sections={"training": 2, "validation": 1, "normal": 1})
    return folder


def test_entries_tell_where_the_heart_lies(hearts: Path) -> None:
    entries = {s: heart_datalist(hearts, s) for s in ("training", "validation", "normal")}
    patients = [entry["patient"] for section in entries.values() for entry in section]
    assert len(set(patients)) == len(patients) == 4
    assert not entries["normal"][0]["pathological"]
    for entry in entries["training"]:
        assert entry["phantom"] is entry["pathological"] is entry["has_no_reflow"] is True
        assert "phantom" in Path(entry["image"]).name
        image, label = nib.load(entry["image"]), nib.load(entry["label"])
        assert image.header["descrip"].item() == b"phantom"
        np.testing.assert_array_equal(image.affine, label.affine)
        assert 7 <= image.shape[2] == entry["slices"] <= 10
        # a window of 144 mm round the stated middle holds the whole heart
        middle = np.linalg.solve(image.affine, [*entry["heart_mm"], 1])[:2]
        inside = np.argwhere(np.asarray(label.dataobj) > 0)[:, :2]
        assert (np.abs(inside - middle) <= 36).all()
        voxel_ml = np.prod(entry["spacing_mm"]) / 1000
        infarct = (np.asarray(label.dataobj) == 3).sum() * voxel_ml
        assert entry["volumes_ml"]["infarct"] == pytest.approx(infarct, abs=1e-3)


def test_phantom_is_made_once_and_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def write_small(folder: Path) -> None:
        calls.append(folder)
        entry = {"image": "a.nii.gz", "label": "b.nii.gz"}
        (folder / "datalist.json").write_text(json.dumps({"training": [entry]}))

    monkeypatch.setattr(heart_datasets, "write_heart_dataset", write_small)
    for nothing in (None, ""):
        (entry,) = heart_datalist(nothing, "training", tmp_path)
    assert len(calls) == 1
    assert "running on the embedded phantom data" in caplog.text
    name = f"phantom-heart-{heart_datasets.HEART_PHANTOM_VERSION}"
    assert entry["image"] == str(tmp_path / name / "a.nii.gz")
    with pytest.raises(FileNotFoundError, match="dataset_dir must be an existing folder"):
        heart_datalist(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="section must be a non-empty list"):
        heart_datalist(None, "test", tmp_path)


def test_empty_sections_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sections must have at least one heart each"):
        write_heart_dataset(tmp_path, sections={"training": 0})


def test_single_heart_comes_with_a_record(tmp_path: Path) -> None:
    paths = write_heart_phantom(tmp_path, 3, SHAPE, SPACING)
    record = json.loads(Path(paths["record"]).read_text())
    assert record["phantom"] is True
    assert record["infarct"] is None
    assert set(np.unique(nib.load(paths["label"]).dataobj)) == {0, 1, 2}
    assert not list(tmp_path.glob(".*"))
