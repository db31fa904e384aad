"""Lesions in the wall of a hollow organ, on a grid of angle, depth and slice.

There all walls look alike: thin rings of any size become rectangles, and a model learns where
lesions spread along and through a wall from a few dozen patients.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage
from scipy.spatial import KDTree

from tools.transforms import EachKey
from tools.transforms.spheres import Sphere, enclosing_sphere, size_bins, soft_bins, sphere_mask
from tools.transforms.windows import asked_point, parse_point

__all__ = [
    "HEART_CLASSES",
    "WallCoordinates",
    "WallRegion",
    "WallRequestd",
    "WallTargetd",
    "WallToScand",
    "from_wall",
    "lesions_in_wall",
    "measure_heart",
    "middle_angle",
    "surest",
    "to_wall",
    "wall_condition",
    "wall_coordinates",
    "wall_level",
    "wall_points",
    "wall_region",
]

HEART_CLASSES = {1: "cavity", 2: "myocardium", 3: "infarct", 4: "no_reflow"}
ANGLE_BINS = 72
SLICE_STEP = 4  # what the levels of the network divide
BLUR = (1.0, 0.7, 0.4)  # cells of angle, depth, slice: no-reflow in as few pieces as patients have
RANGE_MM = (10.0, 120.0)  # of spheres that a model tells apart
LARGEST_SHARE = 0.5
UNUSED_BINS = 4  # of the condition: the width that the shipped weights have


class WallCoordinates(NamedTuple):
    """Where the voxels of a wall lie; slices are along the last axis."""

    voxels: np.ndarray  # indices, (n, 3)
    angle: np.ndarray  # round the middle of the organ in the slice, radians in -pi..pi, (n,)
    depth: np.ndarray  # 0 at the inner surface, 1 at the outer one, (n,)
    shape: tuple[int, int, int]  # of the scan


def wall_coordinates(
    wall: np.ndarray, affine: np.ndarray, cavity: np.ndarray | None = None
) -> WallCoordinates:
    """Return angle and depth of every voxel of a wall, slice by slice along the last axis.

    The middle of a slice is the centroid of its cavity (None: of what the wall encloses), or of the
    wall itself where it encloses nothing; it is smoothed along the slices. Angles are those of the
    scan's RAS axes within the slice, so that two scans of the same orientation agree. An empty wall
    is a ``ValueError``.
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

    Each cell takes the nearest voxel of the wall in its slice; slices that the scan lacks are NaN.
    ``size`` is cells round the organ and through its wall, ``middle_angle`` lies in the middle of
    the grid's first axis, opposite to the seam.
    """
    angles = ((np.arange(size[0]) + 0.5) / size[0] * 2 - 1) * np.pi
    depths = (np.arange(size[1]) + 0.5) / size[1]
    points = wall_points(*np.meshgrid(angles, depths, indexing="ij"), size)
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
    """Return values of the grid of :func:`to_wall` at the voxels of a wall, -1 elsewhere."""
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

    On the grid of :func:`to_wall`, the band in cells. The first axis is closed to a ring; at the
    surfaces of the wall a lesion has no outline. An empty mask gives -1 everywhere.
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


def wall_points(angle: np.ndarray, depth: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Return points ``(..., 3)`` whose distances are in cells, without a jump at the seam."""
    radius = size[0] / (2 * np.pi)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), depth * size[1]], -1)


