"""The classifier two-sample test: can lesions of two sets be told apart by their features?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

__all__ = ["Auc", "auc_interval", "forest_auc"]

TREES, FOLDS, RESAMPLES = 300, 5, 500


class Auc(NamedTuple):
    """Area under the curve with its 95 % interval: 0.5 means that sets cannot be told apart."""

    value: float
    low: float
    high: float


def forest_auc(
    real: np.ndarray,
    synthetic: np.ndarray,
    real_groups: Sequence[object],
    synthetic_groups: Sequence[object],
    seed: int = 0,
) -> Auc:
    """Return how well a random forest tells synthetic lesions from real ones.

    Cross-validated in five folds by patient: a patient's real lesions and those made on his scans
    are never in both halves, if both sets name him alike. The interval is from a bootstrap of
    patients.

    References:
        Lopez-Paz and Oquab, Revisiting classifier two-sample tests, ICLR 2017.
        https://arxiv.org/abs/1610.06545

    Args:
        real: features ``(N, F)``, all finite.
        synthetic: ``(M, F)``.
        real_groups: patient of each real lesion.
        synthetic_groups: likewise.
        seed: of folds, forest and bootstrap.

    Returns:
        NaN throughout with fewer than two patients in a set.

    Example:
        >>> rows, names = np.random.default_rng(0).normal(0, 1, (60, 2)), np.arange(60)
        >>> forest_auc(rows, rows + 5, names, names).value
        1.0
    """
    groups = np.array([*map(str, real_groups), *map(str, synthetic_groups)])
    target = np.repeat([0, 1], [len(real), len(synthetic)])
    folds = min(FOLDS, *(len(set(groups[target == each])) for each in (0, 1)))
    if folds < 2:
        return Auc(np.nan, np.nan, np.nan)
    forest = RandomForestClassifier(
        TREES, min_samples_leaf=3, class_weight="balanced", random_state=seed
    )
    scores = cross_val_predict(
        forest,
        np.concatenate([real, synthetic]),
        target,
        groups=groups,
        cv=StratifiedGroupKFold(folds, shuffle=True, random_state=seed),
        method="predict_proba",
    )[:, 1]
    return auc_interval(scores, target, groups, seed)


def auc_interval(scores: np.ndarray, target: np.ndarray, groups: np.ndarray, seed: int = 0) -> Auc:
    """Return an area under the curve with its interval, from a bootstrap of groups.

    Args:
        scores: ``(N,)``, higher for target 1.
        target: 0 or 1.
        groups: what is drawn with replacement, as a whole.
        seed: of the draws.
    """
    rng, found = np.random.default_rng(seed), []
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    for _ in range(RESAMPLES):
        rows = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        if 0 < target[rows].sum() < len(rows):
            found.append(roc_auc_score(target[rows], scores[rows]))
    low, high = np.percentile(found, [2.5, 97.5]) if found else (np.nan, np.nan)
    return Auc(float(roc_auc_score(target, scores)), float(low), float(high))
