"""Lesions on a grid: windows that show no wall, masks that keep their volume."""

import numpy as np
import pytest
from nibabel.affines import apply_affine

from tools.prepare.lesions import Lesion, Rule, find_lesions, isotropic_mask, lesion_window

RADIUS_MM = 8.0
AFFINE = np.array([[-0.7, 0, 0, 3.0], [0, -0.7, 0, -5.0], [0, 0, 4.0, 20.0], [0, 0, 0, 1]])
WINDOWS = Rule("windows", lowest=-1024, heal_below=-500)


def ball(shape: tuple[int, ...], affine: np.ndarray, centre: np.ndarray) -> np.ndarray:
    points = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    return np.linalg.norm(points - centre, axis=-1) <= RADIUS_MM


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def lung_with(mask: np.ndarray) -> tuple[np.ndarray, Lesion]:
    """Noisy lung, a lesion of 30 HU, padding at the lower rim."""
    image = np.random.default_rng(0).normal(-850, 30, mask.shape)
    image[mask] = 30
    (lesion,) = find_lesions(mask.astype(int), {}, WINDOWS, 1.0)
    return image.astype(np.int16), lesion


def test_the_window_of_a_crop_tight_in_depth_has_lung_all_round() -> None:
    affine = np.diag([-0.7, -0.7, 2.5, 1.0])
    affine[:3, 3] = (10, 20, -30)
    centre = apply_affine(affine, (21.5, 21.5, 1.5))
    points = apply_affine(affine, np.moveaxis(np.indices((44, 44, 4)), 0, -1))
    mask = np.linalg.norm(points - centre, axis=-1) <= 5  # its first and last slice hold lesion
    image, lesion = lung_with(mask)
    found = lesion_window(image, affine, lesion, WINDOWS)
    assert found is not None
    window, inside, grid, known = found
    ends = [np.ptp(part) for part in known]
    assert min(ends) <= image.shape[2] * 2.5 + 1 < 32  # what was scanned is as thin as the crop
    assert window.shape == inside.shape == grid.size == (32, 32, 32)
    assert np.abs(np.argwhere(inside).mean(0) - 15.5).max() < 1
    assert inside.sum() == pytest.approx(mask.sum() * 0.7 * 0.7 * 2.5, rel=0.1)
    assert np.median(window[inside]) == pytest.approx(30, abs=40)
    # above and below the lesion too: no wall, no lesion repeated
    assert np.median(window[:, :, 0]) == pytest.approx(-850, abs=30)
    assert window[:, :, [0, 1, 2, -3, -2, -1]].max() < -600
    outside = window[~inside & (np.abs(np.indices(window.shape) - 15.5).max(0) > 10)]
    assert 5 < outside.std() < 60


def test_a_scan_larger_than_the_window_moves_it_inside_and_is_not_continued() -> None:
    mask = np.zeros((60, 60, 60), bool)
    mask[2:8, 30:36, 30:36] = True
    image = np.arange(mask.size).reshape(mask.shape) % 1000
    (lesion,) = find_lesions(mask.astype(int), {}, WINDOWS, 1.0)
    found = lesion_window(image, np.eye(4), lesion, WINDOWS)
    assert found is not None
    window, inside, grid, known = found
    assert known == [[0, 32]] * 3
    start = grid.affine[:3, 3].round().astype(int)
    assert start[0] == 0
    box = tuple(slice(a, a + 32) for a in start)
    np.testing.assert_array_equal(window, image[box])
    np.testing.assert_array_equal(inside, mask[box])


@pytest.mark.parametrize("rule", [{}, {"size": (8, 40, 40)}])
def test_what_needs_a_larger_window_gets_none(rule: dict) -> None:
    mask = np.zeros((80, 80, 80), bool)
    mask[2:78, 30:36, 30:36] = True
    _, lesion = lung_with(mask)
    assert lesion_window(mask, np.eye(4), lesion, WINDOWS._replace(**rule)) is None


def test_what_touches_is_one_lesion_and_specks_are_none() -> None:
    label = np.zeros((12, 12, 12), int)
    label[:3, :3, :3] = 1
    label[3:5, 3:5, 3:5] = 2  # touches at a corner
    label[8:11, 8:11, 8:11] = 1
    label[0, 11, 0] = 1
    assert len(find_lesions(label, {}, WINDOWS, 1.0)) == 2
    (second,) = find_lesions(label, {}, WINDOWS._replace(classes=[2], smallest_mm3=8), 1.0)
    assert second.mask.sum() == 8
    listed = {"lesions": [{"value": 2, "readers": 4}]}
    (known,) = find_lesions(label, listed, WINDOWS, 1.0)
    assert known.facts["readers"] == 4
    (rated,) = find_lesions(label, {"ratings": {"texture": 5}}, WINDOWS, 1.0)
    assert rated.mask.sum() == (label > 0).sum()


def test_thick_slices_become_a_ball_of_the_same_volume_in_the_same_place() -> None:
    centre = apply_affine(AFFINE, (14.0, 15.0, 3.3))
    native = ball((30, 30, 8), AFFINE, centre)
    native[0, 0, 0] = True  # a piece of its own, which is dropped
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


def test_cubic_masks_stay_and_empty_ones_are_named() -> None:
    native = ball((24, 24, 24), np.diag([-1.0, -1, 1, 1]), np.array([-11.0, -12, 12]))
    mask, affine = isotropic_mask(native, np.diag([-1.0, -1, 1, 1]))
    where = apply_affine(affine, np.argwhere(mask))
    np.testing.assert_allclose(where, apply_affine(np.diag([-1, -1, 1, 1]), np.argwhere(native)))
    assert isotropic_mask(np.ones((1, 1, 1)), np.diag([0.5, 0.5, 1.25, 1.0]))[0].any()
    with pytest.raises(ValueError, match="mask must hold a lesion, got an empty mask"):
        isotropic_mask(np.zeros((3, 3, 3)), np.eye(4))
