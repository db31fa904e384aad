"""Runs with --output_format dicom: completed, resumed, never half; hearts; a real scan."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from scipy import ndimage

from tests.dicom.dicom_case import as_mr, twelve_bits
from tests.dicom_series import write_dicom_series
from tests.synthesis.jobs import heart_job, lung_job
from tests.synthesis.test_run import contents
from tools.cli import main
from tools.files import MARK
from tools.phantoms.heart_mr import heart_mr
from tools.report.page import PageReport
from tools.scans.scan import Scan
from tools.synthesis.cases import Case, find_cases
from tools.synthesis.dicom import derived as dicom_out
from tools.synthesis.ranks import Rank
from tools.synthesis.records import read_record
from tools.synthesis.run import synthesize_scans
from tools.synthesis.synthesizer import Synthesizer

Make = Callable[..., list[dict[str, Any]]]


def write_scan(
    folder: Path,
    scan: Scan,
    edit: Callable[[int, Dataset], None],
    intercept: float,
    slope: float = 1.0,
) -> Path:
    """Write a scan as a DICOM series, its last slice at the bottom of the patient."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine
    across, down = (lps[:3, k] / np.linalg.norm(lps[:3, k]) for k in (0, 1))
    write_dicom_series(
        folder,
        np.rint((scan.image - intercept) / slope).astype(int).T,
        # header numbers have 16 characters
        positions=[
            [round(float(v), 6) for v in (lps @ [0, 0, k, 1])[:3]]
            for k in range(scan.stored.shape[2])
        ],
        spacing=tuple(round(float(s), 6) for s in scan.spacing_mm[1::-1]),
        orientation=[round(float(v), 8) for v in (*across, *down)],
        intercept=intercept,
        slope=slope,
        edit=edit,
    )
    return folder


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """Two chests as series, each with an organ mask; the second has steps of 3 HU."""
    found = []
    for number, name in enumerate("ab"):
        values = np.random.default_rng(number).normal(-850, 30, (44, 44, 36)).astype(np.int16)
        scan = Scan(nib.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])))
        organ = np.zeros(values.shape, np.uint8)
        organ[3:-3, 3:-3, 3:-3] = 1
        scan.write_label(tmp_path / f"{name}_lung.nii.gz", organ)
        folder = write_scan(tmp_path / "scans" / name, scan, twelve_bits, -1024.0, 1.0 + 2 * number)
        found.append(Case(name, folder, tmp_path / f"{name}_lung.nii.gz"))
    return found


@pytest.fixture
def job() -> Synthesizer:
    return lung_job(count=2)


@pytest.fixture
def make(cases: list[Case], job: Synthesizer) -> Make:
    def run(out: Path, output_format: str = "dicom") -> list[dict[str, Any]]:
        report = PageReport((-1000, 400))
        return synthesize_scans(cases, out, job, Rank(), output_format, report)

    return run


def segmented(folder: Path) -> np.ndarray:
    """Return how many lesions cover each voxel, by the slices that the frames refer to."""
    uids = [
        pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID
        for path in sorted((folder / "dicom").glob("*.dcm"))
    ]
    found = pydicom.dcmread(folder / "segmentation.dcm")
    total = np.zeros((found.Columns, found.Rows, len(uids)), np.uint8)
    frames = zip(found.pixel_array, found.PerFrameFunctionalGroupsSequence, strict=True)
    for frame, groups in frames:
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        total[..., uids.index(source.ReferencedSOPInstanceUID)] += frame.T
    return total


def test_series_in_series_out(cases: list[Case], make: Make, tmp_path: Path) -> None:
    made = make(tmp_path / "out")
    for case, entry in zip(cases, made, strict=True):
        folder = entry["folder"]
        assert sorted(path.name for path in folder.iterdir()) == [
            MARK,
            "dicom",
            "image.nii.gz",
            "label.nii.gz",
            "lesions.json",
            "report.html",
            "segmentation.dcm",
        ]
        before, after = Scan(case.path), Scan(folder / "dicom")
        label = Scan(folder / "label.nii.gz").stored
        np.testing.assert_array_equal(after.stored, Scan(folder / "image.nii.gz").stored)
        np.testing.assert_array_equal(after.stored[label == 0], before.stored[label == 0])
        assert (after.stored != before.stored).any()
        np.testing.assert_array_equal(segmented(folder), label)
        assert len(pydicom.dcmread(folder / "segmentation.dcm").SegmentSequence) == 2
        volumes = [lesion.volume_mm3 for lesion in read_record(folder / "lesions.json").lesions]
        assert sum(volumes) == pytest.approx(int(label.sum()))
        assert "0 voxels" in (folder / "report.html").read_text()


