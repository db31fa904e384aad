"""Coarse copies of scans: block means, mask expansion and morphology with radii in mm.

Decisions about places need no more than about 2 mm of resolution; a scan of 512 x 512 x 300 voxels
then costs seconds instead of minutes.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from tools.scans.changed import PackedMask

BLOCK_MM = 2.0
SLAB = 8  # planes that are interpolated at once
ROWS = 32  # that are looked at at once for what lies near


def voxel_spacing(affine: np.ndarray) -> np.ndarray:
    """Return the voxel size in mm, shape (3,); a ValueError if the affine is not invertible."""
    affine = np.asarray(affine, dtype=float)
    if affine.shape != (4, 4) or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(f"affine must be an invertible 4 x 4 matrix, got {affine.tolist()}")
    return nib.affines.voxel_sizes(affine)


def block_factors(spacing_mm: Sequence[float] | np.ndarray) -> tuple[int, ...]:
    """Return how many voxels per axis make one block of about 2 mm, at least one."""
    return tuple(max(1, round(BLOCK_MM / s)) for s in spacing_mm)


def block_mean(volume: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Average blocks of voxels: float32, shape ``ceil(size / factor)`` per axis.

    Incomplete blocks at the end are completed with the edge value.
    """
    total = np.zeros([-(-s // f) for s, f in zip(volume.shape, factors, strict=True)], np.float32)
    # slab by slab, so that there is no copy of the whole scan
    for k in range(total.shape[2]):
        slab = volume[..., k * factors[2] : (k + 1) * factors[2]]
        padding = [(0, -size % f) for size, f in zip(slab.shape, factors, strict=True)]
        slab = np.pad(slab, padding, mode="edge")
        for offset in np.ndindex(*factors):
            part = tuple(slice(o, None, f) for o, f in zip(offset, factors, strict=True))
            total[..., k] += slab[part][..., 0]
    total /= float(np.prod(factors))
    return total


def expand_mask(
    mask: np.ndarray, factors: Sequence[int], shape: tuple[int, int, int]
) -> PackedMask:
    """Bring a mask of blocks (:func:`block_mean`) to a scan's voxels with a trilinear surface."""
    return PackedMask(shape, _fine_planes(mask, factors, shape))


def _fine_planes(
    mask: np.ndarray, factors: Sequence[int], shape: tuple[int, int, int]
) -> Iterator[np.ndarray]:
    count, factor = mask.shape[2], factors[2]
    step = max(1, SLAB // factor)
    for start in range(0, count, step):
        low = max(0, start - 1)  # beside the slab too, which the interpolation looks at
        fine = _interpolated(mask[..., low : start + step + 1], factors)[: shape[0], : shape[1]]
        for k in range(start * factor, min((start + step) * factor, shape[2])):
            yield fine[..., k - low * factor]


def _interpolated(mask: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Return a mask on finer voxels, True where the trilinear surface is above one half."""
    size = [s * f for s, f in zip(mask.shape, factors, strict=True)]
    # Pixel-area alignment (align_corners=False) is exactly the geometry of block means.
    coarse = torch.from_numpy(mask.astype(np.float32))[None, None]
    fine = torch.nn.functional.interpolate(coarse, size=size, mode="trilinear")[0, 0]
    return (fine > 0.5).numpy()


def distance_mm(mask: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Return how far each voxel of a mask is from the background, in mm, 0 beyond it.

    To the last bit what scipy returns, in a third of its memory.
    """
    distance = np.empty(mask.shape)
    for row, plane in enumerate(_distances(mask, spacing_mm)):
        distance[row] = plane
    return distance


def _distances(mask: np.ndarray, spacing_mm: np.ndarray) -> Iterator[np.ndarray]:
    """Yield :func:`distance_mm` along the first axis, so that none need hold the whole."""
    nearest = ndimage.distance_transform_edt(
        mask, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    _, across, down = np.ogrid[tuple(slice(size) for size in mask.shape)]
    for row in range(mask.shape[0]):
        total = np.zeros(mask.shape[1:])
        for found, own, mm in zip(
            nearest[:, row], (row, across[0], down[0]), spacing_mm, strict=True
        ):
            total += ((found - own) * float(mm)) ** 2
        yield np.sqrt(total, out=total)


def _near_background(
    mask: np.ndarray, radius_mm: float, spacing_mm: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield along the first axis where the background is no farther than a radius.

    Row by row what :func:`distance_mm` says; some rows at once need a fraction of its memory.
    """
    margin = int(np.ceil(radius_mm / spacing_mm[0]))
    for start in range(0, len(mask), ROWS):
        low, rows = max(0, start - margin), len(mask[start : start + ROWS])
        part = mask[low : start + rows + margin]
        if part.all():  # no background to be near to
            yield from np.zeros((rows, *mask.shape[1:]), bool)
            continue
        distances = _distances(part, spacing_mm)
        wanted = islice(distances, start - low, start - low + rows)
        yield from (distance <= radius_mm for distance in wanted)


def _box_round(mask: np.ndarray, margin: Sequence[int] | np.ndarray) -> tuple[slice, ...]:
    """Return the box round a mask that is not empty, wider by a margin where there is room."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    return tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(box, margin, strict=True))


def dilate(mask: np.ndarray, radius_mm: float, spacing_mm: np.ndarray) -> np.ndarray:
    """Add every voxel within ``radius_mm`` of the mask; an empty mask stays empty."""
    if not mask.any():
        return mask.copy()
    box = _box_round(mask, np.ceil(radius_mm / spacing_mm).astype(int))
    grown = np.zeros_like(mask)
    near = _near_background(~mask[box], radius_mm, spacing_mm)
    for row, within in zip(grown[box], near, strict=True):
        row[:] = within
    return grown


def erode(mask: np.ndarray, radius_mm: float, spacing_mm: np.ndarray) -> np.ndarray:
    """Remove every voxel within ``radius_mm`` of the background; the border of the array is kept.

    What lies beyond the border is unknown, so a structure cut by it is not eaten from that side.
    """
    if not mask.any() or mask.all():
        return mask.copy()
    # one voxel of background on the sides that have it
    box = _box_round(mask, (1, 1, 1))
    kept = np.zeros_like(mask)
    near = _near_background(mask[box], radius_mm, spacing_mm)
    for row, within in zip(kept[box], near, strict=True):
        row[:] = ~within
    return kept


def close_gaps(mask: np.ndarray, radius_mm: float, spacing_mm: np.ndarray) -> np.ndarray:
    """Close gaps and dents narrower than two radii; the mask goes on beyond the border."""
    if not mask.any():
        return mask.copy()
    # One voxel of background on the sides that have it, so that only cut sides are continued.
    box = _box_round(mask, (1, 1, 1))
    width = np.ceil(radius_mm / spacing_mm).astype(int) + 1
    padded = np.pad(mask[box], [(int(w), int(w)) for w in width], mode="edge")
    padded = erode(dilate(padded, radius_mm, spacing_mm), radius_mm, spacing_mm)
    closed = mask.copy()
    closed[box] |= padded[tuple(slice(w, -w) for w in width)]
    return closed


def part_sizes(labels: np.ndarray, count: int) -> np.ndarray:
    """Return how many voxels have each label from 0 to ``count``; numpy copies what it counts."""
    sizes = np.zeros(count + 1, np.int64)
    for plane in labels:
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
    return sizes


def largest_part(mask: np.ndarray, near: np.ndarray | None = None) -> np.ndarray:
    """Return the largest part of a mask whose voxels share faces; of those that meet ``near``."""
    labels, count = ndimage.label(mask)
    if not count:
        return np.zeros(mask.shape, bool)
    sizes = np.bincount(labels.ravel() if near is None else labels[near], minlength=count + 1)
    sizes[0] = 0
    return labels == sizes.argmax() if sizes.any() else np.zeros(mask.shape, bool)
