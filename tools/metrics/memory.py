"""Has a model learnt lesions by heart: how far is each lesion from the nearest of the training?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from tools.metrics.radiomics import isotropic

__all__ = [
    "Nearest",
    "feature_distances",
    "lesion_picture",
    "nearest_other",
    "nearest_training",
    "picture_distances",
]

PICTURE = 32  # voxels of 1 mm


class Nearest(NamedTuple):
    """Distances to the nearest training lesion, and what they are among real lesions."""

    distance: np.ndarray  # (N,) of each lesion
    nearest: np.ndarray  # (N,) index of that training lesion
    real: np.ndarray  # (M,) of each training lesion to the nearest of another patient

    @property
    def closer(self) -> float:
        """Share of lesions nearer than 95 % of real lesions are; 0.05 is what chance gives."""
        return float((self.distance < np.percentile(self.real, 5)).mean())


def nearest_training(
    apart: np.ndarray, training_apart: np.ndarray, patients: Sequence[object]
) -> Nearest:
    """Return how near each lesion is to a training lesion, beside real lesions of other patients.

    A model that gives training lesions back has distances below those that real lesions have.

    Args:
        apart: ``(N, M)`` distances of lesions to M training lesions, see :func:`feature_distances`
            and :func:`picture_distances`.
        training_apart: ``(M, M)`` of training lesions to one another.
        patients: of each training lesion.

    Raises:
        ValueError: if shapes do not fit, or training lesions are of one patient only.

    Example:
        >>> rows = np.array([[0.0], [1.0], [5.0]])
        >>> new = np.array([[0.1], [3.2]])
        >>> found = nearest_training(
        ...     feature_distances(new, rows), feature_distances(rows, rows), ["a", "a", "b"]
        ... )
        >>> found.distance.round(1).tolist(), found.nearest.tolist(), found.real.tolist()
        ([0.1, 1.8], [0, 2], [5.0, 4.0, 4.0])
    """
    count = len(training_apart)
    if apart.shape[1:] != (count,) or training_apart.shape != (count, len(patients)):
        raise ValueError(
            f"distances must be of {len(patients)} training lesions, got {apart.shape} and "
            f"{training_apart.shape}"
        )
    real = nearest_other(training_apart, patients)
    return Nearest(apart.min(1), apart.argmin(1), real)


def nearest_other(apart: np.ndarray, groups: Sequence[object]) -> np.ndarray:
    """Return the distance of each lesion to the nearest of another group.

    Args:
        apart: ``(N, N)`` distances.
        groups: of each lesion, such as its patient.

    Raises:
        ValueError: if there is one group only.
    """
    names = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    if len(np.unique(names)) < 2:
        raise ValueError("training must hold lesions of at least 2 patients, got 1")
    return np.where(names[:, None] == names, np.inf, apart).min(1)


def feature_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return root mean square differences of features: ``(N, F)`` and ``(M, F)`` to ``(N, M)``."""
    return cdist(one, other) / np.sqrt(one.shape[1])


def lesion_picture(
    image: np.ndarray, mask: np.ndarray, spacing_mm: Sequence[float], window: Sequence[float]
) -> np.ndarray:
    """Return a lesion without what lies around it, in three planes through its middle.

    Args:
        image: ``(H, W, D)``, in the scan's units.
        mask: True inside.
        spacing_mm: of a voxel.
        window: intensities that are kept apart.

    Returns:
        ``(3, 32, 32)`` pixels of 1 mm, normal to the axes; NaN outside, all of an empty mask.
    """
    values, inside = isotropic(image, mask, spacing_mm)
    kept = np.where(inside, np.clip(values, window[0], window[1]), np.nan)
    middle = np.argwhere(inside).mean(0).round().astype(int) if inside.any() else [0, 0, 0]
    wide = np.pad(kept, PICTURE // 2, constant_values=np.nan)
    cube = wide[tuple(slice(m, m + PICTURE) for m in middle)]
    return np.stack([cube.take(PICTURE // 2, axis) for axis in range(3)]).astype(np.float32)


def picture_distances(one: np.ndarray, other: np.ndarray, outside: float) -> np.ndarray:
    """Return how far pictures of lesions lie apart: root mean square over the pixels of either.

    The least over the eight mirror images, as training shows those too.

    Args:
        one: ``(N, 3, 32, 32)`` of :func:`lesion_picture`.
        other: ``(M, 3, 32, 32)``.
        outside: what stands where only one of two lesions is, in the scan's units.

    Returns:
        ``(N, M)`` in the scan's units; 0 for a lesion and its mirror image.
    """
    fixed, fixed_inside = _rows(other, outside)
    least = np.full((len(one), len(other)), np.inf)
    for flips in product((False, True), repeat=3):
        rows, inside = _rows(_mirrored(one, flips), outside)
        squares = (rows**2).sum(1)[:, None] + (fixed**2).sum(1) - 2 * rows @ fixed.T
        either = inside.sum(1)[:, None] + fixed_inside.sum(1) - inside @ fixed_inside.T
        least = np.minimum(least, squares.clip(0) / np.maximum(either, 1))
    return np.sqrt(least)


def _rows(pictures: np.ndarray, outside: float) -> tuple[np.ndarray, np.ndarray]:
    flat = pictures.reshape(len(pictures), -1).astype(float)
    inside = np.isfinite(flat)
    return np.where(inside, flat - outside, 0), inside.astype(float)


def _mirrored(pictures: np.ndarray, flips: Sequence[bool]) -> np.ndarray:
    """Return pictures of the lesion mirrored along axes of the scan; its middle stays."""
    found = []
    for normal in range(3):
        plane = pictures[:, normal]
        for axis, flip in enumerate([flips[k] for k in range(3) if k != normal], 1):
            # pixel 16 of 32 is the middle: 1 to 31 change places
            plane = np.roll(np.flip(plane, axis), 1, axis) if flip else plane
        found.append(plane)
    return np.stack(found, 1)
