"""The figure of an evaluation of hearts: slices by request, and distributions of contrasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from tools.evaluation.heart_cases import HeartCase
from tools.files import new_file

__all__ = ["example_hearts", "write_heart_figure"]

ROWS = {
    "own": "own histograms",
    "other": "another heart's",
    "none": "no control",
}
GROUPS = {"real": "real", "own": "own\nhistograms", "none": "no\ncontrol"}
PANELS = {"infarct": "infarct", "no_reflow": "no-reflow", "ratio": "no-reflow / infarct"}
INK, ACCENT, SECOND, MUTED = "#1f2933", "#2b6cb0", "#dd6b20", "#9aa5b1"


def example_hearts(cases: Sequence[HeartCase], count: int = 6) -> list[int]:
    """Return which hearts to show: two thirds with no-reflow where there are so many.

    Args:
        cases: any number.
        count: at most that many.
    """
    both = [i for i, case in enumerate(cases) if all(case.present)]
    rest = [i for i in range(len(cases)) if i not in both]
    taken = both[: max(count - len(rest), (2 * count + 2) // 3)]
    return sorted([*taken, *rest[: count - len(taken)]])


def write_heart_figure(
    path: str | Path,
    cases: Sequence[HeartCase],
    images: Mapping[str, Sequence[Tensor]],
    rows: Sequence[Mapping[str, Any]],
    examples: int = 6,
) -> Path:
    """Write slices, a column per heart and a row per request, and the contrasts below.

    Args:
        path: a PNG file.
        cases: real hearts, shown first, with and without outlines.
        images: one synthetic window per heart by request (``own``, ``other``, ``none``).
        rows: ``hearts`` of the results: contrasts of real and synthetic lesions.
        examples: columns.
    """
    chosen = example_hearts(cases, examples)
    names = ["labels", "real", *ROWS]
    sides = (1.9 * max(len(chosen), 4), 1.95 * len(names) + 3.0)
    figure = Figure(figsize=sides, layout="constrained")
    heights = [sides[1] - 3.0, 3.0]
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=heights)).tolist()
    grid = top.subplots(len(names), len(chosen), squeeze=False)
    for column, i in enumerate(chosen):
        for axes, name in zip(grid[:, column], names, strict=True):
            image = images[name][i] if name in images else cases[i].image
            _draw_slice(axes, image, cases[i], outline=name == "labels")
        grid[0, column].set_title(cases[i].name, fontsize=9, color=INK)
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(ROWS.get(name, name), fontsize=9, color=INK)
    for axes, name in zip(bottom.subplots(1, len(PANELS)), PANELS, strict=True):
        _draw_contrasts(axes, rows, name)
    target = Path(path)
    with new_file(target) as partial:
        figure.savefig(partial, dpi=130, format="png", facecolor="white")
    return target


def _draw_slice(axes: Axes, image: Tensor, case: HeartCase, outline: bool) -> None:
    """Draw the slice with most no-reflow, or most infarct where there is none."""
    masks = case.lesion_masks.numpy()
    shown = masks[-1] if masks[-1].any() else masks.max(0)
    k = int(shown.sum((0, 1)).argmax())
    axes.imshow(image[0, :, :, k].float().numpy().T, cmap="gray", vmin=-1, vmax=1)
    if outline:
        for mask, colour in zip(masks, (ACCENT, SECOND), strict=True):
            if mask[:, :, k].any():
                axes.contour(mask[:, :, k].T, levels=[0.5], colors=colour, linewidths=0.9)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _draw_contrasts(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Draw every heart as a dot, median and quartiles as a bar, twins joined by a line."""
    values: dict[str, list[float | None]] = {"real": [row["real"][name] for row in rows]}
    for group in ("own", "none"):
        drawn = [[v[name] for v in row["synthetic"][group]] for row in rows]
        kept = [[v for v in twins if v is not None] for twins in drawn]
        values[group] = [float(np.mean(twins)) if twins else None for twins in kept]
    for place, (group, column) in enumerate(values.items()):
        known = [value for value in column if value is not None]
        colour = INK if group == "real" else ACCENT if group == "own" else MUTED
        axes.plot([place] * len(known), known, "o", color=colour, alpha=0.55, markersize=4)
        if known:
            low, middle, high = np.percentile(known, [25, 50, 75])
            axes.plot([place + 0.2] * 2, [low, high], color=colour, linewidth=4)
            axes.plot(place + 0.2, middle, "o", color="white", markeredgecolor=INK)
    for real, own in zip(values["real"], values["own"], strict=True):
        if real is not None and own is not None:
            axes.plot([0, 1], [real, own], color=MUTED, linewidth=0.6)
    axes.set_xticks(range(len(GROUPS)), list(GROUPS.values()), fontsize=8)
    axes.set_xlim(-0.4, len(GROUPS) - 0.4)
    axes.set_title(PANELS[name], fontsize=9, color=INK)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel("contrast (0 myocardium, 1 blood)" if name == "infarct" else "", fontsize=8)
