"""The sphere round a lesion: what a shape model sees of it, and how its answer fits a scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
from nibabel.affines import apply_affine
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from tools.windows import Box, WindowGrid, cut_window

__all__ = [
    "ShapeWindow",
    "Sphere",
    "attribute_condition",
    "enclosing_sphere",
    "fit_grid",
    "half_voxel_mm",
    "shape_grid",
    "shape_on_scan",
    "signed_distance",
    "size_bins",
    "soft_bins",
    "sphere_mask",
]

# ranges of the soft bins of the condition: sphere diameter in mm, then radiologists' scores
DIAMETER_MM, SCORES = (3.0, 45.0), (1.0, 5.0)
DIAMETER_BINS, SCORE_BINS = 8, 4
TOLERANCE, ROUNDING_MM = 1e-7, 1e-5
FILL = 0.8  # what is left of the window beyond the sphere is empty anyway
REGION_MARGIN = 1.0
SMALLEST_RADIUS_MM = 1.5
FINER = 3  # points per voxel at which an outline is measured


class Sphere(NamedTuple):
    """A sphere in scanner space: ``centre_mm`` (RAS) and ``radius_mm``, at least 0."""

    centre_mm: tuple[float, float, float]
    radius_mm: float

    def control(self) -> dict[str, torch.Tensor]:
        """Return the sphere as a sample carries it through a loader, float64."""
        return {name: torch.tensor(v, dtype=torch.float64) for name, v in self._asdict().items()}

    @classmethod
    def from_control(cls, control: Mapping[str, torch.Tensor]) -> Sphere:
        """Return the sphere that :meth:`control` wrote down."""
        x, y, z = (float(value) for value in control["centre_mm"])
        return cls((x, y, z), float(control["radius_mm"]))


def enclosing_sphere(mask: np.ndarray, affine: np.ndarray) -> Sphere:
    """Return the smallest sphere that holds the centres of all voxels of a mask.

    Welzl's algorithm on the vertices of the convex hull, in millimetres, so anisotropic and oblique
    grids are right. The released DiffMask code takes the centroid and the largest distance from it,
    both cut to whole voxels: neither smallest nor enclosing. An empty mask is a ``ValueError``.

    References:
        Welzl, Smallest enclosing disks (balls and ellipsoids), 1991.

    Example:
        >>> mask = np.zeros((5, 5, 5))
        >>> mask[1:4, 2, 2] = 1
        >>> enclosing_sphere(mask, np.diag([2.0, 1, 1, 1]))
        Sphere(centre_mm=(4.0, 2.0, 2.0), radius_mm=2.0)
    """
    voxels = np.argwhere(np.asarray(mask) > 0)
    if len(voxels) == 0:
        raise ValueError("mask must hold a lesion, got an empty mask")
    points = apply_affine(affine, voxels)
    if len(points) > 4:
        # voxels in one plane or on a line have no hull in space; the search takes any points
        with suppress(QhullError):
            points = points[ConvexHull(points).vertices]
    points = np.random.default_rng(0).permutation(points)
    centre, radius = _smallest(points, np.empty((0, 3)))
    x, y, z = (round(float(value), 6) for value in centre)
    return Sphere((x, y, z), round(float(radius), 6))


def _smallest(points: np.ndarray, support: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the smallest ball that holds ``points`` and has ``support`` on its surface."""
    centre, radius = _through(support)
    start = 0
    while len(support) < 4 and start < len(points):
        distances = np.linalg.norm(points[start:] - centre, axis=1)
        outside = np.flatnonzero(distances > radius + TOLERANCE)
        if len(outside) == 0:
            break
        # the first point outside must lie on the surface of the ball round it and those before it
        start += int(outside[0])
        centre, radius = _smallest(points[:start], np.vstack([support, points[start]]))
        start += 1
    return centre, radius


