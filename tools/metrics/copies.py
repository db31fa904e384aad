"""Whether lesions were learnt by heart: how near each lies to the nearest one of a library."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy import ndimage

__all__ = ["aligned_cube", "like_sized", "nearest", "nearness_limits", "picture_distances"]

SIDE = 24  # voxels of 1 mm
SMALLEST = 8  # voxels that a correlation is of
LIKE = 39  # real lesions of about the same size
NEAR = 5  # % of them lie nearer than what counts as near
MIRRORINGS = [axes for count in range(4) for axes in combinations(range(3), count)]


def aligned_cube(
    image: np.ndarray, mask: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return image and mask in a cube of 24 voxels of 1 mm, sampled round the lesion's middle.

    Between voxels it is interpolated linearly, so that a lesion and its mirror image give mirrored
    cubes, wherever in a voxel their middles lie. Beyond the image its border goes on.

    Raises:
        ValueError: if the mask is empty.
    """
    if not mask.any():
        raise ValueError("mask must hold a lesion, got an empty mask")
    offsets = np.arange(SIDE) - (SIDE - 1) / 2
    middle = np.argwhere(mask).mean(0)
    axes = [m + offsets / s for m, s in zip(middle, spacing_mm, strict=True)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"))
    values, inside = (
        ndimage.map_coordinates(x.astype(np.float32), places, order=1, mode="nearest")
        for x in (image, mask)
    )
    return values, inside >= 0.5


def picture_distances(cubes: np.ndarray, masks: np.ndarray, library: np.ndarray) -> np.ndarray:
    """Return one minus the correlation of each lesion with those of a library.

    Over the voxels of the lesion's own mask, the highest of all eight mirrorings: what a network
    copies it copies mirrored as well, as it was trained. Level and contrast do not matter.

    Args:
        cubes: lesions ``(N, S, S, S)``, as :func:`aligned_cube` gives them.
        masks: True inside.
        library: lesions likewise, ``(M, S, S, S)``.

    Returns:
        ``(N, M)``, 0 (the same but for level and contrast) to 2; NaN where the mask has fewer than
        8 voxels or the lesion is even.

    Example:
        >>> library = np.random.default_rng(0).normal(size=(2, 4, 4, 4))
        >>> copy = np.flip(library[1:], 1) * 3 + 7
        >>> found = picture_distances(copy, np.ones((1, 4, 4, 4), bool), library)
        >>> (found < 0.5).tolist()
        [[False, True]]
    """
    found = np.full((len(cubes), len(library)), np.nan)
    for k, (values, inside) in enumerate(zip(cubes, masks, strict=True)):
        if inside.sum() < SMALLEST or np.ptp(values[inside]) == 0:
            continue
        mirrored = (
            _correlations(np.flip(values, axes)[chosen], library[:, chosen])
            for axes in MIRRORINGS
            for chosen in [np.flip(inside, axes)]
        )
        found[k] = 1 - np.max(list(mirrored), axis=0)
    return found


def _correlations(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    one = one - one.mean()
    others = others - others.mean(1, keepdims=True)
    lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(one)
    return others @ one / np.where(lengths > 0, lengths, np.inf)


def nearest(
    apart: np.ndarray,
    groups: Sequence[object] | None = None,
    library_groups: Sequence[object] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of each lesion to the nearest one of a library, and which that is.

    Args:
        apart: distances ``(N, M)``.
        groups: patient of each; with ``library_groups`` no lesion is compared with one of its own
            patient.
        library_groups: patient of each lesion of the library.

    Returns:
        ``(N,)`` each; the distance is NaN where there is nothing to compare with.

    Example:
        >>> nearest(np.array([[2.0, 1.0], [np.nan, np.nan]]))[0].tolist()
        [1.0, nan]
        >>> nearest(np.array([[0.0, 1.0], [1.0, 0.0]]), "ab", "ab")[1].tolist()
        [1, 0]
    """
    apart = np.where(np.isnan(apart), np.inf, apart)
    if groups is not None and library_groups is not None:
        apart[[[str(a) == str(b) for b in library_groups] for a in groups]] = np.inf
    distance = apart.min(1)
    return np.where(np.isfinite(distance), distance, np.nan), apart.argmin(1)


def like_sized(sizes: Sequence[float], real_sizes: Sequence[float]) -> np.ndarray:
    """Return which 39 real lesions are nearest in size to each lesion, ``(N, 39)``; all of fewer.

    Example:
        >>> like_sized([5.0], [4.0, 40.0, 6.0]).tolist()
        [[2, 0, 1]]
    """
    apart = np.abs(np.log(sizes)[:, None] - np.log(real_sizes))
    return np.argsort(apart, axis=1, kind="stable")[:, :LIKE]


def nearness_limits(
    sizes: Sequence[float], real: np.ndarray, real_sizes: Sequence[float]
) -> np.ndarray:
    """Return for each lesion the distance that 5 % of real lesions of like size stay below.

    A few voxels are like some others by chance, many are not: small lesions would be called copies
    if all were measured by one limit. One more real lesion is below it in 5 % of all cases
    (the second nearest of 39).

    Args:
        sizes: diameters ``(N,)``.
        real: distances ``(M,)`` of real lesions to the nearest of another patient.
        real_sizes: diameters ``(M,)``.

    Returns:
        ``(N,)``; NaN where no real distance is known.

    Example:
        >>> real = np.arange(1.0, 40.0)
        >>> nearness_limits([7.0], real, real).tolist()
        [2.0]
    """
    known = np.flatnonzero(np.isfinite(real))
    if not len(known):
        return np.full(len(sizes), np.nan)
    like = known[like_sized(sizes, [real_sizes[int(k)] for k in known])]
    return np.percentile(real[like], NEAR, axis=1, method="weibull")
