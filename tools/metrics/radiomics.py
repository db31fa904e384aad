"""Radiomic features of a lesion: first order, shape, grey levels of neighbours, runs of levels.

Definitions are those of the image biomarker standardisation initiative (IBSI). Version 1 of this
set: isotropic voxels of 1 mm (linear for values, nearest for the mask), fixed bins of 25 HU (or 32
bins between two given ends), 13 directions, matrices merged over directions.

References:
    Zwanenburg et al., The image biomarker standardization initiative, Radiology 2020.
    https://arxiv.org/abs/1612.07003
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from scipy import ndimage, stats
from skimage.measure import marching_cubes, mesh_surface_area

__all__ = [
    "RADIOMICS_VERSION",
    "centred_cube",
    "cooccurrence",
    "isotropic",
    "radiomic_features",
    "run_lengths",
]

RADIOMICS_VERSION = 1
BIN_WIDTH = 25.0
MOST_BINS = 256
DIRECTIONS = [step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]  # 13 of 26


def isotropic(
    image: np.ndarray, mask: np.ndarray, spacing_mm: Sequence[float], to_mm: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return image and mask on cubic voxels; values between voxels are interpolated linearly."""
    factors = [float(spacing) / to_mm for spacing in spacing_mm]
    if np.allclose(factors, 1, atol=1e-3):
        return image, mask
    options = {"mode": "nearest", "grid_mode": True}
    values = ndimage.zoom(np.asarray(image, np.float32), factors, order=1, **options)
    inside = ndimage.zoom(mask.astype(np.float32), factors, order=1, **options) >= 0.5
    return values, inside


def centred_cube(
    image: np.ndarray, mask: np.ndarray, spacing_mm: Sequence[float], side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return image and mask in a cube of 1 mm voxels whose middle is that of the lesion.

    Beyond the image its border goes on; the middle of an empty mask is the first voxel. ``side`` is
    even: the middle has as many voxels before it as ``side / 2``.

    Example:
        >>> image = np.zeros((9, 9, 9)); image[6, 6, 6] = 1
        >>> values, inside = centred_cube(image, image > 0, (1, 1, 1), 4)
        >>> np.argwhere(inside).tolist(), values.sum()
        ([[2, 2, 2]], np.float64(1.0))
    """
    values, inside = isotropic(image, mask, spacing_mm)
    middle = np.argwhere(inside).mean(0).round().astype(int) if inside.any() else [0, 0, 0]
    place = tuple(slice(m, m + side) for m in middle)
    return np.pad(values, side // 2, mode="edge")[place], np.pad(inside, side // 2)[place]


def radiomic_features(
    image: np.ndarray,
    mask: np.ndarray,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    window: Sequence[float] | None = None,
) -> dict[str, float]:
    """Return the features of one lesion by name.

    Args:
        image: ``(H, W, D)``, in the scan's units.
        mask: True inside; the region that counts.
        spacing_mm: of a voxel.
        window: ends of 32 bins, for images without units; None: bins of 25.

    Returns:
        First order (``mean``, ``sd``, ...), ``shape_...``, ``glcm_...`` and ``glrlm_...``; what
        cannot be measured is NaN, all of an empty mask.

    Example:
        >>> found = radiomic_features(np.full((9, 9, 9), 40.0), np.ones((9, 9, 9), bool))
        >>> found["mean"], found["sd"], found["glcm_energy"]
        (40.0, 0.0, 1.0)
    """
    values, inside = isotropic(image, mask, spacing_mm)
    box = ndimage.find_objects(inside.astype(np.uint8))
    if not box:
        inside = np.zeros((1, 1, 1), bool)
        values = np.zeros((1, 1, 1))
    else:
        values, inside = values[box[0]], inside[box[0]]
    levels = _levels(values, inside, window)
    return {
        **_first_order(values[inside]),
        **{f"shape_{name}": value for name, value in _shape(inside).items()},
        **{f"glcm_{name}": value for name, value in _of_neighbours(levels).items()},
        **{f"glrlm_{name}": value for name, value in _of_runs(levels).items()},
    }


def _levels(values: np.ndarray, inside: np.ndarray, window: Sequence[float] | None) -> np.ndarray:
    """Return grey levels from 1, and 0 outside."""
    if not inside.any():
        return np.zeros(values.shape, int)
    if window is None:
        low = np.floor(values[inside].min() / BIN_WIDTH) * BIN_WIDTH
        bins = np.floor((values - low) / BIN_WIDTH)
    else:
        bins = np.floor((values - window[0]) / (window[1] - window[0]) * 32)
    return np.where(inside, bins.clip(0, MOST_BINS - 1).astype(int) + 1, 0)


def _first_order(values: np.ndarray) -> dict[str, float]:
    names = ("mean", "sd", "skewness", "kurtosis", "p10", "p90", "iqr", "entropy")
    if not len(values):
        return dict.fromkeys(names, float("nan"))
    p10, p25, p75, p90 = np.percentile(values, [10, 25, 75, 90])
    even = np.ptp(values) == 0
    bins = np.unique(np.floor(values / BIN_WIDTH), return_counts=True)[1]
    found = (
        values.mean(),
        values.std(),
        0.0 if even else stats.skew(values),
        0.0 if even else stats.kurtosis(values),
        p10,
        p90,
        p75 - p25,
        stats.entropy(bins, base=2),
    )
    return {name: float(value) for name, value in zip(names, found, strict=True)}


def _shape(inside: np.ndarray) -> dict[str, float]:
    """Return volume in mm3, sphericity, elongation and flatness of a mask of 1 mm voxels."""
    volume = float(inside.sum())
    if volume < 8:
        return dict.fromkeys(("volume_mm3", "sphericity", "elongation", "flatness"), float("nan"))
    vertices, faces, *_ = marching_cubes(np.pad(inside, 1).astype(np.float32), 0.5)
    area = mesh_surface_area(vertices, faces)
    axes = np.sqrt(np.linalg.eigvalsh(np.cov(np.argwhere(inside).T)).clip(0))
    return {
        "volume_mm3": volume,
        "sphericity": float(np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area),
        "elongation": float(axes[1] / axes[2]) if axes[2] else float("nan"),
        "flatness": float(axes[0] / axes[2]) if axes[2] else float("nan"),
    }


def cooccurrence(levels: np.ndarray) -> np.ndarray:
    """Return the symmetric matrix of grey levels of neighbours, merged over 13 directions.

    Args:
        levels: ``(H, W, D)``, from 1; 0 is outside.

    Returns:
        Shares ``(N, N)`` for N the highest level; all 0 where there are no neighbours.

    Example:
        >>> cooccurrence(np.array([[[1, 1, 2]]])).tolist()
        [[0.5, 0.25], [0.25, 0.0]]
    """
    count = int(levels.max())
    total = np.zeros(count * count)
    for step in DIRECTIONS:
        one, other = _pairs(levels, step)
        both = (one > 0) & (other > 0)
        index = (one[both] - 1) * count + other[both] - 1
        total += np.bincount(index, minlength=count * count)
    matrix = total.reshape(count, count)
    matrix = matrix + matrix.T
    return matrix / matrix.sum() if matrix.any() else matrix


def _pairs(levels: np.ndarray, step: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return each voxel and its neighbour in a direction, as two views of one shape."""
    first = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, levels.shape, strict=True))
    second = tuple(
        slice(max(0, s), n - max(0, -s)) for s, n in zip(step, levels.shape, strict=True)
    )
    return levels[first], levels[second]


