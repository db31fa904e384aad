"""The segmentation: the voxels of the label, one segment per lesion, on the derived series."""

from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from tests.dicom.dicom_case import BUNDLE, SAGITTAL, WrittenCase, source, twelve_bits
from tests.dicom.dicom_case import with_lesions as written
from tests.dicom_series import AXIAL
from tools.dicom.series import read_series
from tools.synthesis.dicom.segmentation import make_segmentation, separate_lesions
from tools.synthesis.records import LesionRecord, ScanRecord, read_record


@pytest.fixture(params=[AXIAL, SAGITTAL], ids=["axial", "sagittal"])
def case(tmp_path: Path, request: pytest.FixtureRequest) -> WrittenCase:
    return written(tmp_path, source(tmp_path / "source", orientation=request.param))


def volume(case: WrittenCase) -> np.ndarray:
    """Place the frames by their positions alone, as a program would that knows nothing of us."""
    series = read_series(case.folder / "dicom")
    segmentation = pydicom.dcmread(case.folder / "segmentation.dcm")
    normal = np.cross(*np.array(source_plane(segmentation)).reshape(2, 3))
    result = np.zeros(case.label.shape, np.uint8)
    frames = zip(
        segmentation.pixel_array, segmentation.PerFrameFunctionalGroupsSequence, strict=True
    )
    for frame, groups in frames:
        place = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float) @ normal
        k = int(np.abs(series.slice_positions_mm - place).argmin())
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        result[..., k][frame.T == 1] = number
    return result


def source_plane(segmentation: pydicom.Dataset) -> list[float]:
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    return [float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient]


def test_voxels_are_those_of_the_label(case: WrittenCase) -> None:
    found = volume(case)
    np.testing.assert_array_equal(found > 0, case.label == 1)
    # the first record is the small lesion
    assert (found[8:10, 1:3, 2] == 1).all()
    assert (found[2:5, 3:6, 1:4] == 2).all()


def test_highdicom_reads_it_beside_the_derived_series(case: WrittenCase) -> None:
    segmentation = highdicom.seg.segread(case.folder / "segmentation.dcm")
    series = read_series(case.folder / "dicom")
    pixels = segmentation.get_pixels_by_source_instance(
        series.sop_uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels.transpose(2, 1, 0), volume(case))
    geometry = segmentation.get_volume_geometry()
    assert geometry is not None
    np.testing.assert_allclose(sorted(geometry.spacing), (0.7, 0.8, 2.5))
    assert segmentation.FrameOfReferenceUID == "1.2.10"
    assert segmentation.StudyInstanceUID == "1.2.9"
    referenced = segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID
    assert referenced == series.series_uid != segmentation.SeriesInstanceUID


def test_segments_say_what_they_are(case: WrittenCase) -> None:
    segmentation = highdicom.seg.segread(case.folder / "segmentation.dcm")
    assert segmentation.SyntheticData == "YES"
    assert segmentation.ContentDate == "20010203"
    assert segmentation.number_of_segments == 2
    for number in (1, 2):
        item = segmentation.get_segment_description(number)
        assert item.segment_label == f"synthetic nodule {number}"
        assert item.algorithm_type.value == "AUTOMATIC"
        assert item.algorithm_identification.name == BUNDLE.name
        assert item.algorithm_identification.version == BUNDLE.version
        assert (item.segmented_property_type.value, item.segmented_property_category.value) == (
            "27925004",
            "49755003",
        )
    assert len({segmentation.get_segment_description(n).tracking_uid for n in (1, 2)}) == 2


def test_second_reader_sees_the_same_frames(case: WrittenCase) -> None:
    sitk = pytest.importorskip("SimpleITK")
    path = case.folder / "segmentation.dcm"
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(frames > 0, pydicom.dcmread(path).pixel_array > 0)


def test_classes_and_values_without_a_record(tmp_path: Path) -> None:
    case = written(tmp_path, source(tmp_path / "source"))
    headers = [
        pydicom.dcmread(path, stop_before_pixels=True)
        for path in read_series(case.folder / "dicom").paths
    ]
    label = np.where(case.label == 1, 3, 2).astype(np.uint8)  # 2: the wall of a heart
    label[8:10, 1:3, 2] = 4
    lesions = [
        LesionRecord(value, name, (0, 0, 0), 4, 1, "moderate", "half", 0)
        for value, name in ((3, "infarct"), (4, "no_reflow"))
    ]
    record = ScanRecord("h", "0" * 64, (1, 1, 1), label.shape, BUNDLE, lesions)
    segmentation = make_segmentation(headers, label, case.scan.affine, record)
    assert segmentation is not None
    types = [segmentation.get_segment_description(n).segmented_property_type for n in (1, 2)]
    assert [item.value for item in types] == ["22298006", "52988006"]
    assert segmentation.get_segment_description(2).segment_label == "synthetic no_reflow 2"
    frames = segmentation.pixel_array
    assert frames.sum() == (label > 2).sum()
    nothing = make_segmentation(headers, np.where(label > 2, 0, label), case.scan.affine, record)
    assert nothing is None


def test_parts_go_to_the_nearest_lesion_by_its_size(tmp_path: Path) -> None:
    label = np.zeros((30, 3, 3), np.uint8)
    label[2:19], label[20], label[24:27] = 1, 1, 1  # the slice of 20 was cut off the large one
    lesions = [
        LesionRecord(1, "lesion", (x, 1, 1), diameter, 1, "solid", "box", 0)
        for x, diameter in ((25, 3), (10, 17))
    ]
    found = separate_lesions(label, np.eye(4), lesions)
    assert found[:, 1, 1].tolist() == [0] * 2 + [2] * 17 + [0, 2, 0, 0, 0] + [1] * 3 + [0] * 3


def test_a_scan_without_study_date_gets_a_fixed_one(tmp_path: Path) -> None:
    def edit(k: int, header: pydicom.Dataset) -> None:
        twelve_bits(k, header)
        del header.StudyDate, header.ContentDate

    case = written(tmp_path, source(tmp_path / "source", edit))
    assert pydicom.dcmread(case.folder / "segmentation.dcm").ContentDate == "19000101"
    assert read_record(case.folder / "lesions.json").lesions


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_dates_that_are_none_stay_out_of_the_segmentation(tmp_path: Path) -> None:
    def edit(k: int, header: pydicom.Dataset) -> None:
        twelve_bits(k, header)
        header.StudyDate, header.PatientBirthDate, header.StudyTime = (
            "removed",
            "unknown",
            "10:10:10",
        )
        header.ContentDate, header.ContentTime = "removed", "removed"
        header.SeriesDate, header.SeriesTime = "2001.02.03", "101112"

    case = written(tmp_path, source(tmp_path / "source", edit))
    segmentation = pydicom.dcmread(case.folder / "segmentation.dcm")
    assert [segmentation.StudyDate, segmentation.PatientBirthDate, segmentation.StudyTime] == [
        "",
        "",
        "",
    ]
    assert (segmentation.ContentDate, segmentation.ContentTime) == ("20010203", "101112")
