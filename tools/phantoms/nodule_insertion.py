"""Nodules in a healthy phantom."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tools.phantoms.chest_ct import ChestPhantom
from tools.phantoms.nodule_shapes import nodule_masks
from tools.phantoms.nodule_textures import paint_nodule

__all__ = ["add_nodules", "place_mask", "resample_mask"]


def resample_mask(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> NDArray[np.bool_]:
    """Bring a mask from the 1 mm grid to another spacing by its signed distance.

    Args:
        mask: ``(I, J, K)`` at 1 mm isotropic.
        spacing_mm: wanted voxel size per axis.

    Returns:
        Mask with its centre at the centre of the array; at least one voxel is set if ``mask`` is.
    """
    if np.allclose(spacing_mm, 1.0) or not mask.any():
        return mask.copy()
    distance = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    spacing = np.array(spacing_mm)
    half = np.ceil(np.array(mask.shape) / spacing / 2).astype(int)
    grids = [
        (np.arange(-n, n + 1) * step) + (size - 1) / 2
        for n, step, size in zip(half, spacing, mask.shape, strict=True)
    ]
    points = np.stack(np.meshgrid(*grids, indexing="ij"))
    sampled = ndimage.map_coordinates(distance, points, order=1, mode="nearest")
    return sampled > min(0.0, sampled.max() - 1e-6)


def place_mask(
    mask: NDArray[np.bool_],
    room: NDArray[np.bool_],
    avoid: NDArray[np.bool_],
    rng: np.random.Generator,
    attempts: int = 200,
) -> tuple[slice, ...] | None:
    """Find a box for a mask that lies in an organ and keeps clear of other structures.

    Args:
        mask: shape to place, ``(i, j, k)``.
        room: True in the organ, ``(I, J, K)``; 97 % of the shape must lie in it.
        avoid: True where the shape must hardly reach (at most 5 % of it).
        rng: source of randomness.
        attempts: random sites tried, drawn uniformly from ``room``.

    Returns:
        The box for ``mask``, or None if no site was found.
    """
    candidates = np.argwhere(room)
    if not len(candidates):
        return None
    for site in candidates[rng.integers(len(candidates), size=attempts)]:
        start = site - np.array(mask.shape) // 2
        if (start < 0).any() or (start + mask.shape > room.shape).any():
            continue
        box = tuple(slice(a, a + n) for a, n in zip(start, mask.shape, strict=True))
        if room[box][mask].mean() >= 0.97 and avoid[box][mask].mean() <= 0.05:
            return box
    return None


def add_nodules(
    phantom: ChestPhantom,
    count: int,
    seed: int = 0,
    diameter_mm: tuple[float, float] = (6.0, 25.0),
) -> tuple[ChestPhantom, list[dict[str, Any]]]:
    """Return the phantom with nodules in its lungs, and what was put in.

    Args:
        phantom: healthy phantom, or one with nodules already.
        count: how many nodules.
        seed: of shapes, sites and textures.
        diameter_mm: smallest and largest longest diameter.

    Returns:
        The phantom with ``image`` and ``lesion_mask`` (1 in the nodules) changed, and one record
        per nodule: ``site_mm`` (RAS), ``texture``, ``diameter_mm``, ``shape_source``.

    Raises:
        RuntimeError: if the lungs have no room for a nodule.
    """
    rng = np.random.default_rng([seed, 2])
    steps = np.linalg.norm(phantom.affine[:3, :3], axis=0)
    spacing = (float(steps[0]), float(steps[1]), float(steps[2]))
    image, lesion_mask = phantom.image, phantom.lesion_mask.copy()
    records: list[dict[str, Any]] = []
    for mask, information in nodule_masks(count, seed, diameter_mm):
        shape = resample_mask(mask, spacing)
        taken = ndimage.binary_dilation(lesion_mask > 0, iterations=3)
        room = (phantom.lung_mask > 0) & ~taken
        box = place_mask(shape, room, phantom.vessel_mask > 0, rng, attempts=2000)
        if box is None:
            raise RuntimeError(
                f"lungs must have room for nodule {len(records) + 1} of {count}, found none"
            )
        lesion = np.zeros(lesion_mask.shape, dtype=bool)
        lesion[box] = shape
        image = paint_nodule(
            image, lesion, information["texture"], int(rng.integers(2**31)), spacing
        )
        lesion_mask[lesion] = 1
        site = phantom.affine[:3, :3] @ np.argwhere(lesion).mean(axis=0) + phantom.affine[:3, 3]
        records.append({"site_mm": [round(float(v), 2) for v in site], **information})
    return phantom._replace(image=image, lesion_mask=lesion_mask), records
