import importlib.util

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import distance

from tools.phantoms import nodule_shapes
from tools.phantoms.nodule_insertion import place_mask, resample_mask
from tools.phantoms.nodule_shapes import (
    contour_mask,
    ellipsoid_mask,
    nodule_masks,
    real_nodule_masks,
)

contours_installed = pytest.mark.skipif(
    importlib.util.find_spec(nodule_shapes.CONTOUR_PACKAGE) is None,
    reason="the package with the radiologists' contours is not installed",
)


def square(half: float) -> np.ndarray:
    return np.array([(-half, -half), (half, -half), (half, half), (-half, half)])


def test_stack_of_squares_is_a_box_with_tapered_ends() -> None:
    mask = contour_mask([(float(z), square(5.25), True) for z in range(0, 11, 2)])
    assert mask[:, :, mask.shape[2] // 2].sum() == 11 * 11
    # Ends lie half a slice (1 mm) above and below the outermost outlines.
    assert mask.any(axis=(0, 1)).sum() in (11, 12, 13)


def test_inset_moves_the_edge_inwards() -> None:
    outlines = [(float(z), square(6.25), True) for z in range(9)]
    wide, narrow = contour_mask(outlines), contour_mask(outlines, inset_mm=1.0)
    middle = wide[:, :, wide.shape[2] // 2].sum(), narrow[:, :, narrow.shape[2] // 2].sum()
    assert middle == (13 * 13, 11 * 11)


def test_excluded_outline_cuts_a_hole() -> None:
    outlines = [(float(z), square(6.25), True) for z in range(9)]
    holes = [(float(z), square(2.25), False) for z in range(9)]
    middle = contour_mask(outlines + holes)
    assert middle[:, :, middle.shape[2] // 2].sum() == 13 * 13 - 5 * 5


def test_no_contour_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one contour"):
        contour_mask([])


def test_plain_ellipsoid_has_its_extent_and_volume() -> None:
    mask = ellipsoid_mask((6.0, 4.0, 3.0), spacing_mm=(1.0, 0.5, 1.0))
    extents = [np.ptp(np.flatnonzero(mask.any(axis=axes))) for axes in [(1, 2), (0, 2), (0, 1)]]
    assert extents == [12, 16, 6]
    assert mask.sum() * 0.5 == pytest.approx(4 / 3 * np.pi * 72, rel=0.05)


def test_deformed_ellipsoids_are_one_piece_and_repeatable() -> None:
    masks = [ellipsoid_mask((7.0, 5.0, 4.0), seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert masks[0].shape != masks[2].shape or (masks[0] != masks[2]).any()
    for mask in masks:
        assert ndimage.label(mask)[1] == 1
        assert mask.sum() == pytest.approx(4 / 3 * np.pi * 140, rel=0.4)


@pytest.mark.parametrize("axes", [(0.0, 1.0, 1.0), (1.0, 1.0)])
def test_bad_semi_axes_are_refused(axes: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="semi_axes_mm must be three numbers > 0"):
        ellipsoid_mask(axes)


@contours_installed
def test_real_shapes_are_distinct_solid_and_in_range() -> None:
    shapes = real_nodule_masks(12, seed=0)
    assert len(shapes) == 12
    for mask, information in shapes:
        assert ndimage.label(mask)[1] == 1
        assert 5 <= information["diameter_mm"] <= 25
        # The diameter is that of the drawn line, which lies half a pixel outside the nodule.
        slices = [np.argwhere(mask[:, :, k]) for k in range(mask.shape[2]) if mask[:, :, k].sum()]
        longest = max(distance.cdist(plane, plane).max() for plane in slices)
        assert information["diameter_mm"] - 4 < longest < information["diameter_mm"] + 0.5
    again = real_nodule_masks(12, seed=0)
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(shapes, again, strict=True))


@contours_installed
def test_patients_can_be_left_out() -> None:
    chosen = real_nodule_masks(5, seed=0, keep_patient=lambda name: name.endswith("7"))
    assert {information["patient_id"][-1] for _, information in chosen} == {"7"}


def test_without_the_package_ellipsoids_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodule_shapes, "CONTOUR_PACKAGE", "no_such_package_anywhere")
    assert real_nodule_masks(3) is None
    shapes = nodule_masks(3, seed=0)
    assert [information["shape_source"] for _, information in shapes] == ["ellipsoid"] * 3
    assert all(mask.any() and max(mask.shape) <= 32 for mask, _ in shapes)


def test_resampling_keeps_the_volume() -> None:
    ratios = []
    for seed in range(8):
        mask = ellipsoid_mask((8.3, 7.2, 6.1), seed=seed)
        ratios.append(resample_mask(mask, (1.9, 1.7, 2.3)).sum() * 1.9 * 1.7 * 2.3 / mask.sum())
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)
    dot = np.zeros((5, 5, 5), dtype=bool)
    dot[2, 2, 2] = True
    assert resample_mask(dot, (8.0, 8.0, 8.0)).any()


def test_placement_stays_in_the_room_and_off_the_obstacle() -> None:
    room, avoid = np.zeros((30, 30, 30), dtype=bool), np.zeros((30, 30, 30), dtype=bool)
    room[5:25, 5:25, 5:25] = True
    avoid[:, :15] = True
    shape = np.ones((5, 5, 5), dtype=bool)
    box = place_mask(shape, room, avoid, np.random.default_rng(0))
    assert box is not None
    assert room[box].all()
    assert avoid[box].mean() <= 0.05
    assert place_mask(shape, room, room, np.random.default_rng(0)) is None
    assert place_mask(shape, room & False, avoid, np.random.default_rng(0)) is None
