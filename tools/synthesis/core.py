"""Two classes in one lesion: a solid core in a halo, each with its end of the histogram."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from tools.histograms import match_histogram

__all__ = ["place_core", "split_histogram"]

WAVE_MM = 3.0  # size of the waves that keep a core from being a copy of its lesion, smaller
WAVE = 0.4  # their height: the border stays where it is, so that cores keep off it
SOFT = 0.2  # share of the lesion's voxels that lie between core and halo


def split_histogram(histogram: np.ndarray, solid_bin: int, solid_share: float) -> np.ndarray:
    """Return a histogram of which this share lies in ``solid_bin`` and above.

    Args:
        histogram: ``(bins,)``, with some weight on both sides.
        solid_bin: first bin that is solid.
        solid_share: 0 to 1.

    Example:
        >>> split_histogram(np.array([0.4, 0.4, 0.1, 0.1]), 2, 0.5).tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    halo, solid = np.array(histogram, float), np.array(histogram, float)
    halo[solid_bin:], solid[:solid_bin] = 0, 0
    return (1 - solid_share) * halo / halo.sum() + solid_share * solid / solid.sum()


def place_core(
    values: np.ndarray,
    lesion_mask: np.ndarray,
    histogram: np.ndarray,
    solid_share: float,
    seed: int,
    spacing_mm: float = 1.0,
) -> np.ndarray:
    """Return a lesion whose brightest voxels lie together, as deep as they can.

    Part-solid nodules are a solid core in a ground-glass halo. The histogram says how much of
    either there is, not where. Here the voxels are ordered anew: those of the core, a level set of
    the depth in the lesion with smooth waves in it, come after those of the halo, and within
    either they keep the order that the sampler gave them, and with it their grain. Then the
    histogram is imposed by rank (:func:`tools.histograms.match_histogram`).

    Args:
        values: sampled, in [-1, 1], ``(H, W, D)``.
        lesion_mask: True inside, same shape; an empty one changes nothing.
        histogram: asked for, ``(bins,)`` over [-1, 1].
        solid_share: share of the lesion that is core, 0 to 1.
        seed: of the waves.
        spacing_mm: voxel size.

    Returns:
        The values; those outside the mask are as they were.
    """
    inside = np.asarray(lesion_mask, bool)
    if not inside.any():
        return values
    count = int(inside.sum())
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1, 1:-1]
    noise = np.random.default_rng(seed).normal(size=inside.shape)
    waves = ndimage.gaussian_filter(noise, WAVE_MM / spacing_mm)
    level = depth * np.exp(WAVE * waves / max(float(waves.std()), 1e-9))
    # places in the order of depth, and in that of brightness, from 0 to 1
    deep, bright = (_ranks(part[inside]) / count for part in (level, values))
    core = np.clip((deep - (1 - solid_share)) / SOFT + 0.5, 0, 1)
    wanted = torch.as_tensor(np.asarray(histogram, float))
    result = np.array(values)
    matched = match_histogram(torch.as_tensor(bright + core), wanted)
    result[inside] = matched.numpy()
    return result


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")
