"""A mask lies where its header says: taken on its own grid, resampled from another, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from nibabel.orientations import (
    apply_orientation,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from scipy import ndimage

__all__ = ["on_grid", "require_place", "whole_numbers"]

ROUNDING = 1e-3  # labels that programs computed with real numbers
SAME_PLACE = 0.1  # of a voxel, at the corner that differs most
MOST_SHOWN = 5


def whole_numbers(values: np.ndarray, argument: str) -> np.ndarray:
    """Return the values of a label map or mask as whole numbers.

    NaN is background. Values that are whole but for rounding (1e-3) are rounded. A soft mask, all
    of whose values lie from 0 to 1, is 1 from 0.5 on.

    Args:
        values: of any type.
        argument: its name in messages.

    Returns:
        Whole numbers of at most 16 bits; an array of such a type comes back as it is.

    Raises:
        ValueError: if it is neither, or does not fit 16 bits.

    Example:
        >>> whole_numbers(np.array([0.0, 1e-6, 1.9999999, np.nan]), "label").tolist()
        [0, 0, 2, 0]
        >>> whole_numbers(np.array([0.2, 0.5, 1.0]), "label").tolist()
        [0, 1, 1]
    """
    if values.dtype.kind == "b" or (values.dtype.kind in "iu" and values.dtype.itemsize == 1):
        return values
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0)
        rounded = np.rint(values)
        off = np.abs(values - rounded) > ROUNDING
        if off.any():
            if values.min() < -ROUNDING or values.max() > 1 + ROUNDING:
                shown = ", ".join(f"{v:g}" for v in np.unique(values[off])[:MOST_SHOWN])
                raise ValueError(
                    f"{argument} must hold whole numbers, or shares from 0 to 1, got {shown}, ..."
                )
            rounded = values >= 0.5
        values = rounded
    limits = np.iinfo(np.int16)
    if values.size and not (limits.min <= values.min() and values.max() <= limits.max):
        raise ValueError(
            f"{argument} must hold whole numbers of 16 bits, got {values.min()} to {values.max()}"
        )
    return values.astype(np.int16)


def require_place(image: Any, argument: str) -> None:
    """Refuse a label map on another grid whose header does not say where it lies.

    Raises:
        ValueError: if it has neither qform nor sform.
    """
    header = image.header
    if "qform_code" in header and not (header["qform_code"] or header["sform_code"]):
        raise ValueError(
            f"{argument} must say where it lies, or have the scan's shape and affine, got a "
            "header with neither qform nor sform"
        )


def on_grid(
    values: np.ndarray,
    affine: np.ndarray,
    shape: tuple[int, ...],
    target: np.ndarray,
    argument: str,
) -> tuple[np.ndarray, str]:
    """Return a label map or mask on the grid of a scan, and what had to be done.

    Axes may be turned or swapped. On another grid each voxel of the scan takes the nearest voxel of
    the map; beyond the map it is 0.

    Args:
        values: ``(I, J, K)``, whole numbers.
        affine: of the map, voxel index to RAS mm.
        shape: of the scan.
        target: affine of the scan.
        argument: its name in messages.

    Returns:
        Values of the same type on the scan's grid; a sentence, empty if the grid was the scan's.

    Raises:
        ValueError: if what is marked lies outside of the scan, or is lost between its voxels.

    Example:
        >>> fine = np.zeros((4, 4, 4), np.uint8)
        >>> fine[2:] = 1
        >>> coarse, note = on_grid(fine, np.eye(4), (2, 2, 2), np.diag([2.0, 2, 2, 1]), "label")
        >>> coarse[:, 0, 0].tolist(), note
        ([0, 1], 'label was resampled from a grid of 4 x 4 x 4 voxels of 1 x 1 x 1 mm')
    """
    turn = ornt_transform(io_orientation(affine), io_orientation(target))
    turned = apply_orientation(values, turn)
    placed = affine @ inv_ornt_aff(turn, values.shape)
    if turned.shape == tuple(shape) and _off(placed, target, shape) < SAME_PLACE:
        return turned, ""
    spacing = " x ".join(f"{mm:.3g}" for mm in np.linalg.norm(affine[:3, :3], axis=0))
    was = f"{' x '.join(map(str, values.shape))} voxels of {spacing} mm"
    found = _resampled(turned, np.linalg.inv(placed) @ target, shape)
    if values.any() and not found.any():
        marked = apply_affine(affine, np.argwhere(values).mean(0)).round(1).tolist()
        ends = apply_affine(target, [[0, 0, 0], np.subtract(shape, 1)]).round(1).tolist()
        raise ValueError(
            f"{argument} must lie in the scan, got one of {was} round {marked} mm where the scan "
            f"reaches from {ends[0]} to {ends[1]}"
        )
    note = f"{argument} was resampled from a grid of {was}"
    return found, note


def _off(affine: np.ndarray, target: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return how far the corners of two grids lie apart at most, in voxels."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T
    apart = apply_affine(affine, corners) - apply_affine(target, corners)
    return float(np.abs(apart @ np.linalg.inv(target[:3, :3]).T).max())


def _resampled(values: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> Any:
    plain = values.astype(np.uint8) if values.dtype == bool else values
    found = ndimage.affine_transform(
        plain, matrix[:3, :3], matrix[:3, 3], tuple(shape), order=0, mode="grid-constant", cval=0
    )
    return found.astype(values.dtype)
