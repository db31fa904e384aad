"""Lesions in the wall of a hollow organ: where, how large, how much of them is their core."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage
from scipy.spatial import KDTree

from tools.shapes.shape import Place, Point, as_point
from tools.transforms.wall import WallCoordinates, wall_coordinates

__all__ = ["coordinates", "settle", "site_in_wall", "size_range"]

SITE_TOLERANCE_MM = 20.0


def coordinates(place: Place) -> WallCoordinates:
    """Return angle and depth of each voxel of the wall; where there is none, a ValueError."""
    return wall_coordinates(place.organ_mask, place.affine, place.cavity)


def size_range(diameter_mm: float | Sequence[float]) -> tuple[float, float]:
    """Return a size given as one number or two; a ValueError if it is neither."""
    numbers = np.ravel(np.asarray(diameter_mm, float)).tolist()
    if len(numbers) not in (1, 2) or not 0 < numbers[0] <= numbers[-1] < np.inf:
        raise ValueError(f"diameter_mm must be one number or two, 0 < low <= high, got {numbers}")
    return numbers[0], numbers[-1]


def site_in_wall(place: Place, wall: WallCoordinates) -> Point:
    """Return the voxel of the wall nearest to the place's point, RAS mm.

    Raises:
        ValueError: if the point lies farther than 20 mm from the wall.
    """
    points = apply_affine(place.affine, wall.voxels)
    distance, nearest = KDTree(points).query(place.point_mm)
    if distance > SITE_TOLERANCE_MM:
        raise ValueError(
            f"site must lie within {SITE_TOLERANCE_MM:g} mm of the wall, got {place.point_mm} at "
            f"{distance:.0f} mm"
        )
    return as_point(points[nearest])


def settle(label: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Return a label map in which pieces of nothing but the inner class have become the outer one.

    No-reflow is the core of an infarct; a lesion that is no-reflow throughout stays as it is.

    Example:
        >>> settle(np.array([[[3, 4, 0, 4]]], np.uint8), values=(3, 4)).tolist()
        [[[3, 4, 0, 3]]]
    """
    outer = values[0]
    parts, _ = ndimage.label(label > 0, np.ones((3, 3, 3)))
    with_outer = np.unique(parts[label == outer])
    alone = (parts > 0) & ~np.isin(parts, with_outer)
    return np.where(alone, outer, label).astype(np.uint8) if len(with_outer) else label
