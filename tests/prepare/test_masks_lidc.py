"""Consensus masks of a small download whose nodules are known by hand."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine

from tests.prepare.lidc_download import box, chain_round, message, nodule, outlined, roi, write_scan
from tools.cli import main
from tools.dicom.series import read_series
from tools.prepare.lidc_split import lidc_split
from tools.prepare.masks import prepare_masks

WHOLE = box((20, 30), (20, 30), (14, 20))
CORE = box((20, 24), (20, 30), (14, 20))
SPECK = box((44, 45), (44, 45), (16, 17))
PATIENTS = {"train": "LIDC-IDRI-0001", "val": "LIDC-IDRI-0007", "test": "LIDC-IDRI-0002"}


def sessions(uids: list[str]) -> list[str]:
    marked = outlined(WHOLE, uids)
    speck = roi(uids[16], chain_round(SPECK[..., 16]))
    return [
        nodule("1", marked + speck, 5),
        nodule("2", outlined(WHOLE, uids), 4),
        nodule("3", outlined(CORE, uids), 3),
        nodule("4", outlined(CORE, uids), 2),
    ]


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One patient of each split, and the marks of a scan that was not downloaded."""
    root = tmp_path_factory.mktemp("download")
    for patient in PATIENTS.values():
        folder, uids = write_scan(root, patient, WHOLE)
        (folder / "069.xml").write_text(message(sessions(uids)))
    (root / "lone.xml").write_text(message(sessions(uids), "1.9.404"))
    return root


def test_patients_are_what_the_rule_says() -> None:
    assert {lidc_split(patient) for patient in PATIENTS.values()} == set(PATIENTS)
    assert all(lidc_split(patient) == split for split, patient in PATIENTS.items())


def test_masks_lie_where_they_were_drawn(download: Path, tmp_path: Path) -> None:
    summary = prepare_masks(download, tmp_path)
    assert summary == {
        "training": 1,
        "validation": 1,
        "left_out": {"annotation files without DICOM series": 1, "test patients": 1},
        "broken": {},
    }
    datalist = json.loads((tmp_path / "datalist.json").read_text())
    (entry,) = datalist["validation"]
    assert entry["patient"] == PATIENTS["val"]
    assert datalist["training"][0]["patient"] == PATIENTS["train"]
    assert (entry["readers"], entry["spiculation"], entry["malignancy"]) == (4, 3.5, 3.5)
    label = nib.Nifti1Image.load(tmp_path / entry["label"])
    mask = np.asarray(label.dataobj)
    assert label.get_data_dtype() == np.uint8
    assert mask.sum() == pytest.approx(WHOLE.sum(), rel=0.1)  # half of the readers hold it all
    series = read_series(download / PATIENTS["val"] / "study" / "series", pixels=False)
    expected = apply_affine(series.affine, np.argwhere(WHOLE).mean(0))
    found = apply_affine(label.affine, np.argwhere(mask).mean(0))
    np.testing.assert_allclose(found, expected, atol=0.1)
    np.testing.assert_array_equal(np.diag(label.affine), [-1, -1, 1, 1])
    assert sorted(p.name for p in (tmp_path / "masks").iterdir()) == [
        "LIDC-IDRI-0001_s1_n01.nii.gz",
        "LIDC-IDRI-0007_s1_n01.nii.gz",
    ]


def test_agreement_and_readers(download: Path, tmp_path: Path) -> None:
    prepare_masks(download, tmp_path, agreement=0.75)
    entries = json.loads((tmp_path / "datalist.json").read_text())["training"]
    mask = np.asarray(nib.Nifti1Image.load(tmp_path / entries[0]["label"]).dataobj)
    assert mask.sum() == pytest.approx(CORE.sum(), rel=0.1)


def test_xml_alone_says_what_is_missing(
    download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "xml"
    source.mkdir()
    shutil.copy(download / "lone.xml", source)
    code = main(["prepare", "masks", "--source", str(source), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert code == 1
    assert "XML has no pixel spacing, got 1 XML files and no CT series below" in error
    assert error.splitlines()[-1].startswith("error: source must hold the DICOM files")
    assert not (tmp_path / "out").exists()


def test_broken_series_are_named_and_the_rest_is_written(
    download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "download"
    shutil.copytree(download, source)
    series = source / PATIENTS["train"] / "study" / "series"
    next(series.glob("*000010.dcm")).unlink()
    code = main(["prepare", "masks", "--source", str(source), "--out", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert code == 1
    assert "1 series could not be prepared:" in captured.err
    assert f"{PATIENTS['train']}_s1: series must be complete" in captured.err
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 1
