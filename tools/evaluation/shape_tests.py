"""Can a classifier tell drawn shapes from real ones? 50 % means that it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor

from tools.evaluation.discriminator import discriminate, patient_folds
from tools.evaluation.shape_sources import PlacedMask
from tools.transforms.spheres import enclosing_sphere, shape_grid
from tools.windows import cut_window

__all__ = ["forest_test", "shape_windows", "two_sample_tests"]

WINDOW, EPOCHS, TREES = 16, 16, 300


def shape_windows(shapes: Sequence[PlacedMask], size: int = WINDOW) -> Tensor:
    """Return masks in windows scaled to their own spheres: alike in place and size.

    Args:
        shapes: masks, not empty.
        size: voxels per side.

    Returns:
        Shape ``(n, 1, size, size, size)``, in [0, 1]; linear between voxels, so 0.5 is the outline.
    """
    windows = []
    for mask, affine in shapes:
        centre, radius = enclosing_sphere(mask, affine)
        # voxels reach half their width beyond their centres; a lone one has no sphere at all
        half_mm = 0.5 * abs(np.linalg.det(affine[:3, :3])) ** (1 / 3)
        grid = shape_grid(centre, radius + half_mm, size)
        windows.append(torch.from_numpy(cut_window(mask, affine, grid, beyond=0.0))[None])
    return torch.stack(windows)


def forest_test(
    real: np.ndarray,
    synthetic: np.ndarray,
    patients: Sequence[str],
    folds: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a random forest per fold on features of shapes, and test it on unseen patients.

    Args:
        real: shape ``(n, features)``.
        synthetic: twins, same shape and order.
        patients: of each pair, which lies in one fold.
        folds: of the cross-validation.
        seed: of folds and trees.

    Returns:
        As :func:`tools.evaluation.discriminator.discriminate`.

    Raises:
        ValueError: if the shapes differ or there are fewer patients than folds.
    """
    if real.shape != synthetic.shape or len(real) != len(patients):
        raise ValueError(
            f"synthetic and patients must match real, got {real.shape}, {synthetic.shape} and "
            f"{len(patients)} patients"
        )
    fold_of = np.array(patient_folds(patients, folds, seed))
    accuracy, auc = [], []
    for fold in range(folds):
        forest = RandomForestClassifier(TREES, min_samples_leaf=3, random_state=seed + fold)
        train, test = fold_of != fold, fold_of == fold
        target = np.repeat([0, 1], train.sum())
        forest.fit(np.concatenate([real[train], synthetic[train]]), target)
        scores = [forest.predict_proba(part[test])[:, 1] for part in (real, synthetic)]
        accuracy.append(float(((scores[0] <= 0.5).mean() + (scores[1] > 0.5).mean()) / 2))
        auc.append(_auc(*scores))
    return {
        "accuracy": _spread(accuracy),
        "auc": _spread(auc),
        "pairs": len(real),
        "chance_sd": 0.5 / float(np.sqrt(2 * len(real) / folds)),
    }


def _auc(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Return the probability that a synthetic shape scores above a real one; ties count half."""
    ranks = rankdata(np.concatenate([real, synthetic]))[len(real) :]
    n = len(synthetic)
    return float((ranks.sum() - n * (n + 1) / 2) / (n * len(real)))


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)), "folds": values}


def two_sample_tests(
    real: Sequence[PlacedMask],
    synthetic: Sequence[PlacedMask | None],
    features: tuple[np.ndarray, np.ndarray],
    patients: Sequence[str],
    folds: int = 5,
    epochs: int = EPOCHS,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Test with a random forest on features, and with a 3-D network on the masks themselves.

    Args:
        real: masks.
        synthetic: twins in the same order; None (nothing drawn) leaves the pair out.
        features: of both, shape ``(n, features)``, NaN where there is none.
        patients: of each pair.
        folds: at most the number of patients; fewer are used where there are fewer.
        epochs: of the network.
        seed: of all chance.
        device: of the network.

    Returns:
        ``{"features": ..., "network": ...}``, see
        :func:`tools.evaluation.discriminator.discriminate`; empty with fewer than two patients.
    """
    kept = [i for i, drawn in enumerate(synthetic) if drawn is not None]
    patients = [patients[i] for i in kept]
    folds = min(folds, len(set(patients)))
    if folds < 2:
        return {}
    windows = [
        shape_windows([item for i in kept if (item := source[i]) is not None])
        for source in (real, synthetic)
    ]
    return {
        "features": forest_test(features[0][kept], features[1][kept], patients, folds, seed),
        "network": discriminate(windows[0], windows[1], patients, folds, epochs, seed, device),
    }
