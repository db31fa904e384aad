"""Windows of the model's grid round a site, cut from a scan and brought back, in millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

__all__ = ["WindowGrid", "cut_window", "paste_window", "window_size"]


class WindowGrid(NamedTuple):
    """A box of isotropic voxels whose axes run to patient right, anterior and superior (RAS).

    Attributes:
        affine: 4x4, voxel index to RAS mm.
        size: voxels along each axis.
    """

    affine: np.ndarray
    size: tuple[int, int, int]

    @classmethod
    def around(
        cls, point_mm: Sequence[float], size: Sequence[int], spacing_mm: float = 1.0
    ) -> WindowGrid:
        """Return the grid whose centre lies at a point.

        Args:
            point_mm: RAS mm.
            size: voxels along each axis.
            spacing_mm: voxel size.
        """
        affine = np.diag([spacing_mm] * 3 + [1.0])
        affine[:3, 3] = np.asarray(point_mm, float) - spacing_mm * (np.asarray(size) - 1) / 2
        return cls(affine, tuple(int(n) for n in size))  # type: ignore[arg-type]


def window_size(
    extent_mm: float,
    spacing_mm: float = 1.0,
    margin_mm: float = 5.0,
    smallest: int = 24,
    step: int = 8,
) -> int:
    """Return the voxels per side of a cube that holds a lesion and some of its surroundings.

    Args:
        extent_mm: largest extent of the lesion along an axis.
        spacing_mm: voxel size of the window.
        margin_mm: surroundings shown on each side, at least.
        smallest: never fewer voxels than this.
        step: the size is a multiple of this (what the network's levels divide).

    Example:
        >>> window_size(20.0), window_size(3.0)
        (32, 24)
    """
    voxels = (extent_mm + 2 * margin_mm) / spacing_mm
    return int(max(smallest, step * np.ceil(voxels / step)))


def cut_window(
    image: np.ndarray,
    affine: np.ndarray,
    grid: WindowGrid,
    order: int = 1,
    beyond: float | None = None,
) -> np.ndarray:
    """Return the scan on the window's grid; only the part of the scan under the window is read.

    Beyond the border of the scan its mirror image continues it, so the window never shows a wall of
    constant grey.

    Args:
        image: scan, 3-D, any dtype (a memory map or nibabel proxy is read in part).
        affine: voxel index of the scan to RAS mm; any orientation, oblique too.
        grid: the window.
        order: 1 for images, 0 for labels.
        beyond: value outside the scan, for pictures; None mirrors.

    Returns:
        Array of shape ``grid.size``, float32.

    Raises:
        ValueError: if the window does not touch the scan at all.
    """
    # rounding errors must not put the first or last slice of an oblique scan beyond its border
    to_scan = np.round(np.linalg.inv(affine) @ grid.affine, 9)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in grid.size])).reshape(3, -1).T
    reached = apply_affine(to_scan, corners)
    low = np.floor(reached.min(0)).astype(int) - 1
    high = np.ceil(reached.max(0)).astype(int) + 2
    if (high <= 0).any() or (low >= image.shape).any():
        raise ValueError(
            f"window must overlap the scan of shape {tuple(image.shape)}, got voxels "
            f"{low.tolist()} to {high.tolist()}"
        )
    low, high = np.clip(low, 0, None), np.minimum(high, image.shape)
    block = np.asarray(
        image[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], np.float32
    )
    return ndimage.affine_transform(
        block,
        to_scan[:3, :3],
        to_scan[:3, 3] - low,
        output_shape=grid.size,
        order=order,
        mode="mirror" if beyond is None else "constant",
        cval=0.0 if beyond is None else beyond,
    )


def paste_window(
    image: np.ndarray,
    affine: np.ndarray,
    window: np.ndarray,
    grid: WindowGrid,
    label: np.ndarray,
    box: tuple[slice, slice, slice],
) -> np.ndarray:
    """Return the values of the window at the label's voxels on the scan's own grid.

    Args:
        image: scan; only its shape is used.
        affine: voxel index of the scan to RAS mm.
        window: values on the window's grid.
        grid: the window.
        label: boolean lesion mask inside ``box``.
        box: where ``label`` lies in the scan.

    Returns:
        One float32 value for each True of ``label``, in C order.

    Raises:
        ValueError: if ``box`` does not fit the scan, or the label reaches beyond the window.
    """
    starts = np.array([part.start for part in box])
    stops = np.array([part.stop for part in box])
    if (starts < 0).any() or (stops > image.shape).any() or label.shape != tuple(stops - starts):
        raise ValueError(f"box must lie inside the scan of shape {image.shape}, got {box}")
    voxels = np.argwhere(label) + starts
    position = apply_affine(np.linalg.inv(grid.affine) @ affine, voxels)
    if len(position) and ((position < -1) | (position > np.asarray(grid.size))).any():
        extent = np.ptp(voxels, axis=0) * voxel_sizes(affine)
        raise ValueError(
            f"lesion must fit the window of {grid.size} voxels, got {extent.round(1)} mm"
        )
    return ndimage.map_coordinates(window, position.T, order=1, mode="nearest", output=np.float32)
