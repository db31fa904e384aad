"""The figure of a clustering: histograms with spread, example lesions, and the choice of k."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools.files import new_file
from tools.prepare.clustering import Clustering, Measured

__all__ = ["write_cluster_figure"]

COLORS = ("#4c78a8", "#e0873a", "#54a24b", "#b279a2", "#d1495b", "#8c6d46")
INK, MUTED = "#222222", "#8a8a8a"
OUTLINES = ("#ffb000", "#00b4d8")
TISSUE = ("myocardium", "blood")
SIDE_MM, ROUND_MM = 32.0, 12.0  # of an example: at least, and beyond its lesion


def write_cluster_figure(
    path: str | Path,
    measured: Measured,
    clustering: Clustering,
    results: Mapping[str, Any],
    examples: int = 4,
) -> Path:
    """Write one row per group (a histogram per class, example slices) and a last to choose k.

    ``results`` are those of :func:`tools.prepare.cluster.cluster_lesions`; ``examples`` lesions are
    shown per group, from the one nearest to the centre to the farthest.
    """
    groups, rows = results["clusters"], measured.rows
    classes = rows.shape[1]
    size = (3.2 * classes + 1.9 * examples, 2.4 * len(groups) + 2.7)
    figure = Figure(figsize=size, layout="constrained")
    heights = [2.4] * len(groups) + [2.7]
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    widths = [1.6] * classes + [1] * examples
    for i, (group, members) in enumerate(zip(groups, clustering.members, strict=True)):
        axes = parts[i].subplots(1, classes + examples, width_ratios=widths)
        for block in range(classes):
            _draw_histogram(axes[block], measured, members, group, block, results)
            axes[block].set_title(_title(group, block, measured), fontsize=9, color=INK)
        ranked = members[clustering.distances[members].argsort(kind="stable")]
        places = np.linspace(0, len(ranked) - 1, min(examples, len(ranked))).round().astype(int)
        for each, member in zip(axes[classes:], ranked[places], strict=False):
            _draw_lesion(each, measured, int(member))
        for each in axes[classes + len(places) :]:
            each.set_axis_off()
    spread, choice = parts[-1].subplots(1, 2, width_ratios=[1.6, 1])
    _draw_means(spread, measured, clustering, results)
    _draw_choice(choice, results)
    with new_file(path) as partial:
        figure.savefig(partial, dpi=110, format="png", facecolor="white")
    return Path(path)


def _title(group: Mapping[str, Any], block: int, measured: Measured) -> str:
    count = group["members_by_class"][block]
    name = group["name"].replace("_", " ")
    classes = measured.look.model.classes
    which = f", class {classes[block]}" if len(group["members_by_class"]) > 1 else ""
    share = f" ({group['weight']:.0f} %)" if block == 0 else ""
    mean = f", {group['mean_hu']:.0f} HU" if "mean_hu" in group else ""
    return f"{name}{which}: {count} lesions{share}{mean}"


def _draw_histogram(
    axes: Axes,
    measured: Measured,
    members: np.ndarray,
    group: Mapping[str, Any],
    block: int,
    results: Mapping[str, Any],
) -> None:
    """Draw the mean as bars, the middle 80 % as whiskers, the preset as a line, the tissues."""
    rows, bins = measured.rows[members, block], measured.rows.shape[2]
    edges = np.linspace(*measured.look.model.window, bins + 1)
    middle, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    having = rows[rows.sum(1) > 0]
    if len(having):
        low, high = np.percentile(having, [10, 90], axis=0)
        color = COLORS[results["clusters"].index(group) % len(COLORS)]
        axes.bar(middle, having.mean(0), width * 0.92, color=color, alpha=0.75)
        axes.vlines(middle, low, high, color=INK, linewidth=1.1)
    preset = group["histogram"][block * bins : (block + 1) * bins]
    axes.stairs(preset, edges, color=INK, linewidth=1, linestyle=":")
    for name, level in zip(TISSUE, results.get("tissue", ()), strict=False):
        axes.axvline(level, color=MUTED, linewidth=0.8, linestyle="--")
        axes.annotate(name, (level, 0.98), xycoords=("data", "axes fraction"), fontsize=6,
                      rotation=90, ha="right", va="top", color=MUTED)  # fmt: skip
    seen = "HU" if "window_hu" in results else "intensity as the model sees it, standard tissue"
    axes.set_xlabel(seen, fontsize=7, labelpad=1)
    axes.set_ylabel("share of voxels", fontsize=7)
    axes.set_ylim(bottom=0)
    _plain(axes)


def _draw_lesion(axes: Axes, measured: Measured, member: int) -> None:
    """Draw the slice with most of the lesion, as the model sees it, cut to its surroundings."""
    textures = measured.textures
    sight = measured.look.model.open(textures.entries[member])
    assert sight is not None
    k = int(sight.masks[0].sum((0, 1)).argmax())
    spacing = np.asarray(sight.spacing_mm)
    where = np.argwhere(sight.masks[0][..., k])
    middle = (where.min(0) + where.max(0)) / 2
    half = np.maximum(np.ptp(where, axis=0) / 2 + ROUND_MM / spacing, SIDE_MM / 2 / spacing)
    low = np.maximum(middle - half.max(), 0).astype(int)
    box = tuple(slice(a, int(c + half.max()) + 1) for a, c in zip(low, middle, strict=True))
    axes.imshow(sight.image[..., k][box].T, cmap="gray", vmin=-1, vmax=1,
                aspect=spacing[1] / spacing[0], interpolation="nearest")  # fmt: skip
    for mask, color in zip(sight.masks, OUTLINES, strict=False):
        if mask[..., k].any():
            axes.contour(mask[..., k][box].T, levels=[0.5], colors=color, linewidths=0.8)
    said = f"{textures.means[member]:.0f} HU"
    if textures.tissue is not None:
        said = f"contrast {textures.contrast[member]:.2f}"
    axes.set_title(said, fontsize=8, color=INK)
    axes.set_xlabel(f"{textures.voxels[member][0]} voxels", fontsize=7, color=MUTED)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _draw_means(
    axes: Axes, measured: Measured, clustering: Clustering, results: Mapping[str, Any]
) -> None:
    """Draw where the groups lie among all lesions: mean, or contrast to the tissue, stacked."""
    groups, textures = results["clusters"], measured.textures
    if textures.tissue is None:
        values, said = textures.means, "mean HU inside the lesion"
        edges = np.linspace(*measured.look.model.window, 41)
    else:
        values, said = textures.contrast, "contrast of the lesion: 0 myocardium, 1 blood"
        edges = np.histogram_bin_edges(values, 20)
    axes.hist(
        [values[members] for members in clustering.members],
        bins=edges.tolist(),
        stacked=True,
        color=[COLORS[i % len(COLORS)] for i in range(len(groups))],
        label=[group["name"].replace("_", " ") for group in groups],
        alpha=0.75,
    )
    axes.set_xlabel(said, fontsize=8)
    axes.set_ylabel("lesions", fontsize=8)
    axes.legend(fontsize=8, frameon=False)
    _plain(axes)


def _draw_choice(axes: Axes, results: Mapping[str, Any]) -> None:
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


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
