"""Texture presets from one's own lesions: k-means on their histograms (``cluster``)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from tqdm import tqdm

from tools.files import claimed, write_json
from tools.histograms import adapt_histogram, jensen_shannon_divergence
from tools.prepare.cluster_figure import write_cluster_figure
from tools.prepare.textures import Look, Textures, lesion_name, measure_textures, read_look

__all__ = ["Clustering", "cluster_histograms", "cluster_lesions", "compare_cluster_numbers"]

logger = logging.getLogger(__name__)

SPACES = ("histogram", "sqrt", "cumulative")
PRESETS = ("mean", "medoid")
NUMBERS = range(2, 7)
RESTARTS = 20
SILHOUETTE_SAMPLE = 5000  # it costs the square of the number of lesions
SATURATED = 0.2  # share of voxels in the brightest bin from which a group is called so
FEWEST = 5  # lesions that speak for a further class of a group, its own or like them


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


def cluster_lesions(
    dataset_dir: str,
    bundle: str = "bundles/lefusion_lidc",
    clusters: int = 3,
    out: str | Path = "out/cluster",
    write: bool = False,
    seed: int = 0,
    section: str = "training",
    space: str = "histogram",
    preset: str = "mean",
) -> dict[str, Any]:
    """Group the lesions of a dataset by texture and write a preset for each group.

    LeFusion (figure 3) groups lung nodules into three by their histograms and finds them to be
    roughly ground-glass, part-solid and solid; it names neither algorithm nor metric. Here it is
    k-means with 20 restarts. **The names of three groups are their order of the mean and nothing
    more**: look at the figure before you trust them. A few calcified lesions can take a group of
    their own, and "solid" with it.

    Groups are those of the first lesion class. Images without units are first moved to one standard
    tissue, the median of all, with the ``gain`` that the bundle states. Further classes of a preset
    are those of the same lesions; where fewer than five of them have the class, of the five whose
    first class is most like the group's.

    Options are those of the command. A preset is "mean", the mean histogram of a group, broader
    than that of a lesion because it holds the differences between lesions too; or "medoid", the
    histogram of the lesion nearest to the centre, narrow and noisy as a real one is.

    Returns:
        The content of ``cluster.json``; ``fit`` is the median divergence (nats) of the lesions from
        the preset of their group, by kind of preset and class.

    Raises:
        FileNotFoundError: if dataset or bundle does not exist.
        ValueError: naming the argument that breaks its rule.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {list(PRESETS)}, got {preset!r}")
    (folder, look), out = read_look(bundle), Path(out)
    textures = measure_textures(look.model.files(dataset_dir, section), look.model, look.bins)
    standard = None if textures.tissue is None else np.median(textures.tissue, axis=0).round(4)
    rows = np.stack(
        [textures.histograms(i, standard, look.gain) for i in range(len(textures.entries))]
    )
    means = textures.means if standard is None else rows[:, 0] @ _middles(look.bins)
    clustering = cluster_histograms(rows[:, 0], means, clusters, seed, space)
    kinds = {kind: _presets(rows, clustering, kind) for kind in PRESETS}
    groups = _describe(textures, means, rows, clustering, kinds[preset], look)
    key, digits = ("mean_hu", 1) if standard is None else ("mean", 3)
    path = folder / "configs" / "histograms.json" if write else out / "histograms.json"
    results = {
        "dataset": dataset_dir or "embedded phantom",
        "section": section,
        "lesions": len(textures.entries),
        "left_out": textures.left_out,
        **_scale(look, standard),
        "settings": {"clusters": clusters, "space": space, "preset": preset, "seed": seed},
        "presets_file": str(path),
        "fit": {k: _fit(textures, p, clustering, standard, look.gain) for k, p in kinds.items()},
        "by_clusters": compare_cluster_numbers(rows[:, 0], means, seed, space),
        "clusters": groups,
        "members": [
            {"name": lesion_name(e), "cluster": groups[g]["name"], key: round(float(m), digits)}
            for e, g, m in zip(textures.entries, clustering.labels, means, strict=True)
        ],
    }
    if write:
        _check_config_preset(folder, [group["name"] for group in groups])
    with claimed(out, ("cluster.png", "cluster.json", "histograms.json")):
        write_cluster_figure(out / "cluster.png", textures, rows, clustering, results, look)
        write_json(out / "cluster.json", results, indent=1)
        write_json(path, _presets_content(results, look, standard), indent=1)
    return results


