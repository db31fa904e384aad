"""How far two sets of lesions lie apart: distances of sets of features, and of sets of pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from monai.metrics import Cumulative
from monai.metrics.fid import compute_frechet_distance
from scipy.spatial.distance import cdist
from torch import Tensor

__all__ = [
    "FeatureDistance",
    "distances_of_halves",
    "frechet_distance",
    "kernel_distance",
    "mean_discrepancy",
    "plain_frechet_distance",
    "precision_recall",
    "sliced_wasserstein",
    "standardized",
]

SHRINKAGE = 0.1  # of covariances: there are seldom many more lesions than features


def standardized(real: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Return sets of features in units of the real ones' median and interquartile range.

    Features that all real ones share, or that one lesion lacks in a set of few, are left out; NaN
    becomes the real median. Values beyond 6 are cut, so that one strange lesion decides nothing.

    Args:
        real: ``(N, F)``.
        others: ``(M, F)`` each.
    """
    low, middle, high = np.nanpercentile(real, [25, 50, 75], axis=0)
    kept = (high > low) & np.isfinite(middle)
    scale = (high - low)[kept] / 1.349
    found = [(x[:, kept] - middle[kept]) / scale for x in (real, *others)]
    return [np.nan_to_num(x).clip(-6, 6) for x in found]


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Frechet distance of two sets of features, as normal distributions.

    On radiomic features it is the Frechet radiomics distance. Covariances are shrunk towards their
    diagonal by 0.1. It depends on the number of lesions: compare with real halves of like size.

    Args:
        a: ``(N, F)``, N at least 2.
        b: ``(M, F)``.

    Example:
        >>> rows = np.random.default_rng(0).normal(0, 1, (500, 2))
        >>> round(frechet_distance(rows, rows + [3, 4]), 3)
        25.0
    """
    means, covariances = [], []
    for rows in (a, b):
        full = np.atleast_2d(np.cov(rows, rowvar=False))
        diagonal = np.diag(np.diag(full))
        means.append(torch.as_tensor(rows.mean(0)))
        covariances.append(torch.as_tensor((1 - SHRINKAGE) * full + SHRINKAGE * diagonal))
    tiny = 1e-6 * torch.eye(len(means[0]), dtype=torch.float64)
    first, second = (covariance + tiny for covariance in covariances)
    return max(0.0, float(compute_frechet_distance(means[0], first, means[1], second)))


def plain_frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    r"""Return the Frechet distance of two sets with the covariances as they are (FID).

    :math:`|m_a - m_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^{1/2}`; the last trace is the sum of the
    singular values of :math:`A B^T` with the centred rows A, B over the roots of their number less
    one, so that thousands of features of few lesions take no time.

    References:
        Heusel et al., NeurIPS 2017. https://arxiv.org/abs/1706.08500

    Args:
        a: ``(N, F)``, N at least 2.
        b: ``(M, F)``.

    Example:
        >>> rows = np.random.default_rng(0).normal(0, 1, (50, 200))
        >>> round(plain_frechet_distance(rows, rows + 1), 3)
        200.0
    """
    means = a.mean(0) - b.mean(0)
    one, other = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    shared = np.linalg.svd(one @ other.T, compute_uv=False).sum()
    return max(0.0, float(means @ means + (one**2).sum() + (other**2).sum() - 2 * shared))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the unbiased squared kernel distance (KID) of two sets, kernel (x.y / F + 1)^3.

    References:
        Binkowski et al., Demystifying MMD GANs, ICLR 2018. https://arxiv.org/abs/1801.01401

    Example:
        >>> rows = np.random.default_rng(0).normal(0, 1, (400, 2))
        >>> abs(kernel_distance(rows[:200], rows[200:])) < 0.2 < kernel_distance(rows, rows + 3)
        True
    """
    return _unbiased(a, b, lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3)


def mean_discrepancy(a: np.ndarray, b: np.ndarray) -> float:
    """Return the unbiased squared MMD of two sets, normal kernel as wide as their median distance.

    References:
        Gretton et al., A kernel two-sample test, JMLR 2012.

    Example:
        >>> rows = np.random.default_rng(0).normal(0, 1, (400, 2))
        >>> abs(mean_discrepancy(rows[:200], rows[200:])) < 0.02 < mean_discrepancy(rows, rows + 3)
        True
    """
    both = np.concatenate([a, b])
    width = np.median(cdist(both, both)[np.triu_indices(len(both), 1)]) or 1.0
    return _unbiased(a, b, lambda x, y: np.exp(-cdist(x, y, "sqeuclidean") / (2 * width**2)))


