"""Coarse copies of scans: block means, mask expansion and morphology with radii in mm.

Decisions about places need no more than about 2 mm of resolution; a scan of 512 x 512 x 300 voxels
then costs seconds instead of minutes.
"""

from collections.abc import Sequence

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage


def voxel_spacing(affine: np.ndarray) -> np.ndarray:
    """Return the voxel size in mm, shape (3,), along the three array axes.

    Args:
        affine: voxel to RAS mm, shape (4, 4).

    Raises:
        ValueError: if ``affine`` is not an invertible (4, 4) matrix.
    """
    affine = np.asarray(affine, dtype=float)
    if affine.shape != (4, 4) or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(f"affine must be an invertible 4 x 4 matrix, got {affine.tolist()}")
    return nib.affines.voxel_sizes(affine)


def block_factors(
    spacing_mm: Sequence[float] | np.ndarray, work_mm: float = 2.0
) -> tuple[int, int, int]:
    """Return how many voxels per axis make one block of about ``work_mm``, at least one.

    Args:
        spacing_mm: voxel size along the three axes.
        work_mm: wanted block size.
    """
    first, second, third = (max(1, round(work_mm / s)) for s in spacing_mm)
    return first, second, third


def block_mean(volume: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Average blocks of voxels; incomplete blocks at the end are completed with the edge value.

    Args:
        volume: numbers or bool, shape (i, j, k).
        factors: voxels per block along each axis.

    Returns:
        float32, shape ``ceil(size / factor)`` per axis.
    """
    padding = [(0, -size % f) for size, f in zip(volume.shape, factors, strict=True)]
    if any(after for _, after in padding):
        volume = np.pad(volume, padding, mode="edge")
    # Strided sums touch every voxel once and need no float copy of the whole scan.
    total = np.zeros([s // f for s, f in zip(volume.shape, factors, strict=True)], np.float32)
    for offset in np.ndindex(*factors):
        total += volume[tuple(slice(o, None, f) for o, f in zip(offset, factors, strict=True))]
    return total / float(np.prod(factors))


def expand_mask(
    mask: np.ndarray, factors: Sequence[int], shape: tuple[int, int, int]
) -> np.ndarray:
    """Bring a mask of blocks back to the voxels of the scan with a smooth (trilinear) surface.

    Args:
        mask: bool, one value per block, as made by :func:`block_mean` with ``factors``.
        factors: voxels per block along each axis.
        shape: shape of the scan.

    Returns:
        bool, shape ``shape``.
    """
    size = [s * f for s, f in zip(mask.shape, factors, strict=True)]
    # Pixel-area alignment (align_corners=False) is exactly the geometry of block means.
    fine = torch.nn.functional.interpolate(
        torch.from_numpy(mask.astype(np.float32))[None, None], size=size, mode="trilinear"
    )
    return (fine[0, 0] > 0.5).numpy()[tuple(slice(s) for s in shape)]


def dilate(mask: np.ndarray, radius_mm: float, spacing_mm: np.ndarray) -> np.ndarray:
    """Add every voxel within ``radius_mm`` of the mask; an empty mask stays empty."""
    if not mask.any():
        return mask.copy()
    box = tuple(
        slice(max(0, s.start - r), s.stop + r)
        for s, r in zip(
            ndimage.find_objects(mask.astype(np.uint8))[0],
            np.ceil(radius_mm / spacing_mm).astype(int),
            strict=True,
        )
    )
    grown = np.zeros_like(mask)
    grown[box] = ndimage.distance_transform_edt(~mask[box], sampling=spacing_mm) <= radius_mm
    return grown


def erode(mask: np.ndarray, radius_mm: float, spacing_mm: np.ndarray) -> np.ndarray:
    """Remove every voxel within ``radius_mm`` of the background; the border of the array is kept.

    What lies beyond the border is unknown, so a structure cut by it is not eaten from that side.
    """
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return mask.copy()
    box_grown = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box[0])
    kept = np.zeros_like(mask)
    inner = mask[box_grown]
    if inner.all():
        kept[box_grown] = True
    else:
        distance = ndimage.distance_transform_edt(inner, sampling=spacing_mm)
        kept[box_grown] = distance > radius_mm
    return kept


def close_gaps(mask: np.ndarray, radius_mm: float, spacing_mm: np.ndarray) -> np.ndarray:
    """Close gaps and dents narrower than two radii; the mask goes on beyond the border."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return mask.copy()
    # One voxel of background on the sides that have it, so that only cut sides are continued.
    box = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in found[0])
    width = np.ceil(radius_mm / spacing_mm).astype(int) + 1
    padded = np.pad(mask[box], [(int(w), int(w)) for w in width], mode="edge")
    padded = erode(dilate(padded, radius_mm, spacing_mm), radius_mm, spacing_mm)
    closed = mask.copy()
    closed[box] |= padded[tuple(slice(w, -w) for w in width)]
    return closed
