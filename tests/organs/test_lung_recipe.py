"""Both lungs by thresholds: whatever the grid, the crop and what lies round the body."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.organs import lung_recipe
from tools.organs.coarse_grid import (
    block_factors,
    block_mean,
    dilate,
    distance_mm,
    erode,
    expand_mask,
)

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def lung_mask(scan: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return np.asarray(lung_recipe.lung_mask(scan, affine))


def ellipsoid(shape: tuple[int, int, int], centre: tuple, semi_axes: tuple) -> np.ndarray:
    grid = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    return sum(((g - c) / a) ** 2 for g, c, a in zip(grid, centre, semi_axes, strict=True)) <= 1


def chest() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A body with two lungs and a trachea in air on a 2 mm grid: scan, lungs, trachea."""
    shape = (150, 110, 60)
    noise = np.random.default_rng(0).normal(0, 15, shape)
    scan = np.full(shape, -1000.0)
    body = ellipsoid(shape, (75, 55, 30), (65, 45, 1e6))
    left = ellipsoid(shape, (48, 55, 28), (22, 30, 25))
    right = ellipsoid(shape, (102, 55, 28), (22, 30, 25))
    trachea = ellipsoid(shape, (75, 60, 45), (5, 5, 1e6))
    lungs = left | right
    scan[body], scan[lungs], scan[trachea] = 40, -850, -1000
    return scan + noise, lungs, trachea


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_lungs_are_found_and_the_trachea_is_not() -> None:
    scan, lungs, trachea = chest()
    mask = lung_mask(scan, AFFINE)
    assert (mask.dtype, mask.shape) == (bool, scan.shape)
    assert dice(mask, lungs) > 0.95
    assert not (mask & trachea).any()


def test_vessels_and_nodules_at_the_pleura_belong_to_the_lung() -> None:
    scan, lungs, _ = chest()
    nodule = ellipsoid(scan.shape, (48, 83, 28), (3, 3, 3)) & lungs
    vessel = ellipsoid(scan.shape, (48, 55, 28), (2, 1e6, 2)) & lungs
    assert nodule.sum() > 50
    scan[nodule | vessel] = 40
    mask = lung_mask(scan, AFFINE)
    # closing with a ball of 10 mm leaves a dent of 12^2 / (8 * 10) = 1.8 mm
    assert mask[nodule].mean() > 0.7
    assert mask[vessel].mean() > 0.9


def test_orientation_and_spacing_do_not_matter() -> None:
    scan, lungs, _ = chest()
    turned = np.transpose(scan[::-1], (2, 0, 1))
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2], affine[3, 3] = 2, -2, 2, 1
    mask = np.transpose(lung_mask(turned, affine), (1, 2, 0))[::-1]
    assert np.array_equal(mask, lung_mask(scan, AFFINE))
    fine = np.repeat(np.repeat(scan, 2, axis=0), 2, axis=1)[..., ::2]
    mask = lung_mask(fine, np.diag([1.0, 1.0, 4.0, 1.0]))
    assert dice(mask[::2, ::2], lungs[..., ::2]) > 0.92


def test_lungs_cut_by_the_border_are_kept() -> None:
    scan, lungs, _ = chest()
    crop = (slice(30, 75), slice(40, 80), slice(10, 40))
    mask = lung_mask(scan[crop], AFFINE)
    assert dice(mask, lungs[crop]) > 0.95


def test_foam_below_the_body_is_no_lung() -> None:
    scan, lungs, _ = chest()
    scan[20:130, 4:9] = -900 + np.random.default_rng(1).normal(0, 15, (110, 5, 60))
    scan[20:130, 2:4] = 100
    mask = lung_mask(scan, AFFINE)
    assert not mask[:, :9].any()
    assert dice(mask, lungs) > 0.95


@pytest.mark.parametrize(
    ("scan", "affine", "message"),
    [
        (np.full((40, 40, 40), 40, np.int16), AFFINE, "image_hu must show lung"),
        (np.full((40, 40, 40), -1000, np.int16), AFFINE, "image_hu must show lung"),
        (np.zeros((4, 4)), AFFINE, "image_hu must have 3 dimensions"),
        (np.zeros((4, 4, 4)), 0 * AFFINE, "affine must be an invertible"),
    ],
    ids=["tissue", "air", "flat", "affine"],
)
def test_what_shows_no_lung_is_an_error(scan: np.ndarray, affine: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lung_mask(scan, affine)


def test_block_mean_of_incomplete_blocks_repeats_the_edge() -> None:
    volume = np.arange(5.0).reshape(5, 1, 1)
    assert block_mean(volume, (2, 1, 1)).ravel().tolist() == [0.5, 2.5, 4.0]
    assert block_factors([0.7, 0.5, 5.0]) == (3, 4, 1)
    assert expand_mask(np.array([1, 0, 0]).reshape(3, 1, 1) > 0, (2, 1, 1), (5, 1, 1)).sum() == 2


def test_dilation_and_erosion_are_in_mm_and_keep_the_border() -> None:
    point = np.zeros((9, 9, 9), bool)
    point[4, 4, 4] = True
    grown = dilate(point, 2.0, np.array([1.0, 2.0, 3.0]))
    # 1 mm steps: 5 along i, +-1 along j (2 mm, i = 0 only), none along k
    assert grown.sum() == 5 + 2
    assert not dilate(np.zeros((3, 3, 3), bool), 2.0, np.ones(3)).any()
    half = np.zeros((8, 4, 4), bool)
    half[:4] = True
    # distances to the first background plane are 4, 3, 2, 1
    assert erode(half, 2.0, np.ones(3))[:, 0, 0].tolist() == [True, True] + [False] * 6


@pytest.mark.real
@pytest.mark.parametrize(("case", "least"), [("case3_full2mm", 0.95), ("case3", 0.92)])
def test_agrees_with_contours_on_a_real_scan(shared_dir: Path, case: str, least: float) -> None:
    folder = shared_dir / "data" / "lung_ct"
    image = nib.load(folder / f"{case}_image.nii.gz")
    lungs = np.asarray(nib.load(folder / f"{case}_lung.nii.gz").dataobj) > 0
    assert dice(lung_mask(np.asarray(image.dataobj), image.affine), lungs) > least


@pytest.mark.parametrize("share", [0.999, 0.5, 0.001])
def test_near_by_slabs_is_near_by_distance(share: float) -> None:
    mask = np.random.default_rng(0).random((100, 9, 8)) < share
    spacing = np.array([1.7, 2.0, 0.9])
    for radius in (2.0, 10.0):
        assert np.array_equal(erode(mask, radius, spacing), distance_mm(mask, spacing) > radius)
        assert np.array_equal(dilate(mask, radius, spacing), distance_mm(~mask, spacing) <= radius)
