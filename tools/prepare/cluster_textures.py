"""Lesions as histograms, and groups of them by k-means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from tqdm import tqdm

from tools.metrics.histogram import intensity_histogram
from tools.synthesis.generator import scaled

__all__ = [
    "Clustering",
    "LesionTextures",
    "cluster_textures",
    "compare_cluster_numbers",
    "lesion_name",
    "measure_textures",
]

SPACES = ("histogram", "sqrt", "cumulative")
NUMBERS = range(2, 7)
RESTARTS = 20
SILHOUETTE_SAMPLE = 5000  # it costs the square of the number of lesions


@dataclass(frozen=True)
class LesionTextures:
    """What is known of the intensities inside n lesions.

    Attributes:
        entries: of the datalist, with ``image`` and ``label``.
        histograms: rows that sum to 1, ``(n, bins)``.
        mean_hu: mean inside the lesion, clipped to the window as the model sees it, ``(n,)``.
        spread_hu: standard deviation inside the lesion, clipped likewise, ``(n,)``.
        voxels: number inside the lesion, ``(n,)``.
        left_out: entries without a lesion.
    """

    entries: list[Mapping[str, Any]]
    histograms: np.ndarray
    mean_hu: np.ndarray
    spread_hu: np.ndarray
    voxels: np.ndarray
    left_out: int = 0


@dataclass(frozen=True)
class Clustering:
    """Groups in order of rising mean HU.

    Attributes:
        labels: group of each lesion, ``(n,)``, 0 is the darkest.
        distances: of each lesion to the centre of its group, in the space of the clustering.
        inertia: sum of the squared distances.
    """

    labels: np.ndarray
    distances: np.ndarray
    inertia: float


def measure_textures(
    files: Sequence[Mapping[str, Any]], window_hu: Sequence[float], bins: int = 16
) -> LesionTextures:
    """Return the histograms of the lesions of a datalist; entries without a lesion are left out.

    Args:
        files: entries with paths under ``image`` (HU) and ``label`` (above 0 inside the lesion; all
            of it counts as one lesion).
        window_hu: outer edges of the bins; values beyond count in the outermost.
        bins: number of bins.

    Raises:
        ValueError: if image and label differ in grid, or no entry has a lesion.
    """
    entries, rows, numbers = [], [], []
    for entry in tqdm(files, desc="measuring lesions", unit="lesion"):
        values = _values_inside(entry)
        if values.size == 0:
            continue
        low, high = window_hu
        row = torch.from_numpy(scaled(values.astype(np.float32), (low, high)))[None]
        rows.append(intensity_histogram(row, torch.ones_like(row), bins)[0].double().numpy())
        hu = np.clip(values.astype(float), window_hu[0], window_hu[1])
        numbers.append((hu.mean(), hu.std(), hu.size))
        entries.append(entry)
    if not rows:
        raise ValueError(f"dataset must hold a lesion, got {len(files)} entries with empty labels")
    mean, spread, voxels = np.array(numbers).T
    left_out = len(files) - len(rows)
    return LesionTextures(entries, np.stack(rows), mean, spread, voxels.astype(int), left_out)


def _values_inside(entry: Mapping[str, Any]) -> np.ndarray:
    image = nib.Nifti1Image.from_filename(entry["image"])
    label = nib.Nifti1Image.from_filename(entry["label"])
    if image.shape != label.shape or not np.allclose(image.affine, label.affine, atol=1e-2):
        raise ValueError(
            f"label must lie on the grid of its image, got {label.shape} and {image.shape} "
            f"(or another affine) for {lesion_name(entry)}"
        )
    return np.asarray(image.dataobj)[np.asarray(label.dataobj) > 0]


def cluster_textures(
    textures: LesionTextures, clusters: int = 3, seed: int = 0, space: str = "histogram"
) -> Clustering:
    r"""Return k-means groups of the histograms, in order of mean HU.

    k-means minimises squared Euclidean distances, so the metric is chosen by what it is fed:

    * ``"histogram"``, the histograms themselves, the plain reading of the paper. A bin counts by
      the square of its change, so a lesion with one high peak (saturated, calcified) is far from
      everything and small changes over many bins hardly count.
    * ``"sqrt"``, their square roots: :math:`\sqrt2` times the Hellinger distance, bounded, and of
      about equal noise in all bins for a lesion of n voxels (:math:`\mathrm{var}\sqrt{\hat p}
      \approx (1 - p) / 4n`), which suits lesions of a few dozen voxels. The better founded of the
      two where bins are categories.
    * ``"cumulative"``, their running sums: Cramér's distance, the only one of the three that
      knows that bins have an order. For the others a peak moved by one bin is as far away as a
      peak moved by ten.

    Args:
        textures: lesions.
        clusters: number of groups, from 2 to the number of different histograms.
        seed: of the restarts; the same seed gives the same groups.
        space: one of the above.

    Raises:
        ValueError: if ``clusters`` or ``space`` breaks its rule.

    Example:
        >>> rows = np.array([[1.0, 0], [0.9, 0.1], [0, 1.0], [0.1, 0.9]])
        >>> hu = np.array([-800.0, -700, 100, 0])
        >>> lesions = LesionTextures([{}] * 4, rows, hu, hu * 0, np.full(4, 50))
        >>> cluster_textures(lesions, clusters=2).labels
        array([0, 0, 1, 1])
    """
    points = _points(textures.histograms, space)
    different = len(np.unique(points, axis=0))
    if (
        isinstance(clusters, bool)
        or not isinstance(clusters, int)
        or not 2 <= clusters <= different
    ):
        raise ValueError(
            f"clusters must be a whole number from 2 to the number of different histograms "
            f"({different}), got {clusters!r}"
        )
    fit = KMeans(clusters, n_init=RESTARTS, random_state=seed).fit(points)
    means = [textures.mean_hu[fit.labels_ == i].mean() for i in range(clusters)]
    rank = np.argsort(np.argsort(means, kind="stable"), kind="stable")
    distances = np.linalg.norm(points - fit.cluster_centers_[fit.labels_], axis=1)
    return Clustering(rank[fit.labels_], distances, float(fit.inertia_))


def compare_cluster_numbers(
    textures: LesionTextures, seed: int = 0, space: str = "histogram"
) -> list[dict[str, float]]:
    """Return inertia and mean silhouette (-1 to 1, more is better) of 2 to 6 groups.

    Numbers of groups that the data cannot fill are left out. Inertia falls with every group added;
    a bend in it, or a peak of the silhouette, speaks for a number. Over 5000 lesions the silhouette
    is that of a random 5000.
    """
    points = _points(textures.histograms, space)
    different = len(np.unique(points, axis=0))
    rows = []
    for clusters in tqdm([k for k in NUMBERS if k < different], desc="numbers of clusters"):
        found = cluster_textures(textures, clusters, seed, space)
        size = min(SILHOUETTE_SAMPLE, len(points)) if len(points) > SILHOUETTE_SAMPLE else None
        score = silhouette_score(points, found.labels, sample_size=size, random_state=seed)
        rows.append(
            {
                "clusters": clusters,
                "inertia": round(found.inertia, 4),
                "silhouette": round(float(score), 4),
            }
        )
    return rows


def _points(histograms: np.ndarray, space: str) -> np.ndarray:
    if space not in SPACES:
        raise ValueError(f"space must be one of {list(SPACES)}, got {space!r}")
    if space == "sqrt":
        return np.sqrt(histograms)
    return np.cumsum(histograms, axis=1) if space == "cumulative" else histograms


def lesion_name(entry: Mapping[str, Any]) -> str:
    """Return the name of a datalist entry, or of its image file."""
    return str(entry.get("name", Path(str(entry.get("image", ""))).name))
