"""Textures of lung nodules drawn from published intensity histograms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["TEXTURE_HISTOGRAMS", "paint_nodule", "sample_histogram"]

WINDOW_HU = (-1000.0, 400.0)
# Voxel counts of the three exemplar controls published with LeFusion (Zhang et al., ICLR 2025):
# 16 equal bins over the window, means -343, -127 and +69 HU.
TEXTURE_HISTOGRAMS: dict[str, tuple[int, ...]] = {
    "ground_glass": (0, 0, 3, 14, 30, 39, 10, 25, 21, 18, 25, 17, 10, 0, 0, 0),
    "part_solid": (0, 0, 0, 1, 23, 132, 230, 281, 319, 418, 626, 1111, 270, 36, 14, 3),
    "solid": (0, 0, 0, 0, 1, 0, 5, 6, 20, 49, 202, 2135, 6201, 269, 11, 2),
}
# How the values are laid out: weight of depth below the surface, of an off-centre core, of smooth
# and of fine noise. Depth ranks partial-volume voxels at the rim lowest.
_LAYOUT = {
    "ground_glass": (0.5, 0.4, 1.0, 0.5),
    "part_solid": (0.7, 1.2, 0.5, 0.25),
    "solid": (1.2, 0.3, 0.25, 0.35),
}


def sample_histogram(
    histogram: NDArray[np.float64] | tuple[int, ...],
    count: int,
    window_hu: tuple[float, float] = WINDOW_HU,
) -> NDArray[np.float64]:
    """Return ``count`` ascending values in HU that follow a histogram.

    The values are the quantiles at (k + 1/2)/count, uniform within a bin, so their histogram is the
    given one up to 1/count.

    Args:
        histogram: weights of equal bins over ``window_hu``, >= 0, not all zero.
        count: how many values.
        window_hu: lowest edge of the first and highest edge of the last bin.

    Raises:
        ValueError: if a weight is negative or all are zero.
    """
    weights = np.asarray(histogram, dtype=float)
    if (weights < 0).any() or weights.sum() == 0:
        raise ValueError(f"histogram must hold weights >= 0, not all zero, got {histogram}")
    edges = np.linspace(*window_hu, len(weights) + 1)
    cumulative = np.concatenate([[0.0], np.cumsum(weights) / weights.sum()])
    # Empty bins make the cumulative flat; np.interp needs an increasing abscissa.
    keep = np.concatenate([[True], np.diff(cumulative) > 0])
    keep[:-1] |= np.diff(cumulative) > 0
    return np.interp((np.arange(count) + 0.5) / count, cumulative[keep], edges[keep])


def _unit(field: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = field.std()
    return (field - field.mean()) / spread if spread > 0 else field * 0.0


def paint_nodule(
    image: NDArray[np.int16],
    lesion_mask: NDArray[np.bool_],
    texture: str,
    seed: int = 0,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> NDArray[np.int16]:
    """Return a copy of a scan with a nodule painted into the mask.

    Inside, voxels are ranked by depth, by distance to an off-centre core and by noise, and get the
    quantiles of the published histogram of their texture (with +-10 % fluctuation per bin), so the
    histogram inside the mask is the published one. The surroundings are touched within about
    1.5 mm: the point-spread function makes the edge soft.

    Args:
        image: scan in HU, ``(I, J, K)``.
        lesion_mask: True inside the nodule, ``(I, J, K)``. An empty mask returns a copy.
        texture: "ground_glass", "part_solid" or "solid".
        seed: of the layout.
        spacing_mm: voxel size per axis.

    Raises:
        ValueError: if ``texture`` is unknown or the shapes differ.
    """
    if texture not in TEXTURE_HISTOGRAMS:
        raise ValueError(f"texture must be one of {sorted(TEXTURE_HISTOGRAMS)}, got {texture!r}")
    if image.shape != lesion_mask.shape:
        raise ValueError(
            f"lesion_mask must have the shape of image {image.shape}, got {lesion_mask.shape}"
        )
    painted = image.astype(np.float64)
    if not lesion_mask.any():
        return image.copy()
    rng = np.random.default_rng(seed)
    box = _padded_box(lesion_mask, spacing_mm, margin_mm=5.0)
    inside = lesion_mask[box] > 0
    values = np.zeros(inside.shape)
    histogram = np.array(TEXTURE_HISTOGRAMS[texture]) * rng.uniform(0.9, 1.1, 16)
    order = np.argsort(_layout_score(inside, texture, rng, spacing_mm)[inside], kind="stable")
    ranked = np.empty(order.size)
    ranked[order] = sample_histogram(histogram, order.size)
    values[inside] = ranked
    painted[box] = _soften_edge(painted[box], values, inside, spacing_mm)
    return np.round(painted).astype(np.int16)


def _padded_box(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float], margin_mm: float
) -> tuple[slice, ...]:
    """Return the bounding box of a mask with a margin, within the array."""
    found = ndimage.find_objects((mask > 0).astype(np.uint8))[0]
    return tuple(
        slice(max(0, part.start - pad), min(size, part.stop + pad))
        for part, size, pad in zip(
            found, mask.shape, np.ceil(margin_mm / np.array(spacing_mm)).astype(int), strict=True
        )
    )


def _layout_score(
    inside: NDArray[np.bool_],
    texture: str,
    rng: np.random.Generator,
    spacing_mm: tuple[float, float, float],
) -> NDArray[np.float64]:
    """Return the order in which voxels get denser values."""
    spacing = np.array(spacing_mm)
    depth = np.minimum(ndimage.distance_transform_edt(inside, sampling=spacing), 3.0)
    indices = np.argwhere(inside)
    core = indices.mean(axis=0) + rng.normal(0, 0.3, 3) * indices.std(axis=0)
    grid = np.moveaxis(np.indices(inside.shape), 0, -1)
    towards_core = -np.linalg.norm((grid - core) * spacing, axis=-1)
    smooth = ndimage.gaussian_filter(rng.standard_normal(inside.shape), 1.5 / spacing)
    fine = ndimage.gaussian_filter(rng.standard_normal(inside.shape), 0.6 / spacing)
    score = np.zeros(inside.shape)
    fields = (depth, towards_core, smooth, fine)
    for weight, field in zip(_LAYOUT[texture], fields, strict=True):
        score[inside] += weight * _unit(field[inside])
    return score


def _soften_edge(
    background: NDArray[np.float64],
    values: NDArray[np.float64],
    inside: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
) -> NDArray[np.float64]:
    """Put ``values`` inside the mask and a fading rim of them outside."""
    sigma = 0.7 / np.array(spacing_mm)
    share = ndimage.gaussian_filter(inside.astype(np.float64), sigma)
    spread = ndimage.gaussian_filter(np.where(inside, values, 0.0), sigma)
    rim = spread / np.maximum(share, 1e-6)
    mixed = np.where(share > 0.02, background + share * (rim - background), background)
    # Vessels and wall next to the nodule stay as dense as they are.
    return np.where(inside, values, np.maximum(mixed, background))
