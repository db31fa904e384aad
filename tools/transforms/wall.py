"""Coordinates in the wall of a hollow organ: angle round its axis, depth from inside to outside."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage
from scipy.spatial import KDTree

__all__ = [
    "WallCoordinates",
    "from_wall",
    "middle_angle",
    "to_wall",
    "wall_coordinates",
    "wall_level",
    "wall_points",
]

ANGLE_BINS = 72


class WallCoordinates(NamedTuple):
    """Where the voxels of a wall lie.

    Attributes:
        voxels: voxel indices, shape ``(n, 3)``, slices along the last axis.
        angle: round the middle of the organ in the slice, radians in -pi..pi, shape ``(n,)``.
        depth: 0 at the inner surface, 1 at the outer one, shape ``(n,)``.
        shape: of the scan.
    """

    voxels: np.ndarray
    angle: np.ndarray
    depth: np.ndarray
    shape: tuple[int, int, int]


def wall_coordinates(
    wall: np.ndarray, affine: np.ndarray, cavity: np.ndarray | None = None
) -> WallCoordinates:
    """Return angle and depth of every voxel of a wall, slice by slice.

    The middle of a slice is the centroid of its cavity, or of what the wall encloses, or of the
    wall itself where it encloses nothing; it is smoothed along the slices. Angles are those of the
    scan's RAS axes within the slice, so that two scans of the same orientation agree.

    Args:
        wall: above 0 in the wall, slices along the last axis.
        affine: voxel index to RAS mm.
        cavity: above 0 in the cavity; None: what the wall encloses.

    Raises:
        ValueError: if the wall is empty.
    """
    wall = np.asarray(wall) > 0
    if not wall.any():
        raise ValueError("wall must hold voxels, got an empty mask")
    axes = np.asarray(affine, float)[:3, :2]
    middles = _middles(wall, None if cavity is None else np.asarray(cavity) > 0)
    parts = []
    for k, middle in enumerate(middles):
        if wall[..., k].any():
            parts.append(_slice_coordinates(wall[..., k], middle, axes, k))
    index, angle, depth = (np.concatenate(values) for values in zip(*parts, strict=True))
    return WallCoordinates(index, angle, depth, wall.shape)


def _middles(wall: np.ndarray, cavity: np.ndarray | None) -> np.ndarray:
    """Return the middle of each slice in voxels, smoothed; slices without wall have any."""
    found = np.full((wall.shape[2], 2), np.nan)
    for k in range(wall.shape[2]):
        ring = wall[..., k]
        if not ring.any():
            continue
        inside = ndimage.binary_fill_holes(ring) & ~ring if cavity is None else cavity[..., k]
        found[k] = ndimage.center_of_mass(inside if inside.any() else ring)
    known = np.flatnonzero(~np.isnan(found[:, 0]))
    filled = [np.interp(np.arange(len(found)), known, found[known, axis]) for axis in (0, 1)]
    return ndimage.gaussian_filter1d(np.stack(filled, 1), 0.7, axis=0, mode="nearest")


def _slice_coordinates(
    ring: np.ndarray, middle: np.ndarray, axes: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    grid = np.stack(np.meshgrid(*map(np.arange, ring.shape), indexing="ij"), -1)
    x, y = np.moveaxis((grid - middle) @ axes.T, -1, 0)[:2]
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    bins = ((angle + np.pi) / (2 * np.pi) * ANGLE_BINS).astype(int) % ANGLE_BINS
    nearest = np.full(ANGLE_BINS, np.inf)
    np.minimum.at(nearest, bins[ring], radius[ring])
    inner = ~ring & (radius < nearest[bins]) & np.isfinite(nearest[bins])
    outer = ~ring & ~inner
    spacing = np.linalg.norm(axes, axis=0)
    if inner.any():
        from_inside = ndimage.distance_transform_edt(~inner, sampling=spacing)
        from_outside = ndimage.distance_transform_edt(~outer, sampling=spacing)
        half = spacing.mean() / 2  # surfaces lie between the centres of voxels
        depth = (from_inside - half) / np.maximum(from_inside + from_outside - 2 * half, half)
    else:  # the apex, without a cavity
        depth = radius / radius[ring].max()
    inside = np.argwhere(ring)
    index = np.column_stack([inside, np.full(len(inside), k)])
    return index, angle[ring], np.clip(depth[ring], 0, 1)


def to_wall(
    values: np.ndarray,
    place: WallCoordinates,
    size: tuple[int, int],
    slices: int,
    middle_angle: float = 0.0,
) -> np.ndarray:
    """Return a scan's values on a grid of angle, depth and slice; cells without wall are NaN.

    Each cell takes the nearest voxel of the wall in its slice.

    Args:
        values: on the scan's grid.
        place: coordinates of the wall.
        size: cells round the organ, and through its wall.
        slices: of the grid; those that the scan lacks are NaN.
        middle_angle: angle in the middle of the grid's first axis; the seam lies opposite.
    """
    angles, depths = _cells(size)
    angle, depth = np.meshgrid(angles, depths, indexing="ij")
    points = wall_points(angle, depth, size)
    result = np.full((*size, slices), np.nan, np.float32)
    for k in np.unique(place.voxels[:, 2]):
        here = place.voxels[:, 2] == k
        turned = place.angle[here] - middle_angle
        distance, nearest = KDTree(wall_points(turned, place.depth[here], size)).query(
            points.reshape(-1, 3)
        )
        found = values[tuple(place.voxels[here][nearest].T)].astype(np.float32)
        # farther than two cells there is no wall: it is open here
        result[..., k] = np.where(distance < 2, found, np.nan).reshape(size)
    return result


def from_wall(level: np.ndarray, place: WallCoordinates, middle_angle: float = 0.0) -> np.ndarray:
    """Return values of the grid of :func:`to_wall` at the voxels of a wall, -1 elsewhere.

    Args:
        level: shape ``(angles, depths, slices)``.
        place: coordinates of the wall.
        middle_angle: as given to :func:`to_wall`.
    """
    angles, depths = level.shape[:2]
    turned = np.mod(place.angle - middle_angle + np.pi, 2 * np.pi) / (2 * np.pi)
    wrapped = np.concatenate([level[-1:], level, level[:1]])  # the seam is no edge
    position = [turned * angles + 0.5, place.depth * depths - 0.5, place.voxels[:, 2]]
    found = ndimage.map_coordinates(wrapped, position, order=1, mode="nearest")
    result = np.full(place.shape, -1.0, np.float32)
    result[tuple(place.voxels.T)] = found
    return result


def wall_level(mask: np.ndarray, band: float = 2.0) -> np.ndarray:
    """Return the distance to the outline within each slice, positive inside, over a band, clipped.

    The first axis is closed to a ring; at the surfaces of the wall a lesion has no outline.

    Args:
        mask: True inside, on the grid of :func:`to_wall`; an empty one gives -1 everywhere.
        band: in cells.
    """
    if not mask.any():
        return np.full(mask.shape, -1.0)
    half = mask.shape[0] // 2
    ring = np.concatenate([mask[-half:], mask, mask[:half]])
    # more wall inward and outward: a lesion through the wall has no outline there
    ring = np.pad(ring, ((0, 0), (4, 4), (0, 0)), mode="edge")
    far = (1.0, 1.0, 10.0 * max(ring.shape))  # other slices never are the nearest
    distance = ndimage.distance_transform_edt(ring, sampling=far)
    distance -= ndimage.distance_transform_edt(~ring, sampling=far)
    smooth = ndimage.gaussian_filter(distance - 0.5 * np.sign(distance), (0.7, 0.7, 0))
    return np.clip(smooth[half:-half, 4:-4] / band, -1, 1)


def middle_angle(
    place: WallCoordinates, affine: np.ndarray, point_mm: tuple[float, float, float]
) -> float:
    """Return the angle of the voxel of the wall that lies nearest to a point."""
    points = apply_affine(affine, place.voxels)
    return float(place.angle[np.linalg.norm(points - np.asarray(point_mm), axis=1).argmin()])


def _cells(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return angles (-pi..pi) and depths (0..1) of the middles of the cells."""
    angles = ((np.arange(size[0]) + 0.5) / size[0] * 2 - 1) * np.pi
    return angles, (np.arange(size[1]) + 0.5) / size[1]


def wall_points(angle: np.ndarray, depth: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Return points ``(..., 3)`` whose distances are in cells, without a jump at the seam.

    Args:
        angle: radians.
        depth: 0..1, same shape.
        size: cells round the organ and through its wall.
    """
    radius = size[0] / (2 * np.pi)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), depth * size[1]], -1)
