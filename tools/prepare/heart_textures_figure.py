"""The figure of a clustering of hearts: histograms by class, example slices, the choice of k."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools.files import new_file
from tools.prepare.cluster_figure import COLORS, INK, MUTED, OUTLINE, draw_choice, example_members
from tools.prepare.cluster_textures import Clustering
from tools.synthesis.generator import SliceSettings, scaled
from tools.synthesis.hearts.pipeline import HeartWindow
from tools.synthesis.scan import Scan
from tools.transforms.wall import HEART_CLASSES

if TYPE_CHECKING:
    from tools.prepare.heart_textures import HeartLesions

__all__ = ["write_heart_figure"]

CORE = "#00b4d8"


def write_heart_figure(
    path: str | Path,
    hearts: HeartLesions,
    moved: np.ndarray,
    clustering: Clustering,
    results: Mapping[str, Any],
    settings: SliceSettings,
    examples: int = 4,
) -> Path:
    """Write one row per group (a histogram per class, example slices) and a last one to choose k.

    Args:
        path: a PNG file.
        hearts: lesions.
        moved: histograms in the standard tissue, ``(n, classes, bins)``.
        clustering: groups of them.
        results: see :func:`tools.prepare.heart_textures.cluster_hearts`.
        settings: of the model's window.
        examples: hearts shown per group.
    """
    groups, classes = results["clusters"], moved.shape[1]
    figure = Figure(figsize=(3.2 * classes + 1.9 * examples, 2.4 * len(groups) + 2.7),
                    layout="constrained")  # fmt: skip
    heights = [2.4] * len(groups) + [2.7]
    rows = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    widths = [1.6] * classes + [1] * examples
    for i, group in enumerate(groups):
        axes = rows[i].subplots(1, classes + examples, width_ratios=widths)
        inside = moved[clustering.labels == i]
        for block in range(classes):
            name = HEART_CLASSES.get(settings.classes[block], str(settings.classes[block]))
            _draw_histogram(axes[block], inside[:, block], group, block, results["tissue"], i)
            axes[block].set_title(_title(name, group, block), fontsize=9, color=INK)
        chosen = example_members(clustering, i, examples)
        for each, member in zip(axes[classes:], chosen, strict=False):
            _draw_heart(each, hearts, member, settings)
        for each in axes[classes + len(chosen) :]:
            each.set_axis_off()
    spread, choice = rows[-1].subplots(1, 2, width_ratios=[1.6, 1])
    _draw_contrasts(spread, hearts, clustering, results)
    draw_choice(choice, results)
    target = Path(path)
    with new_file(target) as partial:
        figure.savefig(partial, dpi=110, format="png", facecolor="white")
    return target


def _title(name: str, group: Mapping[str, Any], block: int) -> str:
    count = group["members_by_class"][block]
    share = f" ({group['weight']} %)" if block == 0 else ""
    return f"{group['name']}: {name.replace('_', '-')}, {count} hearts{share}"


def _draw_histogram(
    axes: Axes,
    rows: np.ndarray,
    group: Mapping[str, Any],
    block: int,
    tissue: tuple[float, float],
    number: int,
) -> None:
    """Draw the mean as bars, the middle 80 % as whiskers, the preset as a line, the tissues."""
    bins = rows.shape[1]
    edges = np.linspace(-1, 1, bins + 1)
    middle = (edges[:-1] + edges[1:]) / 2
    having = rows[rows.sum(1) > 0]
    if len(having):
        low, high = np.percentile(having, [10, 90], axis=0)
        color = COLORS[number % len(COLORS)]
        axes.bar(middle, having.mean(0), 1.84 / bins, color=color, alpha=0.75)
        axes.vlines(middle, low, high, color=INK, linewidth=1.1)
    preset = group["histogram"][block * bins : (block + 1) * bins]
    axes.stairs(preset, edges, color=INK, linewidth=1, linestyle=":")
    for name, level in zip(("myocardium", "blood"), tissue, strict=True):
        axes.axvline(level, color=MUTED, linewidth=0.8, linestyle="--")
        axes.annotate(name, (level, 0.98), xycoords=("data", "axes fraction"), fontsize=6,
                      rotation=90, ha="right", va="top", color=MUTED)  # fmt: skip
    axes.set_xlabel("intensity as the model sees it, standard tissue", fontsize=7, labelpad=1)
    axes.tick_params(labelsize=7)
    axes.set_ylim(0, 0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_heart(axes: Axes, hearts: HeartLesions, member: int, settings: SliceSettings) -> None:
    """Draw the slice of the window with most of the lesion, as the model sees it."""
    entry = hearts.entries[member]
    scan = Scan(entry["image"])
    window = HeartWindow.open(scan, scan.load_labels(entry["label"], "label"), settings)
    masks = window.masks(window.organ, settings.classes)
    k = int(masks[0].sum((0, 1)).argmax())
    shown = scaled(window.image, window.range)[..., k].T
    axes.imshow(shown, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    for mask, color in zip(masks, (OUTLINE, CORE), strict=False):
        if mask[..., k].any():
            axes.contour(mask[..., k].T, levels=[0.5], colors=color, linewidths=0.8)
    axes.set_title(f"contrast {hearts.contrast[member]:.2f}", fontsize=8, color=INK)
    axes.set_xlabel(f"{hearts.voxels[member][0]} voxels", fontsize=7, color=MUTED)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _draw_contrasts(
    axes: Axes, hearts: HeartLesions, clustering: Clustering, results: Mapping[str, Any]
) -> None:
    """Draw where the groups lie among all hearts: contrast of the infarct, stacked."""
    groups = results["clusters"]
    axes.hist(
        [hearts.contrast[clustering.labels == i] for i in range(len(groups))],
        bins=np.histogram_bin_edges(hearts.contrast, 20).tolist(),
        stacked=True,
        color=[COLORS[i % len(COLORS)] for i in range(len(groups))],
        label=[group["name"].replace("_", " ") for group in groups],
        alpha=0.75,
    )
    axes.set_xlabel("contrast of the infarct: 0 myocardium, 1 blood", fontsize=8)
    axes.set_ylabel("hearts", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
