"""Lesions in the wall of a hollow organ: where, how large, how much of them is their core."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage
from scipy.spatial import KDTree

from tools.shapes.shape import LabelShape, Place, Point
from tools.transforms.spheres import enclosing_sphere
from tools.transforms.wall import WallCoordinates, wall_coordinates

__all__ = ["coordinates", "label_shape", "settle", "site_in_wall", "size_range"]

SITE_TOLERANCE_MM = 20.0


def coordinates(place: Place) -> WallCoordinates:
    """Return angle and depth of each voxel of the wall.

    Raises:
        ValueError: if there is no wall.
    """
    return wall_coordinates(place.organ_mask, place.affine, place.cavity)  # type: ignore[arg-type]


def size_range(diameter_mm: float | Sequence[float]) -> tuple[float, float]:
    """Return a size given as one number or two.

    Raises:
        ValueError: if it is neither, or no range of sizes.
    """
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
    x, y, z = (float(value) for value in points[nearest])
    return x, y, z


def settle(label: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Return a label map in which pieces of nothing but the inner class have become the outer one.

    No-reflow is the core of an infarct; a lesion that is no-reflow throughout stays as it is.

    Args:
        label: 0 and the two values, 3-D.
        values: of the outer and the inner class.

    Example:
        >>> settle(np.array([[[3, 4, 0, 4]]], np.uint8), (3, 4)).tolist()
        [[[3, 4, 0, 3]]]
    """
    outer = values[0]
    parts, _ = ndimage.label(label > 0, np.ones((3, 3, 3)))
    with_outer = np.unique(parts[label == outer])
    alone = (parts > 0) & ~np.isin(parts, with_outer)
    return np.where(alone, outer, label).astype(np.uint8) if len(with_outer) else label


def label_shape(
    label: np.ndarray, place: Place, source: str, asked_mm: float | None = None
) -> LabelShape:
    """Return a lesion in the wall with its size.

    Args:
        label: 0 and the place's values, on the scan's grid, inside the wall; not empty.
        place: in which it lies.
        source: for the record.
        asked_mm: diameter that was asked for.
    """
    diameter = 2 * enclosing_sphere(label, place.affine).radius_mm
    return LabelShape(
        label.astype(np.uint8), place.affine, place.values, source, float(diameter), asked_mm
    )
