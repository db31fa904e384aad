"""Moving an infarct from one heart to another: by angle, depth through the wall, and height."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from nibabel.affines import voxel_sizes
from scipy import ndimage
from scipy.spatial import KDTree

from tools.synthesis.hearts.request import INFARCT, NO_REFLOW, Heart
from tools.transforms.spheres import enclosing_sphere
from tools.transforms.wall import WallCoordinates, surest, wall_points

__all__ = ["HeartLesion", "move_lesion"]

BAND_MM = 5.0  # distances to an outline count up to here: about half the thickness of a wall
NEIGHBOURS = 4
# mm round a ventricle and through its wall: what one step in angle or depth weighs
WALL_MM = (180.0, 10.0)


class HeartLesion(NamedTuple):
    """An infarct in a heart, ready to be moved into others.

    Attributes:
        name: of the case.
        place: coordinates of the wall in which it lies.
        heights: of each slice, 0 apex to 1 base.
        levels: mm to the outline within wall and slice, positive inside, clipped, at the voxels
            of ``place``: of the lesion, and of the no-reflow in it, shape ``(2, n)``.
        angle: middle of the lesion, radians.
        diameter_mm: of the smallest sphere round the lesion.
        wall_mm: of that round the wall.
        no_reflow_share: share of the lesion that is no-reflow.
    """

    name: str
    place: WallCoordinates
    heights: np.ndarray
    levels: np.ndarray
    angle: float
    diameter_mm: float
    wall_mm: float
    no_reflow_share: float

    @classmethod
    def measure(cls, heart: Heart, label: np.ndarray, name: str) -> HeartLesion:
        """Measure the lesion of a label map.

        Args:
            heart: on whose grid it lies.
            label: 3 infarct, 4 no-reflow; what lies outside the wall does not count.
            name: of the case.

        Raises:
            ValueError: if there is no lesion in the wall, or no wall.
        """
        place = heart.coordinates()
        lesion = heart.wall & np.isin(label, (INFARCT, NO_REFLOW))
        if not lesion.any():
            raise ValueError(f"label must hold {INFARCT} or {NO_REFLOW} in the wall, got none")
        masks = lesion, lesion & (label == NO_REFLOW)
        levels = np.stack([_levels(mask, heart)[tuple(place.voxels.T)] for mask in masks])
        angles = place.angle[lesion[tuple(place.voxels.T)]]
        return cls(
            name,
            place,
            _heights(heart),
            levels,
            float(np.angle(np.exp(1j * angles).mean())),
            2 * enclosing_sphere(lesion, heart.affine).radius_mm,
            2 * enclosing_sphere(heart.wall, heart.affine).radius_mm,
            float(masks[1].sum() / lesion.sum()),
        )


def move_lesion(
    lesion: HeartLesion,
    heart: Heart,
    turn: float = 0.0,
    no_reflow_share: tuple[float, float] | None = None,
) -> np.ndarray:
    """Return a lesion in the wall of another heart.

    Each voxel of the wall takes the distance to the lesion's outline from where the source has its
    angle, depth and height, between the source's slices by linear interpolation. Angles are those
    of the scans' RAS axes within the slice: both scans must be oriented alike.

    Args:
        lesion: to be moved.
        heart: to receive it; ends of the ventricle correspond, whatever the numbers of slices.
        turn: radians round the cavity.
        no_reflow_share: smallest and largest share of the lesion that may be no-reflow: it shrinks
            or grows along its outline to meet them. None: as it comes.

    Returns:
        uint8 on the heart's grid, 0, 3 and 4; a small lesion may fall between thick slices, then
        it is empty.
    """
    place = heart.coordinates()
    values = np.empty((2, len(place.voxels)))
    slices = np.unique(place.voxels[:, 2])
    heights, sources = _heights(heart), np.unique(lesion.place.voxels[:, 2])
    between = np.interp(heights[slices], *_ascending(lesion.heights[sources]))
    for k, position in zip(slices, between, strict=True):
        here = place.voxels[:, 2] == k
        angle, depth = place.angle[here] - turn, place.depth[here]
        low, high = int(np.floor(position)), int(np.ceil(position))
        order = sources[np.argsort(lesion.heights[sources])]
        values[:, here] = _between(
            _slice_levels(lesion, order[low], angle, depth),
            _slice_levels(lesion, order[high], angle, depth),
            position - low,
        )
    grid = np.full((2, *place.shape), -BAND_MM)
    grid[(slice(None), *place.voxels.T)] = values
    outer = grid[0] > 0
    label = np.where(outer, INFARCT, 0).astype(np.uint8)
    label[_inner(grid, outer, lesion, no_reflow_share)] = NO_REFLOW
    return label


def _between(low: np.ndarray, high: np.ndarray, part: float) -> np.ndarray:
    """Return levels between two slices; a class that ends there ends half-way, without taper."""
    linear = low + part * (high - low)
    nearest = high if part > 0.5 else low
    both = (low.max(1) > 0) & (high.max(1) > 0)
    return np.where(both[:, None], linear, nearest)


def _inner(
    grid: np.ndarray,
    outer: np.ndarray,
    lesion: HeartLesion,
    share: tuple[float, float] | None,
) -> np.ndarray:
    """Return the no-reflow, within the range of its share where there is one."""
    inner = outer & (grid[1] > 0)
    if share is None or not outer.any():
        return inner
    found = float(inner.sum() / outer.sum())
    if share[0] <= found <= share[1]:
        return inner
    # without any to grow from it begins in the middle of the lesion
    values = grid[1] + grid[0] / 100 if lesion.no_reflow_share else grid[0]
    return surest(values, outer, float(np.clip(found, *share)))


def _heights(heart: Heart) -> np.ndarray:
    """Return where slices lie from apex (0) to base (1); the apex is where the heart is thinner."""
    areas = (heart.wall | heart.cavity).sum((0, 1))
    found = np.flatnonzero(heart.wall.any((0, 1)))
    heights = (np.arange(len(areas)) - found[0] + 0.5) / (found[-1] - found[0] + 1)
    third = max(1, len(found) // 3)
    upside_down = areas[found[:third]].sum() > areas[found[-third:]].sum()
    return 1 - heights if upside_down else heights


def _ascending(heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.sort(heights), np.arange(len(heights))


def _levels(mask: np.ndarray, heart: Heart) -> np.ndarray:
    """Return mm to the outline within each slice; at the surfaces of the wall there is none."""
    spacing = voxel_sizes(heart.affine)[:2]
    result = np.full(mask.shape, -BAND_MM)
    for k in np.flatnonzero(mask.any((0, 1))):
        inside, healthy = mask[..., k], heart.wall[..., k] & ~mask[..., k]
        outward = ndimage.distance_transform_edt(~inside, sampling=spacing)
        inward = np.full(inside.shape, BAND_MM)
        if healthy.any():
            inward = ndimage.distance_transform_edt(~healthy, sampling=spacing)
        result[..., k] = np.clip(np.where(inside, inward, -outward), -BAND_MM, BAND_MM)
    return result


def _slice_levels(lesion: HeartLesion, k: int, angle: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return levels of one slice where angle and depth are those given, shape ``(2, n)``."""
    here = np.flatnonzero(lesion.place.voxels[:, 2] == k)
    source = wall_points(lesion.place.angle[here], lesion.place.depth[here], WALL_MM)
    count = min(NEIGHBOURS, len(here))
    distance, nearest = KDTree(source).query(wall_points(angle, depth, WALL_MM), k=count)
    distance, nearest = distance.reshape(-1, count), nearest.reshape(-1, count)
    weights = 1 / np.maximum(distance, 1e-6) ** 2  # a voxel that is met exactly counts alone
    levels = lesion.levels[:, here[nearest]]
    return (levels * weights).sum(-1) / weights.sum(-1)
