"""A DICOM series and a NIfTI file are the same to whoever works on a scan."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.synthesis.scan import Scan

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
    moved[2, 3] += 2.5
    nib.save(nib.Nifti1Image(mask, moved), tmp_path / "moved.nii.gz")
    with pytest.raises(ValueError, match="organ_mask must have the scan's affine"):
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
