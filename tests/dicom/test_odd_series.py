"""Series that are odd but whole, in every coding, in one file: read rightly, or one sentence."""

import logging
from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from tests.dicom.dicom_case import as_mr, source, twelve_bits
from tests.dicom.dicom_case import with_lesions as written
from tests.dicom_series import AXIAL, write_dicom_series
from tools.dicom.series import read_series
from tools.scans.scan import Scan

STORED = np.arange(4 * 3 * 5).reshape(4, 3, 5)  # slices, rows, columns
PLACES = [(-10.0, 20.0, 2.5 * z) for z in range(4)]
TILT = 0.0008  # radians


def coded(folder: Path, syntax: str) -> None:
    """Compress the files of a series; each byte of the others stays."""
    kinds = {
        JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
        JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
    }
    for path in folder.iterdir():
        if syntax not in kinds:
            item = pydicom.dcmread(path)
            item.compress(syntax, generate_instance_uid=False)
            item.save_as(path)
            continue
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), None
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(kinds[syntax]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()


@pytest.mark.parametrize(
    "syntax",
    [JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless],
    ids=lambda uid: uid.keyword,
)
@pytest.mark.parametrize(
    ("signed", "bits", "low", "high"), [(0, 12, 0, 4096), (1, 16, -2000, 3000), (0, 16, 0, 60000)]
)
def test_compressed_pixels_are_those_before(
    tmp_path: Path, syntax: str, signed: int, bits: int, low: int, high: int
) -> None:
    stored = np.random.default_rng(0).integers(low, high, (3, 16, 20))

    def edit(k: int, header: Dataset) -> None:
        as_mr(k, header)
        header.BitsStored, header.HighBit, header.PixelRepresentation = bits, bits - 1, signed
        header.PixelData = stored[k].astype("<i2" if signed else "<u2").tobytes()

    write_dicom_series(tmp_path, stored, positions=PLACES[:3], edit=edit)
    coded(tmp_path, syntax)
    assert {pydicom.dcmread(p).file_meta.TransferSyntaxUID for p in tmp_path.iterdir()} == {syntax}
    np.testing.assert_array_equal(read_series(tmp_path).image, stored.T)


def jittered(size: float) -> list[list[float]]:
    """Orientations that turn by a little from slice to slice, round the mean of them."""
    angles = size * np.array([-1.0, 1.0, -0.5, 0.5])
    return [[np.cos(a), np.sin(a), 0.0, -np.sin(a), np.cos(a), 0.0] for a in angles.tolist()]


def test_orientations_that_jitter_are_averaged(tmp_path: Path) -> None:
    def edit(k: int, header: Dataset) -> None:
        header.ImageOrientationPatient = [round(v, 12) for v in jittered(0.0004)[k]]

    write_dicom_series(tmp_path / "j", STORED, positions=PLACES, edit=edit)
    write_dicom_series(tmp_path / "even", STORED, positions=PLACES)
    found, even = read_series(tmp_path / "j"), read_series(tmp_path / "even")
    np.testing.assert_allclose(found.affine, even.affine, atol=1e-6)
    np.testing.assert_array_equal(found.image, even.image)

    def far(k: int, header: Dataset) -> None:
        header.ImageOrientationPatient = [round(v, 12) for v in jittered(0.002)[k]]

    write_dicom_series(tmp_path / "far", STORED, positions=PLACES, edit=far)
    with pytest.raises(ValueError, match=r"slices must share one orientation, got .*001\.dcm"):
        read_series(tmp_path / "far")


@pytest.mark.parametrize("copies", [(2,), (0, 1, 2, 3)], ids=["one", "all"])
def test_copies_of_slices_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, copies: tuple[int, ...]
) -> None:
    write_dicom_series(tmp_path / "once", STORED, positions=PLACES)
    write_dicom_series(tmp_path / "twice", STORED, positions=PLACES)
    for k in copies:  # another instance with the same picture
        item = pydicom.dcmread(tmp_path / "twice" / f"{k:03d}.dcm")
        item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = f"1.9.{k}"
        item.save_as(tmp_path / "twice" / f"{k:03d} (copy).dcm")
    with caplog.at_level(logging.WARNING):
        found = read_series(tmp_path / "twice")
    np.testing.assert_array_equal(found.image, read_series(tmp_path / "once").image)
    assert f"({len(copies)} identical copies of slices)" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"PixelData": (STORED[2] + (STORED[2] == 40)).astype("<i2").tobytes()},
        {"RescaleIntercept": 1.0},
        {"ImagePositionPatient": [-10.0, 20.5, 5.0]},
    ],
    ids=["a voxel", "rescaled otherwise", "shifted in the plane"],
)
def test_two_slices_at_one_place_that_differ_are_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    write_dicom_series(tmp_path, STORED, positions=PLACES)
    item = pydicom.dcmread(tmp_path / "002.dcm")
    for name, value in change.items():
        setattr(item, name, value)
    item.save_as(tmp_path / "copy.dcm")
    with pytest.raises(ValueError, match=r"got 002\.dcm and copy\.dcm both at 5\.00 mm .* differ"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"PixelSpacing": [0, 0]},
            r"PixelSpacing must be from 0\.01 to 100 mm, got \[0\.0, 0\.0\]",
        ),
        ({"PixelSpacing": [-1, 1]}, "PixelSpacing must be from"),
        ({"PixelSpacing": [2000, 2000]}, "PixelSpacing must be from"),
        ({"PixelSpacing": 1}, "PixelSpacing must be 2 number"),
        ({"ImageOrientationPatient": [0] * 6}, "must be two perpendicular unit vectors"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "must be two perpendicular unit"),
        ({"ImagePositionPatient": [1, 2]}, "ImagePositionPatient must be 3 number"),
        ({"Rows": 65535, "Columns": 65535}, r"got 65535 x 65535 x 4 in .*000\.dcm"),
        ({"Rows": 0}, "series must have from 1 to"),
        ({"Rows": 30000, "Columns": 100}, r"pixels must be readable, got .*000\.dcm"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "of several frames or colours"),
        ({"ModalityLUTSequence": [Dataset()]}, "rescaled by a table"),
        ({"RescaleSlope": 0}, r"RescaleSlope must not be 0, got 0 in .*000\.dcm"),
        ({"BitsStored": 0}, r"BitsStored must be from 1 to 32, got 0 in .*000\.dcm"),
    ],
)
def test_headers_that_no_scanner_writes(
    tmp_path: Path, values: dict[str, object], sentence: str
) -> None:
    def edit(_: int, header: Dataset) -> None:
        for name, value in values.items():
            setattr(header, name, value)

    write_dicom_series(tmp_path, STORED, positions=PLACES, edit=edit)
    with pytest.raises(ValueError, match=sentence):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("signed", "intercept", "padding", "value"),
    [
        (1, 0, -2000, -2000),
        (1, -1024, -2000, -3024),
        (0, -1024, 63536, -3024),
        (0, 0, 63536, -2000),
    ],
)
def test_padding_beyond_the_field_of_view_is_below_air(
    tmp_path: Path, signed: int, intercept: int, padding: int, value: int
) -> None:
    stored = STORED + 1000
    stored[:, 0, 0] = padding

    def edit(k: int, header: Dataset) -> None:
        header.PixelRepresentation = signed
        header.PixelPaddingValue = padding
        header.PixelData = stored[k].astype("<i2" if signed else "<u2").tobytes()

    write_dicom_series(tmp_path, stored, positions=PLACES, intercept=intercept, edit=edit)
    image = read_series(tmp_path).image
    assert image.dtype == np.int16
    assert set(image[0, 0]) == {value}
    np.testing.assert_array_equal(image[1:], (stored + intercept).T[1:])