def cluster_histograms(
    histograms: np.ndarray,
    means: np.ndarray,
    clusters: int = 3,
    seed: int = 0,
    space: str = "histogram",
) -> Clustering:
    r"""Return k-means groups of histograms, in order of their mean.

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
        histograms: rows that sum to 1, ``(n, bins)``.
        means: what groups are ordered by, ``(n,)``.
        clusters: number of groups, from 2 to the number of different histograms.
        seed: of the restarts; the same seed gives the same groups.
        space: one of the above.

    Raises:
        ValueError: if ``clusters`` or ``space`` breaks its rule.

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
    rows = []
    for clusters in tqdm([k for k in NUMBERS if k < different], desc="numbers of clusters"):
        found = cluster_histograms(histograms, means, clusters, seed, space)
        size = SILHOUETTE_SAMPLE if len(points) > SILHOUETTE_SAMPLE else None
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


def _middles(bins: int) -> np.ndarray:
    return np.linspace(-1, 1, 2 * bins + 1)[1::2]


def _scale(look: Look, standard: np.ndarray | None) -> dict[str, Any]:
    """Return what histograms are stated in: a window of units, or the tissue round them."""
    if standard is None:
        return {"bins": look.bins, "window_hu": list(look.model.window)}
    return {"bins": look.bins, "gain": look.gain, "tissue": standard.tolist()}


def _presets(rows: np.ndarray, clustering: Clustering, kind: str) -> np.ndarray:
    """Return a histogram of each class for each group, ``(groups, classes, bins)``."""
    result = np.zeros((len(clustering.members), *rows.shape[1:]))
    running = np.cumsum(rows[:, 0], axis=-1)
    for group, members in enumerate(clustering.members):
        for block in range(rows.shape[1]):
            having = rows[:, block].sum(-1) > 0
            chosen = members[having[members]]
            if chosen.size < min(FEWEST, len(members)):
                # one small lesion is no group: those with the most similar first class join
                apart = np.abs(running - running[members].mean(0)).sum(-1)
                apart[~having] = np.inf
                chosen = np.argsort(apart, kind="stable")[: min(FEWEST, having.sum())]
            if not chosen.size:
                continue
            nearest = chosen[clustering.distances[chosen].argmin()]
            row = rows[chosen, block].mean(0) if kind == "mean" else rows[nearest, block]
            result[group, block] = row / row.sum()
    return result


def _fit(
    textures: Textures,
    presets: np.ndarray,
    clustering: Clustering,
    standard: np.ndarray | None,
    gain: float,
) -> list[float | None]:
    """Return the median divergence of lesions from their group's preset, by class."""
    classes = presets.shape[1]
    found: list[list[float]] = [[] for _ in range(classes)]
    for number, group in enumerate(clustering.labels):
        asked, tissue = presets[group], None
        if textures.tissue is not None and standard is not None:
            tissue = textures.tissue[number]
            flat = asked.ravel().tolist()
            moved = adapt_histogram(flat, standard.tolist(), tissue, classes, gain=gain)
            asked = np.reshape(moved, asked.shape)
        own = textures.histograms(number, tissue, gain)
        for values, want, have in zip(found, asked, own, strict=True):
            if have.sum() > 0:
                jsd = jensen_shannon_divergence(torch.from_numpy(want), torch.from_numpy(have))
                values.append(float(jsd))
    return [round(float(np.median(values)), 4) if values else None for values in found]


