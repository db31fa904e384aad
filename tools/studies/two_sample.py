"""The classifier two-sample test: can lesions of two sets be told apart?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from tqdm import tqdm

from tools.studies.classify import EPOCHS, discriminator_logits, train_discriminator
from tools.studies.statistics import bootstrap_interval

__all__ = ["Auc", "auc_interval", "forest_auc", "network_auc"]

TREES, FOLDS = 300, 5


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
    groups, target, folds = _folds(real_groups, synthetic_groups, seed)
    if folds is None:
        return Auc(np.nan, np.nan, np.nan)
    forest = RandomForestClassifier(
        TREES, min_samples_leaf=3, class_weight="balanced", random_state=seed
    )
    scores = cross_val_predict(
        forest,
        np.concatenate([real, synthetic]),
        target,
        groups=groups,
        cv=folds,
        method="predict_proba",
    )[:, 1]
    return auc_interval(scores, target, groups, seed)


def network_auc(
    real: np.ndarray,
    synthetic: np.ndarray,
    real_groups: Sequence[object],
    synthetic_groups: Sequence[object],
    seed: int = 0,
    epochs: int = EPOCHS,
) -> Auc:
    """Return how well a small 3-D network tells synthetic lesions from real ones.

    Folds, interval and groups as :func:`forest_auc`. The epochs are fixed: no lesion that is tested
    has a say in when to stop.

    Args:
        real: cubes ``(N, 1, S, S, S)`` in [-1, 1].
        synthetic: ``(M, 1, S, S, S)``.
        real_groups: patient of each real lesion.
        synthetic_groups: likewise.
        seed: of folds, weights, batches and bootstrap.
        epochs: of the training.
    """
    groups, target, folds = _folds(real_groups, synthetic_groups, seed)
    if folds is None:
        return Auc(np.nan, np.nan, np.nan)
    cubes = torch.from_numpy(np.concatenate([real, synthetic]).astype(np.float32))
    scores, rng = np.zeros(len(target)), np.random.default_rng(seed)
    splits = list(folds.split(target, target, groups))
    for train, test in tqdm(splits, desc="training"):
        sides = [train[target[train] == each] for each in (0, 1)]
        most = max(map(len, sides))
        # both kinds equally often: the fewer are repeated
        pairs = [np.resize(rng.permutation(side), most) for side in sides]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            both = torch.stack([cubes[side] for side in pairs], 1)
            network = train_discriminator(both, epochs).eval()
        scores[test] = discriminator_logits(network, cubes[test])
    return auc_interval(scores, target, groups, seed)


def _folds(
    real_groups: Sequence[object], synthetic_groups: Sequence[object], seed: int
) -> tuple[np.ndarray, np.ndarray, StratifiedGroupKFold | None]:
    """Return patients and kind of all lesions, and folds by patient; None with too few."""
    groups = np.array([*map(str, real_groups), *map(str, synthetic_groups)])
    target = np.repeat([0, 1], [len(real_groups), len(synthetic_groups)])
    count = min(FOLDS, *(len(set(groups[target == each])) for each in (0, 1)))
    if count < 2:
        return groups, target, None
    return groups, target, StratifiedGroupKFold(count, shuffle=True, random_state=seed)


def auc_interval(scores: np.ndarray, target: np.ndarray, groups: np.ndarray, seed: int = 0) -> Auc:
    """Return an area under the curve with its interval, from a bootstrap of groups.

    Args:
        scores: ``(N,)``, higher for target 1.
        target: 0 or 1.
        groups: what is drawn with replacement, as a whole.
        seed: of the draws.
    """

    def area(rows: np.ndarray) -> float:
        mixed = 0 < target[rows].sum() < len(rows)
        return float(roc_auc_score(target[rows], scores[rows])) if mixed else float("nan")

    low, high = bootstrap_interval(groups, area, seed)
    return Auc(float(roc_auc_score(target, scores)), low, high)