def _unbiased(a: np.ndarray, b: np.ndarray, kernel: Callable[..., np.ndarray]) -> float:
    n, m = len(a), len(b)
    if min(n, m) < 2:
        return float("nan")
    aa, bb, ab = kernel(a, a), kernel(b, b), kernel(a, b)
    within = (aa.sum() - np.trace(aa)) / (n * (n - 1)) + (bb.sum() - np.trace(bb)) / (m * (m - 1))
    return float(within - 2 * ab.mean())


def sliced_wasserstein(
    a: np.ndarray, b: np.ndarray, projections: int = 256, seed: int = 0
) -> float:
    """Return the sliced Wasserstein-1 distance of two sets of vectors or pictures.

    The mean over random directions of unit length of the distance of what is projected on them, in
    the units of the values.

    Args:
        a: ``(N, ...)``.
        b: ``(M, ...)``, of the same shape but for their number.
        projections: directions.
        seed: of them.

    Example:
        >>> rows = np.random.default_rng(0).normal(0, 1, (300, 4))
        >>> sliced_wasserstein(rows, rows), sliced_wasserstein(rows, rows + 2) > 1
        (0.0, True)
    """
    a, b = (x.reshape(len(x), -1).astype(float) for x in (a, b))
    directions = np.random.default_rng(seed).normal(size=(a.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    levels = (np.arange(200) + 0.5) / 200
    rows = [np.quantile(x @ directions, levels, axis=0) for x in (a, b)]
    return float(np.abs(rows[0] - rows[1]).mean())


def precision_recall(
    real: np.ndarray, synthetic: np.ndarray, neighbours: int = 3
) -> tuple[float, float]:
    """Return the share of synthetic lesions among the real ones, and of real among the synthetic.

    A lesion lies among a set if it is no farther from one of its members than that one's k-th
    neighbour. Low precision: lesions that are not like real ones. Low recall: little diversity.

    References:
        Kynkaanniemi et al., Improved precision and recall metric, NeurIPS 2019.
        https://arxiv.org/abs/1904.06991

    Example:
        >>> rows = np.random.default_rng(0).normal(0, 1, (60, 2))
        >>> precision_recall(rows, rows * 0.01)[1] < 0.2 < precision_recall(rows, rows * 0.01)[0]
        True
    """
    if min(len(real), len(synthetic)) <= neighbours:
        return float("nan"), float("nan")
    apart = cdist(synthetic, real)
    reach = [np.sort(cdist(x, x), axis=1)[:, neighbours] for x in (real, synthetic)]
    precision = (apart <= reach[0]).any(1).mean()
    recall = (reach[1] >= apart.T).any(1).mean()
    return float(precision), float(recall)


class FeatureDistance(Cumulative):
    """A distance of two sets of features that are handed over batch by batch.

    Args:
        distance: of two arrays ``(N, F)`` and ``(M, F)``.

    Example:
        >>> metric = FeatureDistance(kernel_distance)
        >>> metric(torch.zeros(4, 2), torch.zeros(4, 2))
        >>> metric.aggregate()
        0.0
    """

    def __init__(self, distance: Callable[[np.ndarray, np.ndarray], float]) -> None:
        super().__init__()
        self.distance = distance

    def __call__(self, y_pred: Tensor, y: Tensor) -> None:
        """Add features of synthetic lesions ``(B, F)`` and of real ones."""
        self.extend(y_pred, y)

    def aggregate(self) -> float:
        """Return the distance of all since ``reset``."""
        synthetic, real = self.get_buffer()
        return self.distance(synthetic.double().numpy(), real.double().numpy())


def distances_of_halves(
    rows: np.ndarray,
    groups: Sequence[object],
    distance: Callable[[np.ndarray, np.ndarray], float],
    splits: int = 20,
    seed: int = 0,
) -> np.ndarray:
    """Return the distances of random halves of one set, no patient in both: the real band.

    Args:
        rows: ``(N, ...)``.
        groups: patient of each.
        distance: of two sets.
        splits: number of halvings.
        seed: of them.

    Raises:
        ValueError: if there is only one patient.
    """
    names, number = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"real must hold lesions of at least 2 patients, got {len(names)}")
    rng, found = np.random.default_rng(seed), []
    for _ in range(splits):
        chosen = rng.permutation(len(names))[: len(names) // 2]
        first = np.isin(number, chosen)
        found.append(distance(rows[first], rows[~first]))
    return np.array(found)
