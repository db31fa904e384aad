"""Shape-based interpolation on balls cut into thick slices."""

import numpy as np
import pytest
from nibabel.affines import apply_affine

from tools.prepare.isotropic import isotropic_mask, largest_piece

RADIUS_MM = 8.0
AFFINE = np.array([[-0.7, 0, 0, 3.0], [0, -0.7, 0, -5.0], [0, 0, 4.0, 20.0], [0, 0, 0, 1]])


def ball(shape: tuple[int, ...], affine: np.ndarray, centre: np.ndarray) -> np.ndarray:
    points = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    return np.linalg.norm(points - centre, axis=-1) <= RADIUS_MM


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_thick_slices_become_a_ball_of_the_same_volume_in_the_same_place() -> None:
    centre = apply_affine(AFFINE, (14.0, 15.0, 3.3))
    native = ball((30, 30, 8), AFFINE, centre)
    mask, affine = isotropic_mask(native, AFFINE)
    np.testing.assert_array_equal(np.diag(affine), [-1, -1, 1, 1])
    volume = native.sum() * 0.7 * 0.7 * 4.0
    assert mask.sum() == pytest.approx(volume, rel=0.01)
    truth = ball(mask.shape, affine, centre)
    index = apply_affine(np.linalg.inv(AFFINE) @ affine, np.argwhere(np.ones(mask.shape)))
    inside = index.round().astype(int)
    valid = ((inside >= 0) & (inside < native.shape)).all(1)
    nearest = np.zeros(mask.size, bool)
    nearest[valid] = native[tuple(inside[valid].T)]
    assert dice(mask, truth) > 0.9
    assert dice(mask, truth) > dice(nearest.reshape(mask.shape), truth) + 0.02
    assert not any(np.take(mask, [0, 1, -2, -1], axis=axis).any() for axis in range(3))


def test_flipped_axes_give_the_same_mask() -> None:
    centre = apply_affine(AFFINE, (14.0, 15.0, 3.3))
    native = ball((30, 30, 8), AFFINE, centre)
    native[10:20, 10:14, 2:4] = False  # no symmetry left
    mask, affine = isotropic_mask(native, AFFINE)
    flip = np.diag([-1.0, 1.0, -1.0, 1.0])
    flip[:3, 3] = (29, 0, 7)
    other, other_affine = isotropic_mask(native[::-1, :, ::-1], AFFINE @ flip)
    np.testing.assert_allclose(other_affine, affine)
    np.testing.assert_array_equal(other, mask)


def test_smallest_and_empty_masks() -> None:
    mask, _ = isotropic_mask(np.ones((1, 1, 1)), np.diag([0.5, 0.5, 1.25, 1.0]))
    assert mask.any()
    with pytest.raises(ValueError, match="mask must hold a lesion, got an empty mask"):
        isotropic_mask(np.zeros((3, 3, 3)), np.eye(4))


def test_largest_piece_alone_is_kept() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[:2, :2, :2] = mask[2, 2, 2] = mask[5, 5, 5] = True
    assert largest_piece(mask).sum() == 9
