"""The derived series: old numbers where nothing changed, and a header that tells what it is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    RLELossless,
)

from tests.dicom.dicom_case import SAGITTAL, WrittenCase, as_mr, source, twelve_bits
from tests.dicom.dicom_case import with_lesions as written
from tests.dicom_series import AXIAL
from tools.dicom.series import read_series
from tools.scans.scan import Scan

Edit = Callable[[int, Dataset], None]


def slices(folder: Path) -> list[Dataset]:
    """Return the slices of a folder, ascending along the normal of the image plane."""
    read = [pydicom.dcmread(path) for path in folder.glob("*.dcm")]

    def height(item: Dataset) -> float:
        cosines = np.array(item.ImageOrientationPatient, float)
        place = np.array(item.ImagePositionPatient, float)
        return float(place @ np.cross(cosines[:3], cosines[3:]))

    return sorted(read, key=height)


@pytest.fixture
def case(tmp_path: Path) -> WrittenCase:
    return written(tmp_path, source(tmp_path / "source"))


def signed(k: int, header: Dataset) -> None:
    """16 bits, signed: the writer's own choice."""


@pytest.mark.parametrize(
    ("edit", "orientation", "scaling"),
    [
        (twelve_bits, AXIAL, (1.0, -1024.0, 0)),
        (twelve_bits, SAGITTAL, (1.0, -1024.0, 0)),
        (signed, AXIAL, (1.0, 0.0, -1000)),
        (signed, AXIAL, (0.5, -1000.0, 0)),
        (twelve_bits, AXIAL, (3.0, -1024.0, 0)),
        (as_mr, AXIAL, (1.0, 0.0, 0)),
    ],
    ids=["unsigned", "sagittal", "signed", "half steps", "wide steps", "mr"],
)
def test_own_reader_and_source_agree(
    tmp_path: Path, edit: Edit, orientation: tuple[float, ...], scaling: tuple[float, float, int]
) -> None:
    series = source(tmp_path / "source", edit, orientation, *scaling)
    case = written(tmp_path, series)
    back = Scan(case.folder / "dicom")
    np.testing.assert_array_equal(back.stored, case.stored)
    np.testing.assert_allclose(back.affine, case.scan.affine)
    assert np.array_equal(case.stored != case.scan.stored, case.label == 1)
    for k, (old, new) in enumerate(zip(slices(series), slices(case.folder / "dicom"), strict=True)):
        outside = case.label[..., k].T == 0
        assert new.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        np.testing.assert_array_equal(old.pixel_array[outside], new.pixel_array[outside])
        for name in ("BitsStored", "HighBit", "PixelRepresentation", "Rows", "Columns"):
            assert old[name].value == new[name].value
        for name in ("RescaleSlope", "RescaleIntercept"):
            assert old.get(name) == new.get(name)


def test_values_beyond_the_bits_become_their_end(case: WrittenCase) -> None:
    assert case.stored.max() == 4095 - 1024
    assert max(item.pixel_array.max() for item in slices(case.folder / "dicom")) == 4095


def test_another_reader_agrees(case: WrittenCase) -> None:
    sitk = pytest.importorskip("SimpleITK")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(case.folder / "dicom")))
    image = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, case.stored)
    for index in ((0, 0, 0), (3, 4, 5)):
        point = np.array(image.TransformIndexToPhysicalPoint(index)) * (-1, -1, 1)  # LPS to RAS
        np.testing.assert_allclose(point, (case.scan.affine @ [*index, 1])[:3], atol=1e-6)


def test_header_says_what_it_is(case: WrittenCase, tmp_path: Path) -> None:
    old, new = slices(tmp_path / "source"), slices(case.folder / "dicom")
    for before, after in zip(old, new, strict=True):
        assert list(after.ImageType) == ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 SPI"]
        assert after.SyntheticData == "YES"
        assert after.SeriesDescription == "SYNTHETIC lesions Thorax 2.5"
        assert "lefusion_lidc 9.9.9" in after.DerivationDescription
        assert after.SeriesNumber == 9003
        assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
        assert after.SourceImageSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID
        maker = after.ContributingEquipmentSequence[-1]
        assert [version.split()[0] for version in maker.SoftwareVersions] == [
            "synthetic-lesions",
            maker.ManufacturerModelName,
        ]
        assert maker.Manufacturer == "synthetic-lesions"
        assert maker.PurposeOfReferenceCodeSequence[0].CodeValue == "109100"
        same = ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "ImagePositionPatient")
        for name in (*same, "InstanceNumber", "ContentDate", "StudyDate"):
            assert after[name].value == before[name].value
    assert len({item.SOPInstanceUID for item in (*old, *new)}) == 2 * len(old)
    assert {item.SeriesInstanceUID for item in new}.isdisjoint({"1.2.3"})
    assert len({item.SeriesInstanceUID for item in new}) == 1


