"""The figure of a clustering: histograms with spread, example lesions, and the choice of k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools.files import new_file
from tools.prepare.cluster_textures import Clustering, LesionTextures

__all__ = ["draw_choice", "example_members", "write_cluster_figure"]

COLORS = ("#4c78a8", "#e0873a", "#54a24b", "#b279a2", "#d1495b", "#8c6d46")
INK, MUTED, OUTLINE = "#222222", "#8a8a8a", "#ffb000"
SIDE_MM = 32.0


def write_cluster_figure(
    path: str | Path,
    textures: LesionTextures,
    clustering: Clustering,
    results: Mapping[str, Any],
    examples: int = 5,
) -> Path:
    """Write one row per group (histogram, example slices) and a last row that helps to choose k.

    Args:
        path: a PNG file.
        textures: lesions.
        clustering: groups of them.
        results: see :func:`tools.prepare.cluster.cluster_lesions`; ``clusters``, ``window_hu``,
            ``by_clusters`` and ``settings`` are read.
        examples: lesions shown per group.
    """
    groups = results["clusters"]
    figure = Figure(figsize=(4.6 + 1.75 * examples, 2.3 * len(groups) + 2.7), layout="constrained")
    heights = [2.3] * len(groups) + [2.7]
    rows = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    tallest = max(np.percentile(textures.histograms[clustering.labels == i], 90, axis=0).max()
                  for i in range(len(groups)))  # fmt: skip
    for i, group in enumerate(groups):
        left, *slices = rows[i].subplots(1, examples + 1, width_ratios=[2.5] + [1] * examples)
        inside = textures.histograms[clustering.labels == i]
        _draw_histogram(left, inside, group, results["window_hu"], COLORS[i % len(COLORS)])
        left.set_ylim(0, max(1.05 * tallest, 0.1))
        chosen = example_members(clustering, i, examples)
        for axes, member in zip(slices, chosen, strict=False):
            _draw_lesion(axes, textures, member, results["window_hu"])
        for axes in slices[len(chosen) :]:
            axes.set_axis_off()
    spread, choice = rows[-1].subplots(1, 2, width_ratios=[1.6, 1])
    _draw_means(spread, textures, clustering, results)
    draw_choice(choice, results)
    target = Path(path)
    with new_file(target) as partial:
        figure.savefig(partial, dpi=120, format="png", facecolor="white")
    return target


def example_members(clustering: Clustering, group: int, count: int) -> list[int]:
    """Return members evenly spread from the one nearest to the centre to the farthest.

    Example:
        >>> found = Clustering(np.array([0, 0, 0, 1]), np.array([0.3, 0.1, 0.2, 0.0]), 0.14)
        >>> example_members(found, group=0, count=2)
        [1, 0]
    """
    members = np.flatnonzero(clustering.labels == group)
    ranked = members[clustering.distances[members].argsort(kind="stable")]
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    return ranked[places].tolist()


def _draw_histogram(
    axes: Axes,
    histograms: np.ndarray,
    group: Mapping[str, Any],
    window_hu: Sequence[float],
    color: str,
) -> None:
    """Draw the mean as bars, the middle 80 % of the lesions as whiskers, the preset as a line."""
    edges = np.linspace(window_hu[0], window_hu[1], histograms.shape[1] + 1)
    middle, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    low, high = np.percentile(histograms, [10, 90], axis=0)
    axes.bar(middle, histograms.mean(0), width * 0.92, color=color, alpha=0.75)
    axes.vlines(middle, low, high, color=INK, linewidth=1.1)
    axes.stairs(group["histogram"], edges, color=INK, linewidth=1, linestyle=":")
    axes.set_title(
        f"{group['name'].replace('_', ' ')}: {group['size']} lesions ({group['weight']:.0f} %), "
        f"{group['mean_hu']:.0f} HU",
        fontsize=9,
        color=INK,
    )
    axes.set_xlabel("HU", fontsize=8, labelpad=1)
    axes.set_ylabel("share of voxels", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_lesion(
    axes: Axes, textures: LesionTextures, member: int, window_hu: Sequence[float]
) -> None:
    """Draw the axial slice with most of the lesion; patient's right on the left, front on top."""
    entry = textures.entries[member]
    image = nib.as_closest_canonical(nib.Nifti1Image.from_filename(entry["image"]))
    label = nib.as_closest_canonical(nib.Nifti1Image.from_filename(entry["label"]))
    inside = np.asarray(label.dataobj) > 0
    k = int(inside.sum((0, 1)).argmax())
    spacing = nib.affines.voxel_sizes(image.affine)
    centre, half = np.argwhere(inside[:, :, k]).mean(0), SIDE_MM / 2 / spacing[:2]
    box = tuple(
        slice(max(0, int(c - h)), int(c + h) + 1) for c, h in zip(centre, half, strict=True)
    )
    shown = np.asarray(image.dataobj[..., k])[box][::-1, ::-1].T
    vmin, vmax = window_hu
    aspect = spacing[1] / spacing[0]
    axes.imshow(shown, cmap="gray", vmin=vmin, vmax=vmax, aspect=aspect, interpolation="nearest")
    mask = inside[..., k][box][::-1, ::-1].T
    axes.contour(mask, levels=[0.5], colors=OUTLINE, linewidths=0.8)
    axes.set_title(f"{textures.mean_hu[member]:.0f} HU", fontsize=8, color=INK)
    axes.set_xlabel(f"{textures.voxels[member]} voxels", fontsize=7, color=MUTED)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _draw_means(
    axes: Axes, textures: LesionTextures, clustering: Clustering, results: Mapping[str, Any]
) -> None:
    """Draw where the groups lie among all lesions: mean HU, stacked."""
    groups, (low, high) = results["clusters"], results["window_hu"]
    axes.hist(
        [textures.mean_hu[clustering.labels == i] for i in range(len(groups))],
        bins=np.linspace(low, high, 41).tolist(),
        stacked=True,
        color=[COLORS[i % len(COLORS)] for i in range(len(groups))],
        label=[group["name"].replace("_", " ") for group in groups],
        alpha=0.75,
    )
    axes.set_xlabel("mean HU inside the lesion", fontsize=8)
    axes.set_ylabel("lesions", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def draw_choice(axes: Axes, results: Mapping[str, Any]) -> None:
    """Draw silhouette and inertia over the number of groups."""
    rows = results["by_clusters"]
    numbers = [row["clusters"] for row in rows]
    scores = [row["silhouette"] for row in rows]
    axes.plot(numbers, scores, "o-", color=INK)
    axes.set_ylabel("silhouette (more is better)", fontsize=8, color=INK)
    axes.set_xlabel(f"number of clusters (shown: {len(results['clusters'])})", fontsize=8)
    axes.set_ylim(min([0.0, *scores]), 1.1 * max([0.1, *scores]))
    axes.set_xticks(numbers)
    axes.axvline(len(results["clusters"]), color=MUTED, linewidth=0.8, linestyle=":")
    other = axes.twinx()
    other.plot(numbers, [row["inertia"] for row in rows], "s--", color=MUTED, markersize=4)
    other.set_ylabel("inertia", fontsize=8, color=MUTED)
    other.set_ylim(bottom=0)
    for each in (axes, other):
        each.tick_params(labelsize=7)
        each.spines["top"].set_visible(False)
