"""A small download whose consensus masks are known by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from monai.data import decollate_batch
from nibabel.affines import apply_affine

from tests.prepare.lidc_download import (
    SHAPE,
    XML,
    box,
    message,
    nodule,
    outlined,
    roi,
    write_scan,
)
from tools.cli import main
from tools.dicom.series import DicomSeries, read_series
from tools.prepare import lidc_rois
from tools.prepare.lidc import find_scans, prepare_lidc, validation_patient
from tools.prepare.lidc_rois import RoiSettings
from tools.prepare.lidc_xml import RATINGS

SETTINGS = RoiSettings(size=(24, 24, 16), normal_rois=2)
FIRST = box((20, 30), (20, 30), (14, 20))
FIRST_CORE = box((20, 24), (20, 30), (14, 20))  # what all four readers hold
LONE = box((40, 46), (40, 46), (30, 34))
COLUMNS, ROWS = np.ogrid[: SHAPE[0], : SHAPE[1]]
DISC = np.repeat(((COLUMNS - 33.5) ** 2 + (ROWS - 31.5) ** 2 < 6**2)[..., None], SHAPE[2], axis=2)
DISC[..., :20] = DISC[..., 26:] = False


def write_download(root: Path) -> Path:
    """Three patients: four readers, three readers and slices in descending order, none."""
    folder, uids = write_scan(root, "LIDC-A", FIRST | LONE)
    lone = nodule("lone", outlined(LONE, uids), 1)
    sessions = [
        nodule("1", outlined(FIRST, uids), 5) + lone,
        nodule("a", outlined(FIRST, uids), 4) + lone,
        nodule("x", outlined(FIRST_CORE, uids), 4),
        nodule("IL", outlined(FIRST_CORE, uids), 2),
    ]
    (folder / "069.xml").write_text(message(sessions))
    folder, uids = write_scan(root, "LIDC-B", DISC, descending=True)
    sessions = [nodule("n", outlined(DISC, uids), rating) for rating in (1, 2, 3)]
    (folder / "070.xml").write_text(message(sessions))
    folder, uids = write_scan(root, "LIDC-C", box((50, 53), (12, 15), (4, 7)))
    point = nodule("small", roi(uids[5], np.array([[51, 13]])), None)
    other = f"<nonNodule><imageSOP_UID>{uids[9]}</imageSOP_UID></nonNodule>"
    (root / "elsewhere.xml").write_text(message([point + other, ""], "1.9.67"))
    radiograph = root / "LIDC-C" / "chest"
    radiograph.mkdir()
    (radiograph / "071.xml").write_text(f'<IdriReadMessage xmlns="{XML}"/>')
    return root


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_download(tmp_path_factory.mktemp("download"))


@pytest.fixture(scope="module")
def prepared(download: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("prepared")
    return out, prepare_lidc(download, out, SETTINGS, workers=1, validation_fraction=0.5)


def datalist(out: Path) -> dict[str, Any]:
    return json.loads((out / "datalist.json").read_text())


def entries(out: Path) -> dict[str, dict[str, Any]]:
    content = datalist(out)
    return {entry["patient"]: entry for entry in content["training"] + content["validation"]}


def voxels_in_scan(out: Path, entry: dict[str, Any], series: DicomSeries) -> np.ndarray:
    """The label's voxels as a mask of the scan."""
    label = nib.load(out / entry["label"])
    points = apply_affine(label.affine, np.argwhere(np.asarray(label.dataobj)))
    index = apply_affine(np.linalg.inv(series.affine), points)
    np.testing.assert_allclose(index, index.round(), atol=1e-4)
    mask = np.zeros(series.image.shape, bool)
    mask[tuple(index.round().astype(int).T)] = True
    return mask


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_consensus_masks_are_those_drawn(download: Path, prepared: tuple[Path, dict]) -> None:
    out, summary = prepared
    assert summary["training"] + summary["validation"] == 2
    assert summary["broken"] == {}
    assert summary["left_out"] == {"too few readers": 1}
    for patient, expected in (("LIDC-A", FIRST), ("LIDC-B", DISC)):
        entry = entries(out)[patient]
        series = read_series(download / patient / "study" / "series")
        np.testing.assert_array_equal(voxels_in_scan(out, entry, series), expected)
        image, label = (nib.load(out / entry[key]) for key in ("image", "label"))
        assert image.shape == label.shape == (24, 24, 16)
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        values, inside = np.asarray(image.dataobj), np.asarray(label.dataobj) > 0
        assert set(np.unique(values[inside])) == {30}  # windows lie on the voxels of these scans
        assert entry["volume_mm3"] == expected.sum()
    assert entries(out)["LIDC-A"]["readers"] == 4


def test_agreement_and_min_readers(download: Path, tmp_path: Path) -> None:
    settings = SETTINGS._replace(agreement=0.75, min_readers=2, normal_rois=0)
    summary = prepare_lidc(download, tmp_path, settings, workers=1, validation_fraction=0.0)
    assert summary["training"] == 3
    series = read_series(download / "LIDC-A" / "study" / "series")
    found = [e for e in datalist(tmp_path)["training"] if e["patient"] == "LIDC-A"]
    masks = {e["readers"]: voxels_in_scan(tmp_path, e, series) for e in found}
    np.testing.assert_array_equal(masks[4], FIRST_CORE)
    np.testing.assert_array_equal(masks[2], LONE)


