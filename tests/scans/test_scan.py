"""A DICOM series and a NIfTI file are the same to whoever works on a scan."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from tools.scans.scan import Scan, scan_hash

SHAPE = (5, 6, 7)  # slices, rows, columns
Write = Callable[..., None]


@pytest.fixture
def stored() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2000, SHAPE)


def test_series_becomes_nifti_with_its_geometry(
    tmp_path: Path, write_series: Write, stored: np.ndarray
) -> None:
    write_series(tmp_path / "ct", stored)
    scan = Scan(tmp_path / "ct")
    assert scan.name == "ct"
    assert np.array_equal(scan.image, stored.transpose(2, 1, 0) - 1024)
    assert scan.spacing_mm == pytest.approx((0.7, 0.8, 2.5))
    # voxel (i, j, k) lies at (-10 + 0.7 i, 20 + 0.8 j, 2.5 k) in LPS, so in RAS:
    point = nib.affines.apply_affine(scan.affine, (3, 4, 2))
    assert point == pytest.approx((10 - 2.1, -20 - 3.2, 5.0))

    changed = scan.stored.copy()
    changed[1, 2, 3] = scan.stored_values(np.array(-700.4))
    scan.write(tmp_path / "image.nii.gz", changed)
    back = Scan(tmp_path / "image.nii.gz")
    assert back.nifti.get_data_dtype() == np.int16
    assert np.allclose(back.affine, scan.affine, atol=1e-5)
    assert back.nifti.get_sform(coded=True)[1] == back.nifti.get_qform(coded=True)[1] == 1
    assert np.argwhere(back.image != scan.image).tolist() == [[1, 2, 3]]
    assert back.image[1, 2, 3] == -700


def test_hash_of_a_series_is_of_its_picture(
    tmp_path: Path, write_series: Write, stored: np.ndarray
) -> None:
    write_series(tmp_path / "a", stored)
    write_series(tmp_path / "b", stored, names="IM{:04}", tag="renamed and described")
    assert Scan(tmp_path / "a").sha256 == Scan(tmp_path / "b").sha256
    stored[2, 3, 4] += 1
    write_series(tmp_path / "c", stored)
    assert Scan(tmp_path / "c").sha256 != Scan(tmp_path / "a").sha256


def test_image_in_memory_serves_too(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    scan = Scan(image)
    assert (scan.name, scan.phantom) == ("", False)
    assert len(scan.sha256) == 64
    assert scan.sha256 != Scan(nib.Nifti1Image(scan.stored + 1, np.eye(4))).sha256
    scan.write(tmp_path / "out.nii", scan.stored)
    assert np.array_equal(Scan(tmp_path / "out.nii").image, scan.image)


def test_mask_may_have_its_axes_turned(
    tmp_path: Path, write_series: Write, stored: np.ndarray
) -> None:
    write_series(tmp_path / "ct", stored)
    scan = Scan(tmp_path / "ct")
    mask = np.zeros(scan.stored.shape, np.uint8)
    mask[1, 2, 3] = 1
    own = nib.Nifti1Image(mask, scan.affine)
    for name, image in (("own", own), ("canonical", nib.as_closest_canonical(own))):
        nib.save(image, tmp_path / f"{name}.nii.gz")
        found = scan.load_mask(tmp_path / f"{name}.nii.gz", "organ_mask")
        assert np.argwhere(found).tolist() == [[1, 2, 3]]
        nib.save(nib.Nifti1Image(image.get_fdata() * 14, image.affine), tmp_path / "lobes.nii")
        labels = scan.load_labels(tmp_path / "lobes.nii", "organ_mask")
        assert labels[1, 2, 3] == labels.max() == 14
    moved = scan.affine.copy()
    moved[2, 3] += 250
    nib.save(nib.Nifti1Image(mask, moved), tmp_path / "moved.nii.gz")
    with pytest.raises(ValueError, match="organ_mask must lie in the scan"):
        scan.load_mask(tmp_path / "moved.nii.gz", "organ_mask")
    nib.save(nib.Nifti1Image(0 * mask, scan.affine), tmp_path / "empty.nii.gz")
    with pytest.raises(ValueError, match="organ_mask must mark at least one voxel"):
        scan.load_mask(tmp_path / "empty.nii.gz", "organ_mask")
    assert not scan.load_mask(tmp_path / "empty.nii.gz", "lesion_mask", empty=True).any()


def test_two_series_in_a_folder_need_a_choice(
    tmp_path: Path, write_series: Write, stored: np.ndarray
) -> None:
    write_series(tmp_path / "ct", stored)
    with pytest.raises(ValueError, match="series_uid must be in"):
        Scan(tmp_path / "ct", "9.9")
    assert Scan(tmp_path / "ct", "1.2.3").stored.shape == (7, 6, 5)


TILT = np.array([[0.8, 0, 0, -30], [0, 0.8, 0.4, 20], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])
STRAIGHT = TILT * [[1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
TURN = np.array([[0.96, -0.28, 0, 0], [0.28, 0.96, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
HEADERS = {  # affine of sform and of qform, and their codes
    "both": (STRAIGHT, STRAIGHT, 1, 1),
    "turned": (TURN @ STRAIGHT, TURN @ STRAIGHT, 2, 1),
    "flipped": (np.diag([-1, 1, 1, 1]) @ STRAIGHT, np.diag([-1, 1, 1, 1]) @ STRAIGHT, 1, 1),
    "permuted": (STRAIGHT[:, [2, 0, 1, 3]], STRAIGHT[:, [2, 0, 1, 3]], 1, 4),
    "sform alone": (STRAIGHT, None, 2, 0),
    "qform alone": (None, TURN @ STRAIGHT, 0, 1),
    "a little sheared": (STRAIGHT + 2e-4 * (TILT != STRAIGHT), STRAIGHT, 1, 1),
    "a little sheared, sform alone": (STRAIGHT + 2e-4 * (TILT != STRAIGHT), None, 1, 0),
    "tilted gantry": (TILT, STRAIGHT, 1, 1),
    "tilted gantry, sform alone": (TILT, None, 1, 0),
}


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", HEADERS)
def test_what_is_written_opens_at_the_place_of_the_scan(
    tmp_path: Path, name: str, kind: type
) -> None:
    sform, qform, sform_code, qform_code = HEADERS[name]
    values = np.random.default_rng(0).integers(-900, 900, (7, 6, 5)).astype(np.int16)
    image = kind(values, None)
    image.header.set_sform(sform, sform_code)
    image.header.set_qform(qform, qform_code)
    nib.save(image, tmp_path / "scan.nii.gz")
    scan = Scan(tmp_path / "scan.nii.gz")
    scan.write(tmp_path / "image.nii.gz", scan.stored)
    scan.write_label(tmp_path / "label.nii.gz", scan.stored > 0)
    places = []
    for file in ("image", "label"):
        path = tmp_path / f"{file}.nii.gz"
        header = nib.load(path).header
        assert np.allclose(header.get_best_affine(), scan.affine, rtol=0, atol=1e-5)
        assert int(header["sform_code"]) == sform_code
        assert int(header["qform_code"]) == (qform_code or sform_code)
        assert bytes(header["descrip"]).startswith(b"SYNTHETIC lesions")
        opened = SimpleITK.ReadImage(str(path))
        places.append([*opened.GetOrigin(), *opened.GetSpacing(), *opened.GetDirection()])
    assert places[0] == places[1]
    if kind is nib.Nifti1Image and "alone" not in name:
        source = SimpleITK.ReadImage(str(tmp_path / "scan.nii.gz"))
        assert places[0] == [*source.GetOrigin(), *source.GetSpacing(), *source.GetDirection()]
    assert SimpleITK.GetArrayFromImage(opened).sum() == (values > 0).sum()
    assert nib.load(tmp_path / "label.nii.gz").header.get_intent()[0] == "label"


def test_hash_of_two_files_is_of_their_values(tmp_path: Path) -> None:
    hashes = set()
    for name, value in (("a", 1), ("b", 1), ("c", 2)):
        image = nib.Nifti1Pair(np.full((2, 3, 4), value, np.int16), STRAIGHT)
        nib.save(image, tmp_path / f"{name}.hdr")
        hashes.add(scan_hash(tmp_path / f"{name}.hdr"))
        assert Scan(tmp_path / f"{name}.hdr").sha256 in hashes
    assert len(hashes) == 2


def test_byte_order_stays(tmp_path: Path) -> None:
    values = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    header = nib.Nifti1Header(endianness=">")
    nib.save(nib.Nifti1Image(values, STRAIGHT, header, dtype=">i2"), tmp_path / "scan.nii.gz")
    scan = Scan(tmp_path / "scan.nii.gz")
    scan.write(tmp_path / "image.nii.gz", scan.stored)
    written = nib.load(tmp_path / "image.nii.gz")
    assert written.get_data_dtype() == np.dtype(">i2")
    assert np.array_equal(np.asarray(written.dataobj), values)


@pytest.mark.parametrize("fill", [None, -1000.0])
def test_values_that_are_not_finite_are_named_or_filled(fill: float | None) -> None:
    values = np.zeros((4, 4, 4), np.float32)
    values[0, 0, 0], values[1, 1, 1] = np.nan, -np.inf
    scan = Scan(nib.Nifti1Image(values, np.eye(4)), fill_nan=fill)
    if fill is None:
        with pytest.raises(ValueError, match="finite values, got NaN or infinity in 2 of 64"):
            _ = scan.image
    else:
        assert scan.image[0, 0, 0] == scan.image[1, 1, 1] == fill
        assert np.isnan(scan.stored[0, 0, 0])


def test_an_offset_is_added_and_taken_away_again() -> None:
    stored = np.array([24, 174, 1064, 3000], np.int16).reshape(4, 1, 1)
    plain = Scan(nib.Nifti1Image(stored, np.eye(4)), in_hu=True)
    with pytest.raises(ValueError, match=r"scan must be in HU, .* got values from 24 to 3000"):
        _ = plain.image
    scan = Scan(nib.Nifti1Image(stored, np.eye(4)), in_hu=True, hu_offset=-1024)
    assert np.asarray(scan.image).ravel().tolist() == [-1000, -850, 40, 1976]
    assert scan.stored_values(scan.image).tolist() == stored.tolist()
    with pytest.raises(ValueError, match=r"median of the lung lies from -990 to -500, got -405"):
        scan.require_level(np.ones((4, 1, 1), bool), (-990, -500), "lung")


def test_numbers_without_their_sign_get_it_back_and_are_stored_without_it() -> None:
    stored = np.array([63536, 0, 400], np.uint16).reshape(3, 1, 1)
    scan = Scan(nib.Nifti1Image(stored, np.eye(4)), in_hu=True)
    assert scan.image.ravel().tolist() == [-2000, 0, 400]
    assert scan.stored_values(np.array([-800.4, 30])).tolist() == [65536 - 800, 30]
    assert scan.values_of(scan.stored).ravel().tolist() == [-2000, 0, 400]
    plain = Scan(nib.Nifti1Image(stored, np.eye(4)))  # not a CT
    assert plain.stored_values(np.array([-800.4, 63536])).tolist() == [0, 63536]
