"""Windows from a small archive in the published layout."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.prepare.crops import Crop, continue_surroundings, prepare_crops, remove_lesion

SPACING = np.array([0.7, 0.7, 2.5])


def make_crop(name: str, split: str, radius_mm: float = 5.0) -> Crop:
    """A bright ball in noisy lung, tight in depth: the first and last slice hold lesion."""
    shape = (44, 44, max(1, int(2 * radius_mm / SPACING[2])))
    rng = np.random.default_rng(0)
    image = rng.normal(-850, 30, shape)
    centre = (np.array(shape) - 1) / 2
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    mask = (((index - centre) * SPACING) ** 2).sum(-1) <= radius_mm**2
    image[mask] = 30
    affine = np.diag([-0.7, -0.7, 2.5, 1.0])
    affine[:3, 3] = (10, 20, -30)
    return Crop(name, name.split("_")[0], split, image.astype(np.int16), mask, affine)


def write_archive(path: Path, crops: list[Crop]) -> Path:
    sizes = [crop.image.size for crop in crops]
    np.savez(
        path,
        image_flat=np.concatenate([crop.image.ravel() for crop in crops]),
        mask_flat_packed=np.packbits(np.concatenate([crop.mask.ravel() for crop in crops])),
        offset=np.concatenate([[0], np.cumsum(sizes)]),
        shape=np.array([crop.image.shape for crop in crops], np.int16),
        spacing_xyz_mm=np.array([SPACING] * len(crops), np.float32),
        origin_ras_mm=np.array([crop.affine[:3, 3] for crop in crops], np.float32),
        nodule_id=np.array([crop.name for crop in crops]),
        patient_id=np.array([crop.patient for crop in crops]),
        split=np.array([crop.split for crop in crops]),
    )
    return path


def test_windows_have_one_millimetre_and_the_lesion_in_the_middle(tmp_path: Path) -> None:
    crops = [make_crop("a_1", "train"), make_crop("b_1", "val"), make_crop("c_1", "train", 40.0)]
    archive = write_archive(tmp_path / "crops.npz", crops)
    counts = prepare_crops(archive, tmp_path / "out")
    assert counts == {"training": 1, "validation": 1, "left_out": 1}
    content = json.loads((tmp_path / "out" / "datalist.json").read_text())
    entry = content["training"][0]
    assert entry["patient"] == "a"
    image = nib.load(tmp_path / "out" / entry["image"])
    label = np.asarray(nib.load(tmp_path / "out" / entry["label"]).dataobj) > 0
    assert image.shape == (32, 32, 32)
    assert nib.affines.voxel_sizes(image.affine) == pytest.approx((1, 1, 1))
    assert image.get_data_dtype() == np.int16
    assert np.abs(np.argwhere(label).mean(0) - 15.5).max() < 1
    native_mm3 = crops[0].mask.sum() * SPACING.prod()
    assert label.sum() == pytest.approx(native_mm3, rel=0.1)
    values = image.get_fdata()
    assert np.median(values[label]) == pytest.approx(30, abs=40)
    # surroundings are lung everywhere, above and below the nodule too: no wall, no lesion repeated
    assert np.median(values[:, :, 0]) == pytest.approx(-850, abs=30)
    assert values[:, :, [0, 1, 2, -3, -2, -1]].max() < -600


def test_the_crop_itself_is_unchanged_inside_its_continuation() -> None:
    crop = make_crop("a_1", "train")
    image, mask, affine = continue_surroundings(crop, margin_mm=10)
    corner = np.round(np.linalg.inv(affine) @ [*crop.affine[:3, 3], 1])[:3].astype(int)
    inner = tuple(slice(a, a + n) for a, n in zip(corner, crop.image.shape, strict=True))
    assert np.array_equal(image[inner], crop.image)
    assert np.array_equal(mask[inner], crop.mask)
    assert mask.sum() == crop.mask.sum()


def test_removed_lesion_looks_like_lung() -> None:
    crop = make_crop("a_1", "train")
    healthy = remove_lesion(crop.image.astype(np.float32), crop.mask, SPACING)
    inside = healthy[crop.mask]
    assert inside.mean() == pytest.approx(-850, abs=25)
    assert 5 < inside.std() < 60


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source must be a crops archive or a folder"):
        prepare_crops(tmp_path, tmp_path / "out")


@pytest.mark.real
def test_real_crops_decode(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "data" / "lidc_voi"
    with np.load(source / "lidc_voi.npz") as archive:
        names = archive["nodule_id"].tolist()
    from tools.prepare.crops import _read_archive

    crop = next(c for c in _read_archive(source / "lidc_voi.npz") if c.name == names[0])
    stored = nib.load(sorted(source.glob("*_image.nii.gz"))[0])
    name = sorted(source.glob("*_image.nii.gz"))[0].name.removesuffix("_image.nii.gz")
    crop = next(c for c in _read_archive(source / "lidc_voi.npz") if c.name == name)
    assert np.array_equal(np.asarray(stored.dataobj), crop.image)
    assert np.allclose(stored.affine, crop.affine, atol=1e-3)