def _through(support: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the smallest ball with up to four points on its surface; none gives nothing."""
    if len(support) == 0:
        return np.zeros(3), -np.inf
    first = support[0]
    edges = support[1:] - first
    # the least-norm solution lies in the plane of the points, as the smallest ball's centre does
    offset = np.linalg.lstsq(2 * edges, (edges**2).sum(1), rcond=None)[0] if len(edges) else 0.0
    centre = first + offset
    return centre, float(np.linalg.norm(first - centre))


def sphere_mask(sphere: Sphere, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return True where a voxel's centre lies in or on a sphere.

    Example:
        >>> int(sphere_mask(Sphere((1.0, 1.0, 1.0), 1.0), np.eye(4), (3, 3, 3)).sum())
        7
    """
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    distances = np.linalg.norm(apply_affine(affine, index) - sphere.centre_mm, axis=-1)
    return distances <= sphere.radius_mm + ROUNDING_MM


def half_voxel_mm(affine: np.ndarray) -> float:
    """Return half the side of the cube with the volume of a voxel.

    By so much a lesion reaches beyond the centres of its outermost voxels.
    """
    return 0.5 * float(abs(np.linalg.det(np.asarray(affine, float)[:3, :3]))) ** (1 / 3)


def signed_distance(
    mask: np.ndarray,
    spacing: np.ndarray | Sequence[float] = (1.0, 1.0, 1.0),
    blur: float | Sequence[float] = 0.5,
) -> np.ndarray:
    """Return the distance to the surface, positive inside, slightly blurred, in the spacing's unit.

    Centres lie half a voxel from the faces; the blur, a standard deviation in voxels, takes the
    staircase of the grid away. The mask is neither empty nor full.

    Example:
        >>> mask = np.zeros((8, 5, 5), bool)
        >>> mask[:4] = True
        >>> signed_distance(mask, (2.0, 2.0, 2.0), blur=0.0)[:, 2, 2].tolist()
        [7.0, 5.0, 3.0, 1.0, -1.0, -3.0, -5.0, -7.0]
    """
    half = 0.5 * float(np.min(spacing))
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    signed = np.where(mask, inside - half, half - outside)
    return ndimage.gaussian_filter(signed, blur, mode="nearest")


def soft_bins(fraction: float | None, bins: int = SCORE_BINS) -> np.ndarray:
    """Return weights of the bins whose centres lie on either side of a fraction; None: zeros."""
    if fraction is None:
        return np.zeros(bins, np.float32)
    place = float(np.clip(fraction, 0, 1)) * (bins - 1)
    return np.maximum(0, 1 - np.abs(np.arange(bins) - place)).astype(np.float32)


def size_bins(diameter_mm: float, range_mm: Sequence[float]) -> np.ndarray:
    """Return soft bins of the logarithm of a diameter, held to the given range, ``(8,)``."""
    if not (np.isfinite(diameter_mm) and diameter_mm > 0):
        raise ValueError(f"diameter_mm must be > 0, got {diameter_mm}")
    low, high = np.log(range_mm)
    return soft_bins((np.log(diameter_mm) - low) / (high - low), DIAMETER_BINS)


def attribute_condition(
    diameter_mm: float, spiculation: float | None = None, lobulation: float | None = None
) -> np.ndarray:
    """Return what a shape model is told beside the sphere, as soft bins, shape ``(16,)``.

    Eight bins hold the logarithm of the sphere's diameter, held to 3..45 mm (small nodules are
    rounder), four the score of spiculation and four that of lobulation: 1 (none) to 5 (marked) as
    radiologists rate them; None or 0, not known: zeros. Other scores, and a diameter that is not
    positive, are a ``ValueError``.

    Example:
        >>> attribute_condition(3.0, spiculation=5.0).tolist()[7:13]
        [0.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    """
    parts = [size_bins(diameter_mm, DIAMETER_MM)]
    low, high = SCORES
    for name, score in (("spiculation", spiculation), ("lobulation", lobulation)):
        if score and not low <= score <= high:
            raise ValueError(f"{name} must be a score from 1 to 5, got {score}")
        parts.append(soft_bins((score - low) / (high - low) if score else None))
    return np.concatenate(parts)


def shape_grid(
    centre_mm: tuple[float, float, float],
    radius_mm: float,
    size: int | Sequence[int] = 24,
    fill: float = FILL,
    spacing_mm: float | None = None,
) -> WindowGrid:
    """Return the window of a shape: its sphere fills the same part of it whatever its size.

    ``fill`` is the diameter of the sphere over the (first) side of the window; ``spacing_mm`` is a
    voxel size instead of one that follows from it, for models that were trained at a fixed size.
    """
    sides = (size,) * 3 if isinstance(size, int) else tuple(size)
    if spacing_mm is None:
        spacing_mm = 2 * max(radius_mm, SMALLEST_RADIUS_MM) / (fill * sides[0])
    return WindowGrid.around(centre_mm, sides, spacing_mm)


class ShapeWindow(NamedTuple):
    """What a shape model is shown of a scan."""

    grid: WindowGrid
    # 1 where the lesion may be generated: the sphere, a little wider, cut by the boundary; float32
    region: np.ndarray
    sphere: Sphere  # that the centres of the lesion's voxels must not leave
    radius_mm: float  # of the sphere round the lesion: half a voxel of the scan more

    @classmethod
    def around(
        cls,
        sphere: Sphere,
        affine: np.ndarray,
        boundary: np.ndarray | None = None,
        size: int | Sequence[int] = 24,
        fill: float = FILL,
        spacing_mm: float | None = None,
    ) -> ShapeWindow:
        """Return the window for a sphere round the centres of the voxels of a lesion.

        The boundary is above 0 where a lesion may lie, on the scan's grid; None: everywhere; one
        that leaves nothing of the sphere is a ``ValueError``. For size, fill and spacing see
        :func:`shape_grid`.
        """
        radius = sphere.radius_mm + half_voxel_mm(affine)
        grid = shape_grid(sphere.centre_mm, radius, size, fill, spacing_mm)
        wide = radius + REGION_MARGIN * float(np.linalg.norm(grid.affine[:3, 0]))
        region = sphere_mask(Sphere(sphere.centre_mm, wide), grid.affine, grid.size)
        if boundary is not None:
            region &= cut_window(boundary, affine, grid, beyond=0.0) >= 0.5
        if not region.any():
            raise ValueError(
                f"boundary must leave room for a lesion of {2 * radius:.1f} mm at "
                f"{tuple(round(float(v), 1) for v in sphere.centre_mm)} mm, got none"
            )
        return cls(grid, region.astype(np.float32), sphere, radius)

    def has_room(
        self, affine: np.ndarray, shape: Sequence[int], boundary: np.ndarray | None = None
    ) -> bool:
        """Return whether a prediction could mark a voxel of the scan; it costs no sampling."""
        full = np.ones(self.grid.size, np.float32)
        return bool(shape_on_scan(full, self.grid, self.sphere, affine, shape, boundary)[0].any())

    def inputs(self, channels: int = 1) -> np.ndarray:
        """Return the input of the sampler: "no lesion" per class, then the region."""
        empty = np.full((channels, *self.grid.size), -1.0, np.float32)
        return np.concatenate([empty, self.region[None]])


def fit_grid(
    level: np.ndarray,
    grid: WindowGrid,
    sphere: Sphere,
    affine: np.ndarray,
    boundary: np.ndarray | None = None,
) -> WindowGrid:
    """Return the window moved and scaled so that the sphere round the lesion is the wanted one.

    A model fills its sphere to about a tenth; this makes size and place exact. Where the boundary
    or the border of the scan cuts the sphere the lesion cannot reach all of it, and the window
    stays as it is. Arguments are those of :func:`shape_on_scan`.
    """
    if not (level > 0).any():
        return grid
    if boundary is not None and _is_cut(sphere, affine, boundary):
        return grid
    own = _outline_sphere(level, grid)
    scale = (sphere.radius_mm + half_voxel_mm(affine)) / own.radius_mm
    result = np.array(grid.affine, float)
    result[:3, :3] *= scale
    result[:3, 3] = np.asarray(sphere.centre_mm) + scale * (
        grid.affine[:3, 3] - np.asarray(own.centre_mm)
    )
    return WindowGrid(result, grid.size)


def _outline_sphere(level: np.ndarray, grid: WindowGrid) -> Sphere:
    """Return the sphere round the outline of a lesion, finer than the voxels of the window."""
    part = np.pad(np.asarray(level, np.float32), 1, constant_values=-1.0)
    box = ndimage.find_objects((part > 0).astype(np.uint8))[0]
    # a voxel more on each side, where the outline lies
    part = part[tuple(slice(axis.start - 1, axis.stop + 1) for axis in box)]
    sides = [(n - 1) * FINER + 1 for n in part.shape]
    fine = ndimage.zoom(part, np.divide(sides, part.shape), order=1) > 0
    affine = np.array(grid.affine, float)
    affine[:3, 3] = apply_affine(affine, [axis.start - 2 for axis in box])
    affine[:3, :3] /= FINER
    own = enclosing_sphere(fine & ~ndimage.binary_erosion(fine), affine)
    return Sphere(own.centre_mm, own.radius_mm + half_voxel_mm(affine))


def _is_cut(sphere: Sphere, affine: np.ndarray, boundary: np.ndarray) -> bool:
    """Return whether a voxel's centre in the sphere lies beyond the boundary or the scan."""
    box, moved = _sphere_box(sphere, affine, boundary.shape)
    # a rim of one voxel tells whether the sphere goes on beyond the border of the scan
    part = np.pad(np.asarray(boundary[box]) > 0, 1)
    moved[:3, 3] = apply_affine(moved, (-1, -1, -1))
    return bool((sphere_mask(sphere, moved, part.shape) & ~part).any())


def shape_on_scan(
    level: np.ndarray,
    grid: WindowGrid,
    sphere: Sphere,
    affine: np.ndarray,
    shape: Sequence[int],
    boundary: np.ndarray | None = None,
) -> tuple[np.ndarray, Box]:
    """Bring a predicted shape to the grid of a scan, within sphere and boundary by construction.

    The level, above 0 inside the lesion, lies on the grid of the window. The centres of the
    lesion's voxels must not leave the sphere, which must touch the scan (``affine``, ``shape``),
    nor the boundary, which is above 0 where a lesion may lie; None: everywhere.

    Returns a boolean mask of a box of the scan, and the box. The mask may be empty: where the
    sphere holds no voxel's centre (then the box is empty too), or the level is nowhere positive.
    """
    box, moved = _sphere_box(sphere, affine, shape)
    size = tuple(part.stop - part.start for part in box)
    if not all(size):
        return np.zeros(size, bool), box
    to_window = np.linalg.inv(grid.affine) @ moved
    values = ndimage.affine_transform(
        np.asarray(level, np.float32),
        to_window[:3, :3],
        to_window[:3, 3],
        output_shape=size,
        order=1,
        mode="constant",
        cval=-1.0,
    )
    mask = (values > 0) & sphere_mask(sphere, moved, size)
    if boundary is not None:
        mask &= np.asarray(boundary[box]) > 0
    return mask, box


def _sphere_box(sphere: Sphere, affine: np.ndarray, shape: Sequence[int]) -> tuple[Box, np.ndarray]:
    """Return the part of a scan that a sphere may reach, and its affine."""
    inverse = np.linalg.inv(affine)
    middle = apply_affine(inverse, sphere.centre_mm)
    # largest step along each index that stays in the sphere
    reach = sphere.radius_mm * np.linalg.norm(inverse[:3, :3], axis=1)
    low = np.maximum(np.ceil(middle - reach - 1e-6), 0).astype(int)
    high = np.minimum(np.floor(middle + reach + 1e-6) + 1, shape).astype(int)
    if (middle + reach < -0.5).any() or (middle - reach > np.asarray(shape) - 0.5).any():
        raise ValueError(
            f"sphere must touch the scan of shape {tuple(shape)}, got one of radius "
            f"{sphere.radius_mm:.1f} mm at voxel {np.round(middle, 1).tolist()}"
        )
    moved = np.array(affine, float)
    moved[:3, 3] = apply_affine(affine, low)
    x, y, z = map(slice, low.tolist(), np.maximum(high, low).tolist())
    return (x, y, z), moved