def sixteen_bits(k: int, header: Dataset) -> None:
    """Unsigned MR that uses all its bits."""
    twelve_bits(k, header)
    as_mr(k, header)
    header.BitsStored, header.HighBit = 16, 15
    pixels = np.frombuffer(header.PixelData, "<u2").copy()
    pixels[0] = 65000
    header.PixelData = pixels.tobytes()


def scaled_mr(k: int, header: Dataset) -> None:
    """MR whose every slice has a slope of its own, as Philips writes it."""
    twelve_bits(k, header)
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = MRImageStorage
    header.Modality, header.RescaleSlope, header.RescaleIntercept = "MR", f"{0.37 + k / 100}", 0


@pytest.mark.parametrize("edit", [sixteen_bits, scaled_mr], ids=["range", "fractions"])
def test_values_that_16_bits_cannot_hold_keep_their_precision(
    tmp_path: Path, edit: Callable[[int, Dataset], None]
) -> None:
    series = source(tmp_path / "source", edit)
    case = written(tmp_path, series)
    assert case.scan.stored.dtype == np.float32
    exact = [
        pydicom.dcmread(p).pixel_array * float(pydicom.dcmread(p).get("RescaleSlope", 1))
        for p in reversed(case.scan.series.paths)
    ]
    np.testing.assert_allclose(case.scan.stored, np.stack(exact[::-1]).T, rtol=1e-6)
    back = Scan(case.folder / "dicom")
    np.testing.assert_array_equal(back.stored, case.stored)
    assert np.array_equal(back.stored != case.scan.stored, case.label == 1)
    old = {p.SOPInstanceUID: p for p in map(pydicom.dcmread, case.scan.series.paths)}
    for k, path in enumerate(back.series.paths):
        new = pydicom.dcmread(path)
        before = old[new.SourceImageSequence[0].ReferencedSOPInstanceUID]
        outside = case.label[..., k].T == 0
        np.testing.assert_array_equal(new.pixel_array[outside], before.pixel_array[outside])


