"""Series written by hand: where each voxel lies, its HU, and one sentence for each refusal."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from nibabel.affines import apply_affine
from pydicom.dataset import Dataset

from tools.dicom.files import is_dicom_folder
from tools.dicom.series import read_series

Write = Callable[..., list[str]]
STORED = np.arange(4 * 3 * 5).reshape(4, 3, 5)  # slices, rows, columns


def axial(*heights: float) -> list[tuple[float, float, float]]:
    return [(-10.0, 20.0, z) for z in heights]


def edit_one(index: int, **values: object) -> Callable[[int, Dataset], None]:
    def edit(k: int, header: Dataset) -> None:
        for name, value in values.items():
            if k == index:
                setattr(header, name, value)

    return edit


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_order_is_by_position_and_affine_is_ras(
    tmp_path: Path, write_series: Write, order: tuple[int, ...]
) -> None:
    heights = np.array([5.0, 7.5, 10.0, 12.5])[list(order)]
    names = ["z.dcm", "b.dcm", "a.dcm", "m.dcm"]
    uids = write_series(
        tmp_path, STORED, positions=axial(*heights), spacing=(0.5, 0.8), names=names
    )
    series = read_series(tmp_path)
    assert series.image.dtype == np.int16
    assert series.image.shape == (5, 3, 4)
    rank = np.argsort(heights)
    assert series.sop_uids == tuple(uids[k] for k in rank)
    np.testing.assert_array_equal(series.slice_positions_mm, [5.0, 7.5, 10.0, 12.5])
    np.testing.assert_array_equal(series.image[2, 1], STORED[rank, 1, 2])
    # column 2, row 1, third slice: LPS (-10 + 2 * 0.8, 20 + 0.5, 10), RAS negates the first two
    np.testing.assert_allclose(apply_affine(series.affine, (2, 1, 2)), (8.4, -20.5, 10.0))
    assert (series.series_uid, series.patient_id, series.modality) == ("1.2.3", "P1", "CT")


def test_sagittal_and_tilted_series(tmp_path: Path, write_series: Write) -> None:
    sagittal = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)  # normal: -x
    places = [(x, 0.0, 100.0) for x in (0.0, -2.0, -4.0, -6.0)]
    write_series(tmp_path / "s", STORED, positions=places, orientation=sagittal)
    series = read_series(tmp_path / "s")
    np.testing.assert_allclose(apply_affine(series.affine, (1, 2, 3)), (6.0, -1.0, 98.0))
    np.testing.assert_array_equal(series.image[1, 2], STORED[:, 2, 1])
    tilted = [(0.0, 0.5 * k, 2.0 * k) for k in range(4)]
    write_series(tmp_path / "t", STORED, positions=tilted)
    affine = read_series(tmp_path / "t").affine
    np.testing.assert_allclose(apply_affine(affine, (0, 0, 2)), (0.0, -1.0, 4.0))


def test_rescale_is_per_slice(tmp_path: Path, write_series: Write) -> None:
    slopes, intercepts = (1.0, 2.0, 1.0, 0.5), (-1024.0, -1000.0, 0.0, -0.25)
    write_series(tmp_path, STORED, positions=axial(0, 1, 2, 3), slope=slopes, intercept=intercepts)
    image = read_series(tmp_path).image
    assert image.dtype == np.float32
    for k in range(4):
        np.testing.assert_array_equal(image[..., k], (STORED[k] * slopes[k] + intercepts[k]).T)


def test_other_files_are_ignored(tmp_path: Path, write_series: Write) -> None:
    assert not is_dicom_folder(tmp_path)
    (tmp_path / "000.xml").write_text("<LidcReadMessage/>" * 20)
    (tmp_path / "README").write_bytes(b"")
    (tmp_path / "sub").mkdir()
    assert not is_dicom_folder(tmp_path)
    assert not is_dicom_folder(tmp_path / "README")
    with pytest.raises(ValueError, match="folder must hold DICOM files of a scan, found none"):
        read_series(tmp_path)
    write_series(tmp_path, STORED, positions=axial(0, 1, 2, 3))
    assert is_dicom_folder(tmp_path)
    assert read_series(tmp_path).image.shape == (5, 3, 4)


def test_one_of_several_series(tmp_path: Path, write_series: Write) -> None:
    for uid, names in (("1.5", "abcd"), ("1.6", "efgh")):
        write_series(
            tmp_path, STORED, positions=axial(0, 1, 2, 3), series_uid=uid, names=list(names)
        )
    with pytest.raises(ValueError, match=r"1\.5 \(4 files\), 1\.6 \(4 files\)"):
        read_series(tmp_path)
    assert read_series(tmp_path, "1.6").sop_uids == ("1.6.1", "1.6.2", "1.6.3", "1.6.4")
    with pytest.raises(ValueError, match=r"series_uid must be in .* got 1\.7"):
        read_series(tmp_path, "1.7")


@pytest.mark.parametrize(
    ("heights", "message"),
    [
        ((0, 2, 6, 8), r"got 1 missing at 4\.00 mm \(between 2\.00 and 6\.00 mm"),
        ((0, 1, 2, 7), r"got 4 missing at 3\.00 mm"),
        ((0, 1, 2, 3.4), r"evenly spaced within tolerance_mm=0\.1, got a gap of 1\.400 mm"),
        ((0, 1, 1, 2), r"different positions, got 001\.dcm and 002\.dcm both at 1\.00 mm .*differ"),
    ],
)
def test_uneven_positions_are_refused(
    tmp_path: Path, write_series: Write, heights: tuple[float, ...], message: str
) -> None:
    write_series(tmp_path, STORED, positions=axial(*heights))
    with pytest.raises(ValueError, match=message):
        read_series(tmp_path)


def test_tolerance_is_an_argument(tmp_path: Path, write_series: Write) -> None:
    write_series(tmp_path, STORED, positions=axial(0, 1.2, 2.4, 3.65))
    assert read_series(tmp_path).affine[2, 2] == pytest.approx(3.65 / 3)
    with pytest.raises(ValueError, match=r"tolerance_mm=0\.01"):
        read_series(tmp_path, tolerance_mm=0.01)


def test_sideways_shift_is_refused(tmp_path: Path, write_series: Write) -> None:
    places = [(0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (3.0, 0.0, 2.0), (0.0, 0.0, 3.0)]
    write_series(tmp_path, STORED, positions=places)
    with pytest.raises(ValueError, match=r"even grid .* got 3\.000 mm off in .*002\.dcm"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Rows": 5, "Columns": 3}, r"share one shape, got \(3, 5\) .* and \(5, 3\) in 002"),
        ({"PixelSpacing": [1.0, 0.9]}, r"share one pixel spacing, got \[1\.0, 1\.0\]"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "share one orientation"),
        ({"ImagePositionPatient": None}, "CT Image Storage without ImagePositionPatient"),
        ({"SOPInstanceUID": None}, "CT Image Storage without SOPInstanceUID"),
        ({"RescaleSlope": [1, 2]}, r"RescaleSlope must be one number, got \[1.0, 2.0\]"),
        ({"NumberOfFrames": 2}, "of several frames or colours"),
        ({"PixelData": b"\0\0"}, r"pixels must be readable, got .*002\.dcm"),
    ],
)
def test_odd_slices_are_refused(
    tmp_path: Path, write_series: Write, values: dict[str, object], message: str
) -> None:
    write_series(tmp_path, STORED, positions=axial(0, 1, 2, 3), edit=edit_one(2, **values))
    with pytest.raises(ValueError, match=message):
        read_series(tmp_path)


def test_single_slice_and_no_folder(tmp_path: Path, write_series: Write) -> None:
    write_series(tmp_path, STORED[:1], positions=axial(0))
    with pytest.raises(ValueError, match="at least two slices, got one"):
        read_series(tmp_path)
    with pytest.raises(FileNotFoundError, match="folder must be an existing folder"):
        read_series(tmp_path / "none")


def test_real_pixel_data_survives_a_round_trip(tmp_path: Path, write_series: Write) -> None:
    stored = np.random.default_rng(0).integers(-2000, 3000, (6, 8, 9))
    write_series(tmp_path, stored, positions=axial(*range(6)))
    for path in tmp_path.iterdir():  # without InstanceNumber, as some archives write it
        header = pydicom.dcmread(path)
        del header.InstanceNumber
        header.save_as(path)
    np.testing.assert_array_equal(read_series(tmp_path).image, stored.transpose(2, 1, 0))