def test_a_rerun_writes_the_same_bytes_and_another_result_other_uids(tmp_path: Path) -> None:
    series = source(tmp_path / "source")
    one, two = written(tmp_path, series, "one"), written(tmp_path, series, "two")
    names = sorted(path.relative_to(one.folder) for path in one.folder.rglob("*.dcm"))
    assert len(names) == 7
    for name in names:
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()
    again = written(tmp_path, one.folder / "dicom", "again")  # lesions into what has some already
    uids = [read_series(c.folder / "dicom").series_uid for c in (one, again)]
    assert len(set(uids)) == 2
    assert slices(again.folder / "dicom")[0].SeriesDescription == "SYNTHETIC lesions Thorax 2.5"


def test_odd_headers_survive(tmp_path: Path) -> None:
    def edit(k: int, header: Dataset) -> None:
        twelve_bits(k, header)
        header.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        header.PatientName, header.PatientSex = "Yamada^Tarou=山田^太郎", "U"
        header.WindowCenter, header.WindowWidth = [40, -600], [400, 1500]
        header.PixelPaddingValue = 0
        header.SmallestImagePixelValue = 7
        header.private_block(0x0029, "SOMEBODY", create=True).add_new(1, "LO", "secret")
        header.LossyImageCompression, header.BurnedInAnnotation = "01", "NO"
        header.InstanceNumber = 1  # the same in all
        for name in ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber", "ImageType"):
            delattr(header, name)

    case = written(tmp_path, source(tmp_path / "source", edit))
    new = slices(case.folder / "dicom")
    for item in new:
        assert str(item.PatientName) == "Yamada^Tarou=山田^太郎"
        assert list(item.WindowCenter) == [40, -600]
        assert (item.LossyImageCompression, item.BurnedInAnnotation) == ("01", "NO")
        assert list(item.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert "SmallestImagePixelValue" not in item
        assert not any(element.tag.is_private for element in item)
        assert item.StudyInstanceUID == new[0].StudyInstanceUID != ""
        assert item.FrameOfReferenceUID == new[0].FrameOfReferenceUID != ""
    assert [item.InstanceNumber for item in new] == [1, 2, 3, 4, 5, 6]
    segmentation = pydicom.dcmread(case.folder / "segmentation.dcm")
    assert str(segmentation.PatientName) == "Yamada^Tarou=山田^太郎"
    assert segmentation.StudyInstanceUID == new[0].StudyInstanceUID


def recoded(folder: Path, coding: str) -> None:
    """Write the files of a series in another transfer syntax."""
    for path in folder.glob("*.dcm"):
        item = pydicom.dcmread(path)
        if coding == RLELossless:
            item.compress(RLELossless, generate_instance_uid=False)
        elif coding == ExplicitVRBigEndian:
            item.PixelData = item.pixel_array.astype(">u2").tobytes()
        item.file_meta.TransferSyntaxUID = coding
        pydicom.dcmwrite(path, item)


@pytest.mark.parametrize("coding", [RLELossless, ExplicitVRBigEndian, ImplicitVRLittleEndian])
def test_other_transfer_syntaxes(tmp_path: Path, coding: str, case: WrittenCase) -> None:
    series = source(tmp_path / "recoded")
    recoded(series, coding)
    other = written(tmp_path, series, "other")
    for one, two in zip(slices(case.folder / "dicom"), slices(other.folder / "dicom"), strict=True):
        assert two.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert one.PixelData == two.PixelData
        assert one.SOPInstanceUID == two.SOPInstanceUID


def test_unreadable_compression_is_one_sentence(tmp_path: Path) -> None:
    series = source(tmp_path / "source")
    for path in series.glob("*.dcm"):
        item = pydicom.dcmread(path)
        item.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        item.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8 no picture \xff\xd9"])
        item["PixelData"].is_undefined_length = True
        item.save_as(path)
    with pytest.raises(ValueError, match=r"pixels must be readable, got .* in JPEG Lossless") as it:
        Scan(series)
    assert "\n" not in str(it.value)


def test_a_tilted_gantry_keeps_its_positions(tmp_path: Path) -> None:
    def edit(k: int, header: Dataset) -> None:
        twelve_bits(k, header)
        header.ImagePositionPatient = [0.0, 0.5 * k, 2.0 * k]

    case = written(tmp_path, source(tmp_path / "source", edit))
    back = Scan(case.folder / "dicom")
    np.testing.assert_allclose(back.affine, case.scan.affine)
    np.testing.assert_array_equal(back.stored, case.stored)