def _of_neighbours(levels: np.ndarray) -> dict[str, float]:
    names = ("contrast", "correlation", "energy", "entropy", "homogeneity", "cluster_shade")
    shares = cooccurrence(levels)
    if not shares.any():
        return dict.fromkeys(names, float("nan"))
    i, j = np.indices(shares.shape) + 1.0
    mean = float((i * shares).sum())
    spread = float(((i - mean) ** 2 * shares).sum())
    together = float(((i - mean) * (j - mean) * shares).sum())
    found = (
        ((i - j) ** 2 * shares).sum(),
        together / spread if spread else 1.0,
        (shares**2).sum(),
        stats.entropy(shares.ravel(), base=2),
        (shares / (1 + (i - j) ** 2)).sum(),
        ((i + j - 2 * mean) ** 3 * shares).sum(),
    )
    return {name: float(value) for name, value in zip(names, found, strict=True)}


def run_lengths(levels: np.ndarray) -> np.ndarray:
    """Return how many runs of each grey level have each length, merged over 13 directions.

    Args:
        levels: ``(H, W, D)``, from 1; 0 is outside.

    Returns:
        Counts ``(N, L)`` for N the highest level and L the longest side.

    Example:
        >>> run_lengths(np.array([[[1, 1, 2]]]))[:, :2].tolist()  # a run of two in one direction
        [[24.0, 1.0], [13.0, 0.0]]
    """
    count, longest = int(levels.max()), max(levels.shape)
    total = np.zeros((count, longest))
    for step in DIRECTIONS:
        left = np.zeros(levels.shape, int)  # equal voxels before this one
        same = np.zeros(levels.shape, bool)
        before, here = _slices(step, levels.shape)
        same[here] = (levels[here] == levels[before]) & (levels[here] > 0)
        for _ in range(longest):  # lengths grow by one voxel in each round
            grown = np.zeros_like(left)
            grown[here] = np.where(same[here], left[before] + 1, 0)
            if np.array_equal(grown, left):
                break
            left = grown
        ends = levels > 0
        ends[before] &= ~same[here]
        np.add.at(total, (levels[ends] - 1, left[ends]), 1)
    return total


def _slices(step: Sequence[int], shape: Sequence[int]) -> tuple[tuple, tuple]:
    before = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, shape, strict=True))
    here = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, shape, strict=True))
    return before, here


def _of_runs(levels: np.ndarray) -> dict[str, float]:
    names = ("short_runs", "long_runs", "level_evenness", "length_evenness", "run_share")
    if not levels.any():
        return dict.fromkeys(names, float("nan"))
    runs = run_lengths(levels)
    number = runs.sum()
    length = np.arange(1, runs.shape[1] + 1)
    found = (
        (runs.sum(0) / length**2).sum() / number,
        (runs.sum(0) * length**2).sum() / number,
        (runs.sum(1) ** 2).sum() / number**2,
        (runs.sum(0) ** 2).sum() / number**2,
        number / ((levels > 0).sum() * len(DIRECTIONS)),
    )
    return {name: float(value) for name, value in zip(names, found, strict=True)}