def test_ratings_are_kept_by_reader(prepared: tuple[Path, dict]) -> None:
    by_patient = entries(prepared[0])
    assert by_patient["LIDC-A"]["ratings"] == {key: [5, 4, 4, 2] for key in RATINGS}
    assert by_patient["LIDC-A"]["ratings_mean"] == dict.fromkeys(RATINGS, 3.75)
    assert by_patient["LIDC-B"]["ratings"]["texture"] == [1, 2, 3, 0]
    assert by_patient["LIDC-B"]["ratings_mean"]["malignancy"] == 2.0


def test_normal_windows_touch_no_mark(download: Path, prepared: tuple[Path, dict]) -> None:
    out, _ = prepared
    normal = datalist(out)["normal"]
    assert any(entry["patient"] == "LIDC-C" for entry in normal)
    for entry in normal:
        image, lung = (
            np.asarray(nib.load(out / entry[key]).dataobj) for key in ("image", "organ_mask")
        )
        assert image.dtype == np.int16
        assert image.shape == lung.shape == (24, 24, 16)
        assert lung.mean() >= 0.3
        assert not (image == 30).any()


def test_split_is_by_patient(download: Path, prepared: tuple[Path, dict]) -> None:
    content = datalist(prepared[0])
    sections = {name: {e["patient"] for e in content[name]} for name in ("training", "validation")}
    assert not sections["training"] & sections["validation"]
    for patient in ("LIDC-A", "LIDC-B"):
        section = "validation" if validation_patient(patient, 0, 0.5) else "training"
        assert patient in sections[section]
    for entry in content["normal"]:
        expected = "validation" if validation_patient(entry["patient"], 0, 0.5) else "training"
        assert entry["section"] == expected
    share = np.mean([validation_patient(f"LIDC-IDRI-{n:04d}", 0, 0.2) for n in range(1000)])
    assert share == pytest.approx(0.2, abs=0.04)


@pytest.mark.slow  # each worker imports torch anew
def test_two_workers_write_the_same(
    download: Path, prepared: tuple[Path, dict], tmp_path: Path
) -> None:
    out, summary = prepared
    assert prepare_lidc(download, tmp_path, SETTINGS, 2, 0.5) == summary
    assert tree(tmp_path) == tree(out)


def test_training_config_loads_the_windows(prepared: tuple[Path, dict], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(prepared[0], out)
    content = datalist(out)
    content["training"] += content["validation"]
    (out / "datalist.json").write_text(json.dumps(content))
    parser = ConfigParser()
    parser.read_config("bundles/lefusion_lidc/configs/train.json")
    parser["dataset_dir"], parser["device"] = str(out), "cpu"
    loader = parser.get_parsed_content("train#dataloader")
    batches = list(loader)
    assert len(batches) == 1
    for batch in batches:
        assert batch["image"].shape == batch["label"].shape == (2, 1, 24, 24, 24)
        assert batch["image"].min() >= -1
        assert (batch["label"].sum((1, 2, 3, 4)) > 0).all()
        assert len(decollate_batch(batch)) == 2


def test_resume_redoes_only_what_is_not_done(
    download: Path, prepared: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, summary = prepared
    calls: list[str] = []
    read = lidc_rois.read_series

    def stop_at_second(folder: Path) -> DicomSeries:
        calls.append(folder.parts[-3])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(folder)

    monkeypatch.setattr(lidc_rois, "read_series", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        prepare_lidc(download, tmp_path, SETTINGS, 1, 0.5)
    assert [p.name for p in (tmp_path / "rois").iterdir()] == ["LIDC-A"]
    assert prepare_lidc(download, tmp_path, SETTINGS, 1, 0.5) == summary
    assert calls == ["LIDC-A", "LIDC-B", "LIDC-B", "LIDC-C"]
    assert tree(tmp_path) == tree(out)
    with pytest.raises(ValueError, match="out must be a new folder or one prepared with the same"):
        prepare_lidc(download, tmp_path, SETTINGS._replace(agreement=0.6), 1, 0.5)


def test_broken_patients_are_named_and_others_done(
    download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "download", tmp_path / "out"
    shutil.copytree(download, root)
    next((root / "LIDC-A").rglob("000007.dcm")).unlink()
    (root / "elsewhere.xml").unlink()
    command = ["prepare", "lidc", "--dicom", str(root), "--out", str(out), "--workers", "1"]
    command += ["--size", "24,24,16", "--normal_rois", "0"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "2 patients could not be prepared" in error
    assert "LIDC-A: series must be complete, got 1 missing" in error
    assert "LIDC-C: series must have one LidcReadMessage XML, got []" in error
    assert set(entries(out)) == {"LIDC-B"}
    assert sorted(p.name for p in (out / "rois").iterdir()) == ["LIDC-B"]
    shutil.rmtree(root / "LIDC-A")
    shutil.rmtree(root / "LIDC-C")
    assert main(command) == 0


@pytest.mark.parametrize(
    ("change", "message_"),
    [
        ({"agreement": 0.0}, "agreement must be above 0, at most 1, got 0.0"),
        ({"min_readers": 5}, "min_readers must be from 1 to 4, got 5"),
        ({"size": (64, 64)}, "size must be three numbers of voxels"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, change: dict[str, Any], message_: str) -> None:
    with pytest.raises(ValueError, match=message_):
        prepare_lidc(tmp_path, tmp_path / "out", RoiSettings()._replace(**change))


def test_no_scans(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dicom must be an existing folder"):
        find_scans(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="dicom must hold CT series"):
        find_scans(tmp_path)