def _describe(
    textures: Textures,
    means: np.ndarray,
    rows: np.ndarray,
    clustering: Clustering,
    presets: np.ndarray,
    look: Look,
) -> list[dict[str, Any]]:
    """Return name, size, histograms and figures of each group."""
    sizes = np.bincount(clustering.labels)
    names = list(look.names) if len(sizes) == 3 else [f"cluster_{i + 1}" for i in range(len(sizes))]
    groups = []
    for i, members in enumerate(clustering.members):
        medoid = members[clustering.distances[members].argmin()]
        group: dict[str, Any] = {"name": names[i], "size": len(members)}
        if textures.tissue is None:
            histogram = presets[i].round(6)
            group["weight"] = round(100 * len(members) / int(sizes.sum()), 1)
        else:  # rounded running sums: whole numbers that add up to 100, blocks that add up to 1
            whole = np.diff(np.rint(100 * np.cumsum(sizes) / sizes.sum()), prepend=0)
            group["weight"] = int(whole[i])
            running = np.round(np.cumsum(presets[i], axis=-1), 6)
            histogram = np.diff(running, axis=-1, prepend=0).round(6)
        group |= _levels(textures, means, members) | {
            "top_bin_share": round(float(rows[members, 0, -1].mean()), 4),
            "voxels_median": int(np.median(textures.voxels[members, 0])),
            "members_by_class": (textures.voxels[members] > 0).sum(0).tolist(),
            "medoid": lesion_name(textures.entries[medoid]),
            "members": [lesion_name(textures.entries[j]) for j in members],
            "histogram": histogram.ravel().tolist(),
            "histogram_sd": rows[members].std(0).round(6).ravel().tolist(),
        }
        if textures.tissue is None and group["top_bin_share"] >= SATURATED:
            logger.warning(
                "%s has %.0f %% of its voxels in the brightest bin: calcified lesions, or a window "
                "too narrow; its name says order of mean HU only",
                *(group["name"], 100 * group["top_bin_share"]),
            )
        groups.append(group)
    return groups


def _levels(textures: Textures, means: np.ndarray, members: np.ndarray) -> dict[str, Any]:
    """Return how bright a group is, in HU or against the tissue."""
    mean, deviation = float(means[members].mean()), float(means[members].std())
    if textures.tissue is None:
        spread = round(float(np.median(textures.spreads[members])), 1)
        return {
            "mean_hu": round(mean, 1),
            "mean_hu_sd": round(deviation, 1),
            "spread_hu_median": spread,
        }
    quartiles = np.percentile(textures.contrast[members], [25, 50, 75])
    return {
        "mean": round(mean, 3),
        "mean_sd": round(deviation, 3),
        "contrast_quartiles": [round(float(v), 2) for v in quartiles],
    }


def _check_config_preset(folder: Path, names: Sequence[str]) -> None:
    """Refuse presets that the bundle's own configuration could not find."""
    path = folder / "configs" / "inference.json"
    content = ConfigParser.load_config_file(str(path))
    asked = content.get("displayable_configs", {}).get("texture", "none")
    if asked not in (*names, "none", None):
        raise ValueError(
            f"write needs presets with the texture that {path} names ({asked!r}), got {list(names)}"
        )


def _presets_content(
    results: Mapping[str, Any], look: Look, standard: np.ndarray | None
) -> dict[str, Any]:
    tissue = {} if standard is None else {"tissue": standard.tolist()}
    scale = _scale(look, standard)
    scale.pop("tissue", None)
    if standard is not None:
        scale = {"bins": scale["bins"], "classes": len(look.model.classes), "gain": scale["gain"]}
    presets = {
        group["name"]: {"weight": group["weight"], **tissue, "histogram": group["histogram"]}
        for group in results["clusters"]
    }
    return {**scale, "presets": presets}
