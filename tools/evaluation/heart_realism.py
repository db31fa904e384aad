"""Can a forest tell slices of real lesions from synthetic ones? 50 % means that it cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from tools.evaluation.heart_cases import HeartCase
from tools.evaluation.shape_tests import forest_test

__all__ = ["lesion_slices", "mean_fill", "slice_features", "tell_apart"]

SMALLEST_LESION, FOLDS, PAIRINGS = 8, 5, 5


def mean_fill(case: HeartCase) -> Tensor:
    """Return the window with each class replaced by its own mean: the floor, without texture."""
    image = case.image.clone()
    for mask in case.lesion_masks > 0:
        if mask.any():
            image[0][mask] = case.image[0][mask].mean()
    return image


def slice_features(image: np.ndarray, masks: np.ndarray) -> list[float]:
    """Return what a radiologist would look at in a slice: levels, spread, grain, edges.

    Args:
        image: in [-1, 1], ``(H, W)``.
        masks: infarct and no-reflow, ``(2, H, W)``, one of them not empty.

    Returns:
        For each class mean, standard deviation, grain (deviation from the mean of the neighbours)
        and slope; then mean and slope of the ring of one voxel round the lesion. 0 for an absent
        class, which real and synthetic twins share.
    """
    grain = np.abs(image - ndimage.uniform_filter(image, 3))
    slope = np.hypot(*np.gradient(image))
    features: list[float] = []
    for mask in masks > 0:
        values = np.zeros(4)
        if mask.any():
            inside = image[mask], grain[mask], slope[mask]
            values[:] = inside[0].mean(), inside[0].std(), inside[1].mean(), inside[2].mean()
        features += values.tolist()
    lesion = masks.max(0) > 0
    ring = ndimage.binary_dilation(lesion) & ~lesion
    edge = ndimage.binary_dilation(lesion) & ~ndimage.binary_erosion(lesion)
    return [*features, float(image[ring].mean()), float(slope[edge].mean())]


def lesion_slices(
    cases: Sequence[HeartCase], images: Sequence[Tensor] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Return the features of every slice with a lesion of some voxels, and whose slices they are.

    Args:
        cases: hearts.
        images: synthetic windows in their order; None takes the real ones.

    Returns:
        Shape ``(n, features)``, and n patients.

    Raises:
        ValueError: if there is no such slice.
    """
    features, patients = [], []
    for case, image in zip(cases, images or [case.image for case in cases], strict=True):
        masks, values = case.lesion_masks.numpy(), image[0].double().numpy()
        for k in np.flatnonzero(masks.max(0).sum((0, 1)) >= SMALLEST_LESION):
            features.append(slice_features(values[:, :, k], masks[:, :, :, k]))
            patients.append(case.patient)
    if not features:
        raise ValueError(f"cases must hold slices with {SMALLEST_LESION} voxels of lesion, got 0")
    return np.array(features), patients


def _test(
    first: np.ndarray, second: np.ndarray, patients: Sequence[str], seed: int
) -> dict[str, Any]:
    folds = min(FOLDS, len(set(patients)))
    return forest_test(first, second, patients, folds, seed) if folds >= 2 else {}


def tell_apart(
    cases: Sequence[HeartCase], sources: Mapping[str, Sequence[Tensor]], seed: int = 0
) -> dict[str, Any]:
    """Test each source of images against the real ones, and real ones against each other.

    Real and synthetic twins (same scan, same slice, same mask) lie in the same fold, so only the
    lesion tells them apart. ``real_other`` is chance: slices of one patient against those of
    another, called real and synthetic at random; mean over five pairings of the patients.

    Args:
        cases: hearts.
        sources: synthetic windows by name, one per heart.
        seed: of folds, trees and of the pairs of patients.

    Returns:
        ``{source: test}``, see :func:`tools.evaluation.shape_tests.forest_test`; empty where there
        are fewer than two patients (for ``real_other``: two pairs of them).
    """
    real, patients = lesion_slices(cases)
    found = {}
    for name, images in tqdm(sources.items(), desc="telling apart"):
        found[name] = _test(real, lesion_slices(cases, images)[0], patients, seed)
    found["real_other"] = _real_against_real(real, np.array(patients), seed)
    return found


def _real_against_real(real: np.ndarray, patients: np.ndarray, seed: int) -> dict[str, Any]:
    """Return the test of several random pairings, their folds together: one has few slices."""
    found = [_one_pairing(real, patients, seed + number) for number in range(PAIRINGS)]
    if not found[0]:
        return {}
    result: dict[str, Any] = dict(found[0])
    for name in ("accuracy", "auc"):
        folds = [value for test in found for value in test[name]["folds"]]
        spread = float(np.std(folds, ddof=1))
        result[name] = {"mean": float(np.mean(folds)), "sd": spread, "folds": folds}
    return result


def _one_pairing(real: np.ndarray, patients: np.ndarray, seed: int) -> dict[str, Any]:
    """Pair patients at random, and their slices as far as both have some."""
    order = np.random.default_rng(seed).permutation(np.unique(patients))
    left: list[int] = []
    right: list[int] = []
    for one, two in zip(order[0::2], order[1::2], strict=False):
        members = (np.flatnonzero(patients == name).tolist() for name in (one, two))
        for i, j in zip(*members, strict=False):
            left.append(i)
            right.append(j)
    return _test(real[left], real[right], patients[left].tolist(), seed)
