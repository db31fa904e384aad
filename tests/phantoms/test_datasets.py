import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.phantoms import datasets
from tools.phantoms.datasets import lesion_datalist, write_chest_phantom, write_lesion_rois


@pytest.fixture(scope="module")
def roi_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_lesion_rois(folder, count=6)
    return folder


def test_rois_are_int16_cubes_of_one_millimetre_with_labels(roi_dir: Path) -> None:
    entries = lesion_datalist(roi_dir, "training")
    assert len(entries) == 4
    for entry in entries:
        image, label = nib.load(entry["image"]), nib.load(entry["label"])
        assert image.shape == label.shape == (32, 32, 32)
        assert image.get_data_dtype() == np.int16
        assert label.get_data_dtype() == np.uint8
        assert image.header.get_zooms() == (1.0, 1.0, 1.0)
        assert image.header["descrip"].item() == b"phantom"
        assert set(np.unique(label.dataobj)) == {0, 1}
        assert entry["phantom"] is True


def test_textures_come_out_in_order_of_density(roi_dir: Path) -> None:
    means = {"ground_glass": [], "part_solid": [], "solid": []}
    for section in ("training", "validation"):
        for entry in lesion_datalist(roi_dir, section):
            inside = np.asarray(nib.load(entry["label"]).dataobj) > 0
            means[entry["texture"]].append(np.asarray(nib.load(entry["image"]).dataobj)[inside])
    values = {name: np.mean([part.mean() for part in parts]) for name, parts in means.items()}
    assert values["ground_glass"] < -250 < values["part_solid"] < -50 < values["solid"] < 120


def test_sections_share_no_nodule(roi_dir: Path) -> None:
    sections = json.loads((roi_dir / "datalist.json").read_text())
    images = [entry["image"] for name in ("training", "validation") for entry in sections[name]]
    assert len(set(images)) == 6
    assert len(sections["validation"]) == 2


def test_sections_share_no_patient(roi_dir: Path) -> None:
    datalist = json.loads((roi_dir / "datalist.json").read_text())
    training, validation = (
        {entry["patient"] for entry in datalist[section]} for section in ("training", "validation")
    )
    assert training
    assert validation
    assert not training & validation


@pytest.mark.skipif(not find_spec("pylidc"), reason="the package pylidc is not installed")
def test_a_patient_stays_on_one_side_for_every_seed(tmp_path: Path) -> None:
    sides: dict[str, set[str]] = {"training": set(), "validation": set()}
    for seed in (0, 5):
        datalist = write_lesion_rois(tmp_path / str(seed), count=6, seed=seed)
        for section, patients in sides.items():
            patients |= {entry["patient"] for entry in datalist[section]}
    assert not sides["training"] & sides["validation"]


def test_same_seed_same_files(roi_dir: Path, tmp_path: Path) -> None:
    write_lesion_rois(tmp_path, count=6)
    for name in ("phantom_000_image.nii.gz", "phantom_005_label.nii.gz"):
        arrays = [np.asarray(nib.load(f / "rois" / name).dataobj) for f in (roi_dir, tmp_path)]
        np.testing.assert_array_equal(*arrays)


@pytest.mark.parametrize("nothing", [None, ""])
def test_without_a_dataset_the_phantom_is_made_once_and_announced(
    nothing: str | None,
    roi_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[Path] = []

    def write_small(folder: Path) -> None:
        calls.append(folder)
        shutil.copytree(roi_dir, folder, dirs_exist_ok=True)

    monkeypatch.setattr(datasets, "write_lesion_rois", write_small)
    with caplog.at_level(logging.WARNING):
        entries = lesion_datalist(nothing, "validation", tmp_path)
        assert lesion_datalist(nothing, "training", tmp_path)
    assert len(calls) == 1
    assert "running on the embedded phantom data" in caplog.text
    assert Path(entries[0]["image"]).is_file()
    assert [path.name for path in tmp_path.iterdir()] == [f"phantom-{datasets.PHANTOM_VERSION}"]


def test_simultaneous_first_uses_agree(
    roi_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        datasets,
        "write_lesion_rois",
        lambda folder: shutil.copytree(roi_dir, folder, dirs_exist_ok=True),
    )
    with ThreadPoolExecutor(4) as pool:
        lists = list(pool.map(lambda _: lesion_datalist(None, "training", tmp_path), range(4)))
    assert all(entries == lists[0] for entries in lists)
    assert len(list(tmp_path.iterdir())) == 1


def test_named_dataset_is_never_replaced(tmp_path: Path, roi_dir: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no_such_place"):
        lesion_datalist(tmp_path / "no_such_place")
    with pytest.raises(FileNotFoundError, match=r"must hold datalist\.json"):
        lesion_datalist(tmp_path)
    with pytest.raises(ValueError, match=r"\['training', 'validation'\], got 'test'"):
        lesion_datalist(roi_dir, "test")
    (tmp_path / "datalist.json").write_text('{"training": []}')
    with pytest.raises(ValueError, match="section must be a non-empty list"):
        lesion_datalist(tmp_path)


def test_too_few_or_too_small_cubes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="count must be >= 3"):
        write_lesion_rois(tmp_path, count=2)


def test_chest_files_say_phantom(tmp_path: Path) -> None:
    paths = write_chest_phantom(tmp_path, shape=(48, 40, 36), spacing_mm=8.0)
    image, lung = nib.load(paths["image"]), nib.load(paths["lung"])
    assert Path(paths["image"]).name == "phantom_chest_image.nii.gz"
    assert image.header["descrip"].item() == b"phantom"
    np.testing.assert_array_equal(image.affine, lung.affine)
    record = json.loads(Path(paths["record"]).read_text())
    assert record["phantom"] is True
    assert record["lesions"] == []
    assert "label" not in paths
    assert not list(tmp_path.glob(".*.partial"))
