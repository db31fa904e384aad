"""Groups of histograms by k-means, in order of their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from tqdm import tqdm

from tools.prepare.textures import Look, Textures

__all__ = ["Clustering", "Measured", "cluster_histograms", "compare_cluster_numbers"]

SPACES = ("histogram", "sqrt", "cumulative")
NUMBERS = range(2, 7)
RESTARTS = 20
SILHOUETTE_SAMPLE = 5000  # it costs the square of the number of lesions


class Measured(NamedTuple):
    """The lesions of a dataset; where intensities have no units, moved to one standard tissue.

    Attributes:
        standard: levels of that tissue, the median of all.
        rows: histograms, ``(n, classes, bins)``.
        means: of the first class, ``(n,)``.
    """

    look: Look
    textures: Textures
    standard: np.ndarray | None
    rows: np.ndarray
    means: np.ndarray


@dataclass(frozen=True)
class Clustering:
    """Groups in order of their mean.

    Attributes:
        labels: group of each lesion, ``(n,)``, 0 is the darkest.
        distances: of each lesion to the centre of its group, in the space of the clustering.
        inertia: sum of the squared distances.
    """

    labels: np.ndarray
    distances: np.ndarray
    inertia: float

    @property
    def members(self) -> list[np.ndarray]:
        """Numbers of the lesions of each group."""
        return [np.flatnonzero(self.labels == i) for i in range(int(self.labels.max()) + 1)]


def cluster_histograms(
    histograms: np.ndarray,
    means: np.ndarray,
    clusters: int = 3,
    seed: int = 0,
    space: str = "histogram",
) -> Clustering:
    r"""Return k-means groups of histograms, in order of their mean.

    k-means minimises squared Euclidean distances, so the metric is chosen by what it is fed:

    * ``"histogram"``, the plain reading of the paper. A bin counts by the square of its change, so
      a lesion with one high peak (saturated, calcified) is far from everything and small changes
      over many bins hardly count.
    * ``"sqrt"``, their square roots: :math:`\sqrt2` times the Hellinger distance, bounded, and of
      about equal noise in all bins for a lesion of n voxels (:math:`\mathrm{var}\sqrt{\hat p}
      \approx (1 - p) / 4n`). The better founded of the two where bins are categories.
    * ``"cumulative"``, their running sums: Cramér's distance, the only one that knows that bins
      have an order. For the others a peak moved by one bin is as far away as one moved by ten.

    ``means``, ``(n,)``, is what groups are ordered by; ``histograms`` are rows that sum to 1,
    ``(n, bins)``; the number of groups is from 2 to that of different histograms.

    Example:
        >>> rows = np.array([[1.0, 0], [0.9, 0.1], [0, 1.0], [0.1, 0.9]])
        >>> cluster_histograms(rows, np.array([-800.0, -700, 100, 0]), clusters=2).labels
        array([0, 0, 1, 1])
    """
    points = _points(histograms, space)
    different = len(np.unique(points, axis=0))
    whole = isinstance(clusters, int) and not isinstance(clusters, bool)
    if not whole or not 2 <= clusters <= different:
        raise ValueError(
            f"clusters must be a whole number from 2 to the number of different histograms "
            f"({different}), got {clusters!r}"
        )
    fit = KMeans(clusters, n_init=RESTARTS, random_state=seed).fit(points)
    order = [means[fit.labels_ == i].mean() for i in range(clusters)]
    rank = np.argsort(np.argsort(order, kind="stable"), kind="stable")
    distances = np.linalg.norm(points - fit.cluster_centers_[fit.labels_], axis=1)
    return Clustering(rank[fit.labels_], distances, float(fit.inertia_))


def compare_cluster_numbers(
    histograms: np.ndarray, means: np.ndarray, seed: int = 0, space: str = "histogram"
) -> list[dict[str, float]]:
    """Return inertia and mean silhouette (-1 to 1, more is better) of 2 to 6 groups.

    Numbers of groups that the data cannot fill are left out. Inertia falls with every group added;
    a bend in it, or a peak of the silhouette, speaks for a number. Over 5000 lesions the silhouette
    is that of a random 5000.
    """
    points = _points(histograms, space)
    different = len(np.unique(points, axis=0))
    size = SILHOUETTE_SAMPLE if len(points) > SILHOUETTE_SAMPLE else None
    rows = []
    for clusters in tqdm([k for k in NUMBERS if k < different], desc="numbers of clusters"):
        found = cluster_histograms(histograms, means, clusters, seed, space)
        score = silhouette_score(points, found.labels, sample_size=size, random_state=seed)
        figures = {"inertia": round(found.inertia, 4), "silhouette": round(float(score), 4)}
        rows.append({"clusters": clusters, **figures})
    return rows


def _points(histograms: np.ndarray, space: str) -> np.ndarray:
    if space not in SPACES:
        raise ValueError(f"space must be one of {list(SPACES)}, got {space!r}")
    if space == "sqrt":
        return np.sqrt(histograms)
    return np.cumsum(histograms, axis=1) if space == "cumulative" else histograms
