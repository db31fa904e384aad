"""The window of a shape model: where it lies round a sphere, how its output returns to a scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from tools.transforms.sphere import Sphere, enclosing_sphere, sphere_mask
from tools.transforms.window import WindowGrid, cut_window

__all__ = ["ShapeWindow", "fit_grid", "half_voxel_mm", "shape_grid", "shape_on_scan"]

FILL = 0.8  # what is left of the window beyond the sphere is empty anyway
REGION_MARGIN = 1.0
SMALLEST_RADIUS_MM = 1.5
FINER = 3  # points per voxel at which an outline is measured

Box = tuple[slice, slice, slice]


def shape_grid(
    centre_mm: tuple[float, float, float],
    radius_mm: float,
    size: int | Sequence[int] = 24,
    fill: float = FILL,
    spacing_mm: float | None = None,
) -> WindowGrid:
    """Return the window of a shape: its sphere fills the same part of it whatever its size.

    Args:
        centre_mm: of the control sphere, RAS mm.
        radius_mm: of the control sphere.
        size: voxels per side, one number or one per axis.
        fill: diameter of the sphere over the (first) side of the window.
        spacing_mm: voxel size instead of one that follows from ``fill``, for models that were
            trained at a fixed size.
    """
    sides = (size,) * 3 if isinstance(size, int) else tuple(size)
    if spacing_mm is None:
        spacing_mm = 2 * max(radius_mm, SMALLEST_RADIUS_MM) / (fill * sides[0])
    return WindowGrid.around(centre_mm, sides, spacing_mm)


class ShapeWindow(NamedTuple):
    """What a shape model is shown of a scan.

    Attributes:
        grid: of the window.
        region: 1 where the lesion may be generated: the sphere, a little wider, cut by the
            boundary; float32, shape ``grid.size``.
        sphere: that the centres of the lesion's voxels must not leave.
        radius_mm: of the sphere round the lesion: half a voxel of the scan more.
    """

    grid: WindowGrid
    region: np.ndarray
    sphere: Sphere
    radius_mm: float

    @classmethod
    def around(
        cls,
        sphere: Sphere,
        affine: np.ndarray,
        boundary: np.ndarray | None = None,
        size: int | Sequence[int] = 24,
        fill: float = FILL,
        spacing_mm: float | None = None,
        margin: float = REGION_MARGIN,
    ) -> ShapeWindow:
        """Return the window for a sphere round the centres of the voxels of a lesion.

        Args:
            sphere: RAS mm.
            affine: voxel index of the scan to RAS mm.
            boundary: above 0 where a lesion may lie, on the scan's grid; None: everywhere.
            size: voxels per side.
            fill: diameter of the sphere over the side of the window.
            spacing_mm: voxel size of the window instead of one that follows from ``fill``.
            margin: voxels of the window by which the region is wider than the sphere.

        Raises:
            ValueError: if the boundary leaves nothing of the sphere.
        """
        radius = sphere.radius_mm + half_voxel_mm(affine)
        grid = shape_grid(sphere.centre_mm, radius, size, fill, spacing_mm)
        wide = radius + margin * float(np.linalg.norm(grid.affine[:3, 0]))
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
        """Return whether a prediction could mark a voxel of the scan; it costs no sampling.

        Args:
            affine: voxel index of the scan to RAS mm.
            shape: voxels of the scan per axis.
            boundary: above 0 where a lesion may lie, on the scan's grid; None: everywhere.

        Raises:
            ValueError: if the sphere does not touch the scan.
        """
        full = np.ones(self.grid.size, np.float32)
        part, _ = shape_on_scan(full, self.grid, self.sphere, affine, shape, boundary)
        return bool(part.any())

    def inputs(self, channels: int = 1) -> np.ndarray:
        """Return the input of the sampler: "no lesion" per class, then the region."""
        empty = np.full((channels, *self.grid.size), -1.0, np.float32)
        return np.concatenate([empty, self.region[None]])


def half_voxel_mm(affine: np.ndarray) -> float:
    """Return half the side of the cube with the volume of a voxel.

    By so much a lesion reaches beyond the centres of its outermost voxels.
    """
    return 0.5 * float(abs(np.linalg.det(np.asarray(affine, float)[:3, :3]))) ** (1 / 3)


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
    stays as it is.

    Args:
        level: above 0 inside the lesion, on the grid of the window.
        grid: of the window, isotropic.
        sphere: wanted round the centres of the lesion's voxels on the scan.
        affine: voxel index of the scan to RAS mm.
        boundary: above 0 where a lesion may lie, on the scan's grid; None: everywhere.
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
    low, high, moved = _sphere_box(sphere, affine, boundary.shape)
    part = np.asarray(boundary[tuple(map(slice, low, high))]) > 0
    # a rim of one voxel tells whether the sphere goes on beyond the border of the scan
    moved[:3, 3] = apply_affine(moved, (-1, -1, -1))
    part = np.pad(part, 1)
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

    Args:
        level: above 0 inside the lesion, on the grid of the window.
        grid: of the window.
        sphere: that the centres of the lesion's voxels must not leave.
        affine: voxel index of the scan to RAS mm.
        shape: voxels of the scan per axis.
        boundary: above 0 where a lesion may lie, on the scan's grid; None: everywhere.

    Returns:
        Boolean mask of a box of the scan, and the box. The mask may be empty: where the sphere
        holds no voxel's centre (then the box is empty too), or the level is nowhere positive.

    Raises:
        ValueError: if the sphere does not touch the scan.
    """
    low, high, moved = _sphere_box(sphere, affine, shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    if (high == low).any():
        return np.zeros(high - low, bool), box  # type: ignore[return-value]
    to_window = np.linalg.inv(grid.affine) @ moved
    values = ndimage.affine_transform(
        np.asarray(level, np.float32),
        to_window[:3, :3],
        to_window[:3, 3],
        output_shape=tuple(high - low),
        order=1,
        mode="constant",
        cval=-1.0,
    )
    mask = (values > 0) & sphere_mask(sphere, moved, values.shape)
    if boundary is not None:
        mask &= np.asarray(boundary[box]) > 0
    return mask, box  # type: ignore[return-value]


def _sphere_box(
    sphere: Sphere, affine: np.ndarray, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return first voxel, last + 1 and the affine of the part of a scan that a sphere may reach."""
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
    return low, np.maximum(high, low), moved