class WallRegion(NamedTuple):
    """The part of a wall in which lesions may lie."""

    place: WallCoordinates  # of the whole wall
    within: np.ndarray  # True in the wall and the sphere, on the scan's grid
    middle: float  # angle in the middle of the grid of the wall

    def inputs(self, size: tuple[int, int], channels: int = 2) -> np.ndarray:
        """Return a sampler's input ``(K + 1, angles, depths, slices)``: -1s, then the region."""
        # at least one empty slice behind the last, as in training: the border of the grid is no end
        slices = SLICE_STEP * (self.place.shape[2] // SLICE_STEP + 1)
        inside = np.nan_to_num(to_wall(self.within, self.place, size, slices, self.middle))
        empty = np.full((channels, *inside.shape), -1.0)
        return np.concatenate([empty, inside[None] > 0]).astype(np.float32)


def wall_region(place: WallCoordinates, affine: np.ndarray, sphere: Sphere) -> WallRegion:
    """Return the part of a wall that lies in the sphere round the lesion that is asked for."""
    within = np.zeros(place.shape, bool)
    within[tuple(place.voxels.T)] = True
    within &= sphere_mask(sphere, affine, place.shape)
    if not within.any():
        raise ValueError(
            f"centre_mm must lie near the wall, got {np.round(sphere.centre_mm, 1).tolist()} with "
            f"diameter_mm {2 * sphere.radius_mm}"
        )
    return WallRegion(place, within, middle_angle(place, affine, sphere.centre_mm))


def lesions_in_wall(
    levels: np.ndarray,
    region: WallRegion,
    labels: Sequence[int] = (3, 4),
    inner_share: float | None = None,
) -> np.ndarray:
    """Return the output of a shape model as a uint8 label map on the scan's grid, 0 elsewhere.

    ``levels`` ``(K, angles, depths, slices)`` are above 0 inside; the region is what the model was
    asked to fill. ``labels`` are those of each class, outermost first; each lies inside the one
    before. ``inner_share`` of the lesion becomes the innermost class, exactly: where the model is
    surest of it; None: where the model says so.
    """
    result, inside = np.zeros(region.within.shape, np.uint8), region.within
    for number, (label, level) in enumerate(zip(labels, levels, strict=True)):
        if 0 < number == len(levels) - 1 and inner_share is not None:
            # round the ring there is no border; otherwise the surest voxels are scattered ones
            smooth = ndimage.gaussian_filter(level, BLUR, mode=("wrap", "nearest", "nearest"))
            values = from_wall(smooth, region.place, region.middle)
            inside = surest(values, inside, inner_share)
        else:
            inside = inside & (from_wall(level, region.place, region.middle) > 0)
        result[inside] = label
    return result


def surest(values: np.ndarray, outer: np.ndarray, share: float) -> np.ndarray:
    """Return the given share of a mask, where values are highest; of equal ones the first."""
    order = np.argsort(-values[outer], kind="stable")[: round(share * int(outer.sum()))]
    inner = np.zeros(outer.shape, bool)
    inner[tuple(np.argwhere(outer)[order].T)] = True
    return inner


def wall_condition(
    diameter_mm: float,
    inner_share: float | None = None,
    range_mm: Sequence[float] = RANGE_MM,
) -> np.ndarray:
    """Return what a shape model of nested classes is told beside the region, shape ``(16,)``.

    Eight soft bins hold the logarithm of the sphere's diameter, held to ``range_mm``, four the
    share of the lesion that is of the innermost class, 0..1 (half and more are told alike); None
    leaves it to the model: zeros. Other shares, and a diameter that is not positive, are a
    ``ValueError``.

    Example:
        >>> wall_condition(10.0, inner_share=0.0)[8:12].tolist()
        [1.0, 0.0, 0.0, 0.0]
    """
    _check_share(inner_share)
    share = None if inner_share is None else inner_share / LARGEST_SHARE
    unused = np.zeros(UNUSED_BINS, np.float32)
    return np.concatenate([size_bins(diameter_mm, range_mm), soft_bins(share), unused])


def _check_share(inner_share: float | None) -> None:
    if inner_share is not None and not 0 <= inner_share <= 1:
        raise ValueError(f"inner_share must be in 0..1, got {inner_share}")


class WallTargetd(EachKey):
    """Turn a label map into the target of a shape model, its region and its condition.

    Label maps ``(1, H, W, D)`` with an affine, slices along the last axis, become targets ``(K,
    angles, depths, slices)`` in [-1, 1], positive inside the lesion: the distance to the outline
    within the slice in cells, divided by ``band`` and clipped. The region is the wall within the
    smallest sphere round the outermost class, as seen on the grid of the wall, whose first axis is
    centred on the lesion; it is left under ``label``, 1 inside, the condition under ``condition``,
    see :func:`wall_condition`. Without a lesion the region is empty and nothing is learned from the
    sample.

    ``classes`` are the labels of each class: those of a class are among those of the one before, as
    no-reflow lies inside an infarct. ``wall`` are the labels of all that is wall, lesions included.
    ``size`` is cells round the organ and through its wall; ``slices`` make samples a batch, too few
    of them are a ``ValueError``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        classes: Sequence[Sequence[int]],
        wall: Sequence[int],
        cavity: Sequence[int],
        size: Sequence[int] = (64, 8),
        slices: int = 12,
        band: float = 2.0,
        range_mm: Sequence[float] = RANGE_MM,
    ) -> None:
        super().__init__(keys)
        for outer, inner in zip([wall, *classes], classes, strict=False):
            if not set(inner) <= set(outer):
                raise ValueError(f"classes must be nested within wall, got {classes} in {wall}")
        self.classes, self.wall, self.cavity = classes, list(wall), list(cavity)
        self.size, self.slices, self.band = (int(size[0]), int(size[1])), slices, band
        self.range_mm = (float(range_mm[0]), float(range_mm[1]))

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        affine, label = np.asarray(sample[key].affine, float), np.asarray(sample[key][0])
        if label.shape[2] > self.slices:
            raise ValueError(f"slices must be {label.shape[2]} or more, got {self.slices}")
        wall = np.isin(label, self.wall)
        place = wall_coordinates(wall, affine, np.isin(label, self.cavity))
        lesions = [np.isin(label, group) for group in self.classes]
        region, middle, diameter, share = np.zeros_like(wall), 0.0, self.range_mm[0], 0.0
        if lesions[0].any():
            sphere = enclosing_sphere(lesions[0], affine)
            region = wall & sphere_mask(sphere, affine, wall.shape)
            angles = place.angle[lesions[0][tuple(place.voxels.T)]]
            middle = float(np.angle(np.exp(1j * angles).mean()))
            diameter = max(2 * sphere.radius_mm, 1.0)
            share = float(lesions[-1].sum() / lesions[0].sum())
        grid = place, self.size, self.slices, middle
        inside = np.nan_to_num(to_wall(region, *grid)) > 0
        masks = [np.nan_to_num(to_wall(mask, *grid)) > 0 for mask in lesions]
        levels = [wall_level(mask, self.band) for mask in masks]
        target = np.where(inside, np.stack(levels), -1.0).astype(np.float32)
        sample[key] = torch.from_numpy(target)
        sample["label"] = torch.from_numpy(inside).float()[None]
        condition = wall_condition(diameter, share if len(lesions) > 1 else None, self.range_mm)
        sample["condition"] = torch.from_numpy(condition)


class WallRequestd(EachKey):
    """Turn a labelled organ into the region of the wall in which lesions shall be generated.

    The label map, see :class:`WallTargetd`, becomes the sampler's input ``(K + 1, angles, depths,
    slices)``: -1 for each of K ``channels``, then the region. It is left under ``organ``, the
    sphere of ``diameter_mm`` round the lesion under ``control``, for :class:`WallToScand`. Its
    centre is ``centre_mm``, near the wall (see :func:`tools.transforms.windows.parse_point`), else
    the sample's last click, else a voxel of the wall that ``seed`` chooses.
    """

    def __init__(
        self,
        keys: KeysCollection,
        diameter_mm: float,
        centre_mm: Sequence[float] | str | None = None,
        wall: Sequence[int] = (2, 3, 4),
        cavity: Sequence[int] = (1,),
        size: Sequence[int] = (64, 8),
        channels: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__(keys)
        if not (np.isfinite(diameter_mm) and diameter_mm > 0):
            raise ValueError(f"diameter_mm must be > 0, got {diameter_mm}")
        self.diameter_mm, self.seed = float(diameter_mm), seed
        self.centre_mm = parse_point(centre_mm)
        self.wall, self.cavity = list(wall), list(cavity)
        self.size, self.channels = (int(size[0]), int(size[1])), channels

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        organ = sample[key]
        affine, label = np.asarray(organ.affine, float), np.asarray(organ[0])
        place = wall_coordinates(np.isin(label, self.wall), affine, np.isin(label, self.cavity))
        point = asked_point(sample, affine, self.centre_mm)
        if point is None:
            number = np.random.default_rng(self.seed).integers(len(place.voxels))
            point = apply_affine(affine, place.voxels[number])
        x, y, z = (float(value) for value in point)
        sphere = Sphere((x, y, z), self.diameter_mm / 2)
        region = wall_region(place, affine, sphere)
        sample["organ"], sample["control"] = organ, sphere.control()
        sample[key] = torch.from_numpy(region.inputs(self.size, self.channels))


class WallToScand(EachKey):
    """Turn the output of a shape model into lesions of a label map on the scan's grid.

    Predictions ``(K, angles, depths, slices)`` become ``(1, H, W, D)``; nothing but ``wall`` is
    changed. Lesions are drawn into the organ's label map, without ``keep_organ`` into an empty one.
    For ``labels`` and ``inner_share`` see :func:`lesions_in_wall`; small lesions rarely get any of
    the inner class without it. A prediction without a lesion is a ``ValueError``: draw again, with
    another seed.
    """

    def __init__(
        self,
        keys: KeysCollection,
        labels: Sequence[int] = (3, 4),
        wall: Sequence[int] = (2, 3, 4),
        cavity: Sequence[int] = (1,),
        keep_organ: bool = True,
        inner_share: float | None = None,
    ) -> None:
        super().__init__(keys)
        _check_share(inner_share)
        self.labels, self.wall, self.cavity = list(labels), list(wall), list(cavity)
        self.keep_organ, self.inner_share = keep_organ, inner_share

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        organ = sample["organ"]
        affine, label = np.asarray(organ.affine, float), np.asarray(organ[0])
        place = wall_coordinates(np.isin(label, self.wall), affine, np.isin(label, self.cavity))
        region = wall_region(place, affine, Sphere.from_control(sample["control"]))
        levels = convert_to_tensor(sample[key]).float().cpu().numpy()
        lesions = lesions_in_wall(levels, region, self.labels, self.inner_share)
        if not lesions.any():
            raise ValueError(f"{key} must hold a lesion, got an empty prediction")
        kept = label.astype(np.uint8) if self.keep_organ else np.zeros(label.shape, np.uint8)
        result = np.where(lesions > 0, lesions, kept)
        sample[key] = MetaTensor(torch.from_numpy(result)[None], meta=organ.meta)


def measure_heart(label: np.ndarray, affine: np.ndarray) -> dict[str, Any]:
    """Return what a datalist says of a heart, so that transforms can cut a window round it.

    ``heart_mm`` (RAS) is the middle of the box round all ``HEART_CLASSES``, ``heart_extent_mm`` and
    ``heart_extent_voxels`` its sides in the slice; slices lie along the last axis of the label map.
    """
    voxels = np.argwhere(label > 0)
    if not len(voxels):
        raise ValueError("label must mark a heart, got 0 only")
    spacing = voxel_sizes(affine)
    lowest, highest = voxels.min(0), voxels.max(0)
    extent = (highest - lowest + 1)[:2]
    counts = np.bincount(label.ravel(), minlength=len(HEART_CLASSES) + 1)
    millilitres = counts * spacing.prod() / 1000
    return {
        "heart_mm": [round(float(v), 2) for v in apply_affine(affine, (lowest + highest) / 2)],
        "heart_extent_mm": [round(float(v), 1) for v in extent * spacing[:2]],
        "heart_extent_voxels": [int(n) for n in extent],
        "pathological": bool(counts[3] + counts[4]),
        "has_no_reflow": bool(counts[4]),
        "volumes_ml": {n: round(float(millilitres[v]), 3) for v, n in HEART_CLASSES.items()},
        "spacing_mm": [round(float(v), 5) for v in spacing],
        "slices": int(label.shape[2]),
    }