def test_nifti_cases_are_completed_without_sampling(
    make: Make, job: Synthesizer, tmp_path: Path
) -> None:
    make(tmp_path / "once")
    out = tmp_path / "out"
    make(out, "nifti")
    assert not (out / "a" / "dicom").exists()
    sampled = job.texturer.sampled
    assert len(make(out)) == 2
    assert contents(out) == contents(tmp_path / "once")
    stamp = (out / "a" / "dicom" / "slice_0001.dcm").stat().st_mtime_ns
    for damaged in ("dicom/slice_0007.dcm", "segmentation.dcm"):
        (out / "b" / damaged).unlink()
        assert len(make(out)) == 2
        assert contents(out) == contents(tmp_path / "once")
    assert (out / "a" / "dicom" / "slice_0001.dcm").stat().st_mtime_ns == stamp
    make(out, "nifti")  # what is there already stays
    assert contents(out) == contents(tmp_path / "once")
    assert job.texturer.sampled == sampled


@pytest.mark.parametrize("finished", [False, True], ids=["new case", "case being completed"])
def test_interrupted_writing_leaves_no_half_series(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    make(tmp_path / "whole")
    out, save = tmp_path / "out", dicom_out._save
    if finished:
        make(out, "nifti")

    def stop(dataset: Dataset, path: Path) -> None:
        save(dataset, path)
        if path.name == "slice_0009.dcm":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dicom_out, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            make(out)
    assert not list(out.rglob("*.dcm"))
    assert not list(out.rglob(".*.partial"))
    assert len(make(out)) == 2
    assert contents(out) == contents(tmp_path / "whole")


def test_other_scans_and_formats_are_refused_before_any_work(
    make: Make, job: Synthesizer, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="output_format must be one of nifti, dicom, got 'nrrd'"):
        make(tmp_path / "out", "nrrd")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "c.nii.gz")
    with pytest.raises(ValueError, match=r"needs DICOM series as scans .* first is c\.nii\.gz"):
        synthesize_scans([Case("c", tmp_path / "c.nii.gz")], tmp_path / "out", job, None, "dicom")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write anywhere")
def test_read_only_output_is_one_sentence(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="out"):
        make(out)


@pytest.mark.parametrize("infarct", [False, True], ids=["healthy", "with an infarct"])
def test_heart_of_raw_values(tmp_path: Path, infarct: bool) -> None:
    phantom = heart_mr((72, 64, 6), (1.4, 1.4, 9.0), seed=3)
    scan = Scan(nib.Nifti1Image(np.rint(phantom.image).astype(np.int16), phantom.affine))
    organ = np.minimum(phantom.label, 2).astype(np.uint8)
    if infarct:
        wall = np.argwhere(organ == 2)
        organ[tuple(wall[wall[:, 0] > wall[:, 0].mean() + 8].T)] = 3  # lies there already
    scan.write_label(tmp_path / "organ.nii.gz", organ)

    def edit(k: int, header: Dataset) -> None:
        twelve_bits(k, header)
        as_mr(k, header)

    case = Case("h", write_scan(tmp_path / "h", scan, edit, 0.0), tmp_path / "organ.nii.gz")
    folder = synthesize_scans([case], tmp_path / "out", heart_job(), None, "dicom")[0]["folder"]
    after, label = Scan(folder / "dicom"), Scan(folder / "label.nii.gz").stored
    np.testing.assert_array_equal(after.stored, Scan(folder / "image.nii.gz").stored)
    assert pydicom.dcmread(folder / "dicom" / "slice_0001.dcm").Modality == "MR"
    source = Scan(case.path)
    old = source.load_labels(case.organ_mask, "organ_mask")
    np.testing.assert_array_equal(after.stored[label == old], source.stored[label == old])
    new = (label > 2) & (old <= 2)
    assert new.any()
    assert infarct == (old > 2).any()
    np.testing.assert_array_equal(segmented(folder) > 0, new)


@pytest.mark.real
@pytest.mark.slow
def test_a_real_chest_through_the_command(shared_dir: Path, tmp_path: Path) -> None:
    folder = shared_dir / "data" / "lung_ct"
    scan = Scan(folder / "case1_image.nii.gz")
    series = write_scan(tmp_path / "chest", scan, twelve_bits, -1024.0)
    lung = ndimage.binary_erosion(scan.image < -600, iterations=3)
    scan.write_label(tmp_path / "lung.nii.gz", lung)
    words = ["synthesize", "--scan", str(series), "--organ_mask", str(tmp_path / "lung.nii.gz")]
    words += ["--out", str(tmp_path / "out"), "--count", "1", "--steps", "3", "--attempts", "1"]
    words += ["--jump_n_sample", "1", "--shape", "ellipsoid", "--diameter_mm", "10"]
    words += ["--texture", "solid", "--device", "cpu", "--output_format", "dicom"]
    assert main(words) == 0
    case = tmp_path / "out" / "chest"
    before, after = Scan(series), Scan(case / "dicom")
    label = Scan(case / "label.nii.gz").stored
    assert label.any()
    np.testing.assert_array_equal(after.stored, Scan(case / "image.nii.gz").stored)
    far = ndimage.distance_transform_edt(label == 0, sampling=before.spacing_mm) >= 2
    np.testing.assert_array_equal(after.stored[far], before.stored[far])
    np.testing.assert_array_equal(segmented(case), label)
    assert len(find_cases(case / "dicom")) == 1