def enhanced(path: Path, storage: str = EnhancedCTImageStorage, **options: object) -> np.ndarray:
    """Write an enhanced object, its frames from the top down; return its values, from below."""
    slopes = options.get("slopes", [1.0] * 4)
    write_dicom_series(path.parent, STORED[:1], positions=PLACES[:1], names=[path.name])
    item = pydicom.dcmread(path)
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = storage
    item.Modality = "MR" if storage == EnhancedMRImageStorage else "CT"
    for name in (
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
        *("RescaleSlope", "RescaleIntercept"),
    ):
        delattr(item, name)
    groups = []
    for place, slope in zip(PLACES, slopes, strict=True):
        plane, value, group = Dataset(), Dataset(), Dataset()
        plane.ImagePositionPatient = list(options.get("place", place))
        value.RescaleSlope, value.RescaleIntercept = slope, -1024
        group.PlanePositionSequence = [plane]
        group.PixelValueTransformationSequence = [value]
        groups.append(group)
    shared, turn, measures = Dataset(), Dataset(), Dataset()
    turn.ImageOrientationPatient, measures.PixelSpacing = list(AXIAL), [0.5, 0.8]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [turn], [measures]
    item.SharedFunctionalGroupsSequence = [shared]
    item.PerFrameFunctionalGroupsSequence = groups[::-1][: options.get("groups", 4)]
    item.NumberOfFrames = 4
    item.PixelData = STORED[::-1].astype("<i2").tobytes()
    if syntax := options.get("syntax"):
        item.compress(syntax, generate_instance_uid=False)
    item.save_as(path)
    return (STORED * np.reshape(slopes, (4, 1, 1)) - 1024).T


@pytest.mark.parametrize(
    ("storage", "options"),
    [
        (EnhancedCTImageStorage, {}),
        (EnhancedCTImageStorage, {"syntax": RLELossless}),
        (EnhancedMRImageStorage, {"slopes": [0.37, 0.5, 0.73, 1.1]}),
    ],
    ids=["ct", "compressed", "mr with slopes"],
)
def test_enhanced_multi_frame_objects_are_read(
    tmp_path: Path, storage: str, options: dict[str, object]
) -> None:
    values = enhanced(tmp_path / "e" / "IM1", storage, **options)
    series = read_series(tmp_path / "e")
    np.testing.assert_allclose(series.image, values, rtol=1e-6)
    np.testing.assert_allclose(series.affine @ [2, 1, 3, 1], [8.4, -20.5, 7.5, 1])
    assert series.sop_uids == tuple(f"1.2.3.1 frame {k}" for k in (4, 3, 2, 1))
    assert series.multiframe


def test_frames_that_are_no_volume_are_refused(tmp_path: Path) -> None:
    enhanced(tmp_path / "one" / "e", place=[0, 0, 0])
    with pytest.raises(ValueError, match=r"got e frame 1 and e frame 2 both at 0\.00 mm"):
        read_series(tmp_path / "one")
    enhanced(tmp_path / "few" / "e", groups=3)
    with pytest.raises(ValueError, match="number of functional groups, got 4 and 3 in"):
        read_series(tmp_path / "few")


def test_no_series_is_derived_from_a_multi_frame_object(tmp_path: Path) -> None:
    enhanced(tmp_path / "e" / "IM1")
    with pytest.raises(ValueError, match="must have single-frame slices as scan, got a multi-"):
        written(tmp_path, tmp_path / "e")
