"""Whether lesions were learnt by heart: how near each lies to the nearest one of a library."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import cdist

from tools.metrics.radiomics import isotropic

__all__ = ["aligned_cube", "centred_cube", "nearest_features", "nearest_pictures"]

SIDE = 24  # voxels of 1 mm
SMALLEST = 8  # voxels that a correlation is of
MIRRORINGS = [axes for count in range(4) for axes in combinations(range(3), count)]


def centred_cube(
    image: np.ndarray, mask: np.ndarray, spacing_mm: Sequence[float], side: int = SIDE
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


def nearest_pictures(
    cubes: np.ndarray,
    masks: np.ndarray,
    library: np.ndarray,
    groups: Sequence[object] | None = None,
    library_groups: Sequence[object] | None = None,
) -> np.ndarray:
    """Return one minus the highest correlation of each lesion with those of a library.

    Over the voxels of the lesion's own mask, with all eight mirrorings: what a network copies it
    copies mirrored as well, as it was trained. Level and contrast do not matter.

    Args:
        cubes: lesions ``(N, S, S, S)``, as :func:`aligned_cube` gives them.
        masks: True inside.
        library: lesions likewise, ``(M, S, S, S)``.
        groups: patient of each; with ``library_groups`` no lesion is compared with one of its own
            patient.
        library_groups: patient of each lesion of the library.

    Returns:
        ``(N,)``, 0 (the same but for level and contrast) to 2; NaN where the mask has fewer than 8
        voxels, the lesion is even, or there is nothing to compare with.

    Example:
        >>> library = np.random.default_rng(0).normal(size=(2, 4, 4, 4))
        >>> copy = np.flip(library[1:], 1) * 3 + 7
        >>> nearest_pictures(copy, np.ones((1, 4, 4, 4), bool), library).round(6).tolist()
        [0.0]
    """
    found = np.full(len(cubes), np.nan)
    for k, (values, inside) in enumerate(zip(cubes, masks, strict=True)):
        known = np.ones(len(library), bool)
        if groups is not None and library_groups is not None:
            known = np.array([str(name) != str(groups[k]) for name in library_groups])
        if inside.sum() < SMALLEST or np.ptp(values[inside]) == 0 or not known.any():
            continue
        best = [
            _correlations(np.flip(values, axes)[chosen], library[:, chosen])[known].max()
            for axes in MIRRORINGS
            for chosen in [np.flip(inside, axes)]
        ]
        found[k] = 1 - max(best)
    return found


def _correlations(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    one = one - one.mean()
    others = others - others.mean(1, keepdims=True)
    lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(one)
    return others @ one / np.where(lengths > 0, lengths, np.inf)


def nearest_features(
    rows: np.ndarray,
    library: np.ndarray,
    groups: Sequence[object] | None = None,
    library_groups: Sequence[object] | None = None,
) -> np.ndarray:
    """Return the distance of each row of features to the nearest one of a library.

    Args:
        rows: ``(N, F)``, on one scale.
        library: ``(M, F)``.
        groups: as :func:`nearest_pictures`.
        library_groups: likewise.

    Returns:
        ``(N,)``; NaN where there is nothing to compare with.

    Example:
        >>> nearest_features(np.array([[0.0], [9.0]]), np.array([[3.0], [10.0]])).tolist()
        [3.0, 1.0]
    """
    apart = cdist(rows, library)
    if groups is not None and library_groups is not None:
        same = np.array([[str(a) == str(b) for b in library_groups] for a in groups])
        apart[same] = np.inf
    nearest = apart.min(1)
    return np.where(np.isfinite(nearest), nearest, np.nan)
