"""With --deidentify, nothing that is written or said tells who the patient is."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.dicom.dicom_case import noisy_lung, twelve_bits
from tests.dicom.test_run import write_scan
from tests.synthesis.jobs import lung_job
from tools.report.page import PageReport
from tools.scans.scan import Scan
from tools.synthesis.cases import Case
from tools.synthesis.ranks import Rank
from tools.synthesis.run import synthesize_scans

WORDS = ["Mustermann", "Erika", "PAT4711", "ACC0815", "Zauberberg", "Dr^Behrens", "19240101"]
STUDY = "1.2.276.0.4711.1"


def told(k: int, header: Dataset) -> None:
    """Write who the patient is wherever files of hospitals have it, and where none should."""
    twelve_bits(k, header)
    header.StudyInstanceUID = STUDY
    header.PatientName, header.PatientID = "Mustermann^Erika", "PAT4711"
    header.PatientBirthDate = header.StudyDate = header.ContentDate = "19240101"
    header.SeriesDate = header.AcquisitionDate = "19240101"
    header.AccessionNumber, header.InstitutionName = "ACC0815", "Zauberberg"
    header.ReferringPhysicianName = header.OperatorsName = "Dr^Behrens"
    header.StudyDescription = "Thorax Mustermann"
    header.SeriesDescription = "for Dr^Behrens"
    header.ImageComments = "call Erika"
    header.DerivationDescription = "made at Zauberberg"
    header.ConvolutionKernel = "B30 pat4711"  # the profile would keep it
    header.private_block(0x0029, "SOMEBODY", create=True).add_new(1, "LO", "Mustermann")
    inner = Dataset()
    inner.PatientID, inner.StudyInstanceUID = "PAT4711", STUDY
    inner.private_block(0x0031, "ELSE", create=True).add_new(1, "LO", "Zauberberg")
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99X", "Erika's chest"
    code.RequestingPhysician = "Dr^Behrens"
    inner.AnatomicRegionSequence = Sequence([code])
    header.ReferencedStudySequence = Sequence([inner])
    header.AnatomicRegionSequence = Sequence([code])
    header.preamble = b"Mustermann^Erika".ljust(128, b"\0")


@pytest.fixture
def series(tmp_path: Path) -> Case:
    scan = noisy_lung(tmp_path)
    folder = write_scan(tmp_path / "in" / "Mustermann_PAT4711", scan, told, -1024.0)
    return Case("Mustermann_PAT4711", folder, tmp_path / "lung.nii.gz")


@pytest.fixture
def run(series: Case) -> Callable[..., list]:
    def make(out: Path, deidentify: bool = True, output_format: str = "dicom") -> list:
        report = PageReport((-1000, 400))
        return synthesize_scans(
            [series], out, lung_job(count=1), Rank(), output_format, report, deidentify
        )

    return make


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_no_word_of_the_patient_is_left(
    run: Callable[..., list], tmp_path: Path, caplog: pytest.LogCaptureFixture, series: Case
) -> None:
    with caplog.at_level(logging.INFO):
        (made,) = run(tmp_path / "out")
    written = files(tmp_path / "out")
    assert {Path(name).suffix for name in written} >= {".dcm", ".json", ".html", ".gz"}
    uids = {str(e.value) for e in pydicom.dcmread(next(series.path.iterdir())) if e.VR == "UI"}
    own = [uid for uid in uids if not uid.startswith("1.2.840.10008.")]
    assert {"1.2.3", STUDY, "1.2.10"} <= set(own)
    for name, content in [*written.items(), ("log", caplog.text.encode())]:
        for word in WORDS:
            assert word.lower().encode() not in (name.encode() + content).lower(), (name, word)
    for path in (tmp_path / "out").rglob("*.dcm"):
        item = pydicom.dcmread(path)
        values = [str(e.value) for e in item.iterall()] + [str(v) for v in item.file_meta.values()]
        assert not set(own) & set(values)
        assert not any(element.tag.is_private for element in item.iterall())
        assert item.PatientIdentityRemoved == "YES"
        assert "Basic Application Level Confidentiality Profile" in item.DeidentificationMethod
        assert item.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert "are de-identified by the basic profile" in caplog.text
    # the picture is the one that is asked for
    image = Scan(made["folder"] / "dicom").stored
    np.testing.assert_array_equal(image, Scan(made["folder"] / "image.nii.gz").stored)


def test_series_and_segmentation_still_belong_together_and_a_rerun_is_equal(
    run: Callable[..., list], tmp_path: Path
) -> None:
    folder = run(tmp_path / "out")[0]["folder"]
    first = pydicom.dcmread(folder / "dicom" / "slice_0001.dcm")
    segmentation = pydicom.dcmread(folder / "segmentation.dcm")
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert first[name].value == segmentation[name].value != ""
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == first.SeriesInstanceUID
    assert segmentation.SegmentSequence[0].SegmentLabel == "synthetic nodule 1"
    assert first.SeriesDescription == "SYNTHETIC lesions"
    run(tmp_path / "again")
    one, two = files(tmp_path / "out"), files(tmp_path / "again")
    assert one.keys() == two.keys()
    assert all(one[name] == two[name] for name in one if name.endswith(".dcm"))
    run(tmp_path / "out")  # is complete: kept
    assert files(tmp_path / "out") == one


def test_derived_files_without_say_that_they_carry_the_patient(
    run: Callable[..., list], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        folder = run(tmp_path / "out", deidentify=False)[0]["folder"]
    assert "carry the patient's name, numbers and dates as the source does" in caplog.text
    assert pydicom.dcmread(folder / "segmentation.dcm").PatientID == "PAT4711"
    with pytest.raises(ValueError, match="must hold de-identified cases only with deidentify"):
        run(tmp_path / "out")
    with pytest.raises(ValueError, match="deidentify must go with output_format dicom, got nifti"):
        run(tmp_path / "nifti", output_format="nifti")
    assert not (tmp_path / "nifti").exists()


def test_words_in_the_pixels_are_refused_before_sampling(
    run: Callable[..., list], series: Case, tmp_path: Path
) -> None:
    path = sorted(series.path.iterdir())[3]
    item = pydicom.dcmread(path)
    item.BurnedInAnnotation = "YES"
    item.save_as(path)
    with pytest.raises(ValueError, match=r"got BurnedInAnnotation YES in .*003\.dcm"):
        run(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
