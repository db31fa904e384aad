"""The figure of an evaluation: divergences as violins, and example lesions side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from tools.evaluation.lesions import ValidationLesion, mean_hu
from tools.files import new_file
from tools.intensity import HuWindow

__all__ = ["example_lesions", "write_figure"]

LUNG_WINDOW_HU = (-1350.0, 150.0)
VIOLINS = {
    "own": "own\nhistogram",
    "other": "another\nlesion's",
    "none_own": "no control\nvs own",
    "none_other": "no control\nvs another's",
    "floor_own": "chance\n(own)",
}
INK, ACCENT, MUTED = "#1f2933", "#2b6cb0", "#9aa5b1"


def example_lesions(lesions: Sequence[ValidationLesion], count: int = 5) -> list[int]:
    """Return which lesions to show: evenly spread over the ranks of volume, the ends left out."""
    ranked = np.argsort([float(lesion.lesion_mask.sum()) for lesion in lesions], kind="stable")
    places = (np.arange(min(count, len(ranked))) + 0.5) / min(count, len(ranked)) * len(ranked)
    return [int(ranked[int(place)]) for place in places]


def write_figure(
    path: str | Path,
    control: Mapping[str, Any],
    lesions: Sequence[ValidationLesion],
    images: Mapping[str, Sequence[Tensor]],
    window_hu: Sequence[float],
    examples: int = 5,
) -> Path:
    """Write violins of the divergences and, below, one row of axial slices per example lesion.

    Args:
        path: a PNG file.
        control: result of :func:`tools.evaluation.control.measure_control`.
        lesions: real lesions, shown first in each row.
        images: synthetic windows by the name of the column, each in the order of ``lesions``.
        window_hu: intensities that -1 and 1 stand for.
        examples: rows.
    """
    chosen = example_lesions(lesions, examples)
    columns = {"real": [lesion.image for lesion in lesions], **images}
    figure = Figure(figsize=(2.0 * len(columns), 3.6 + 2.15 * len(chosen)), layout="constrained")
    heights = [3.6, 2.15 * len(chosen)]
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=heights)).tolist()
    _draw_violins(top.subplots(), control)
    grid = bottom.subplots(len(chosen), len(columns), squeeze=False)
    for row, i in zip(grid, chosen, strict=True):
        for axes, (name, column) in zip(row, columns.items(), strict=True):
            _draw_slice(axes, column[i], lesions[i], window_hu, outline=name == "real")
            hu = mean_hu(column[i], lesions[i].lesion_mask, window_hu)
            axes.set_title(f"{name.replace('_', ' ')}\n{hu:.0f} HU", fontsize=9, color=INK)
        row[0].set_ylabel(f"{int(lesions[i].lesion_mask.sum())} voxels", fontsize=8, color=INK)
    target = Path(path)
    with new_file(target) as partial:
        figure.savefig(partial, dpi=130, format="png", facecolor="white")
    return target


def _draw_violins(axes: Axes, control: Mapping[str, Any]) -> None:
    names = list(VIOLINS)
    values = [[row["jsd"][name] for row in control["lesions"]] for name in names]
    # several orders of magnitude: the shape is drawn over the logarithm
    parts: dict[str, Any] = axes.violinplot(
        [np.log10(np.maximum(v, 1e-4)) for v in values], showextrema=False
    )
    for body, name in zip(parts["bodies"], names, strict=True):
        body.set_facecolor(ACCENT if name in ("own", "other") else MUTED)
        body.set_alpha(0.55)
    for place, name in enumerate(names, 1):
        q1, middle, q3 = (control["summary"][name][key] for key in ("q1", "median", "q3"))
        low, mid, high = np.log10(np.maximum([q1, middle, q3], 1e-4))
        axes.plot([place, place], [low, high], color=INK, linewidth=4, solid_capstyle="butt")
        axes.plot(place, mid, "o", color="white", markeredgecolor=INK, markersize=6)
        axes.text(place + 0.27, mid, f"{middle:.3f}", va="center", fontsize=9, color=INK)
    axes.set_xticks(range(1, len(names) + 1), list(VIOLINS.values()), fontsize=9)
    axes.set_yticks([-4, -3, -2, -1], ["0.0001", "0.001", "0.01", "0.1"])
    axes.set_ylabel("Jensen-Shannon divergence (nats)", fontsize=9)
    n = control["summary"]["own"]["n"]
    axes.set_title(
        f"Requested and achieved histogram, {n} lesions: median and quartiles", fontsize=10
    )
    axes.spines[["top", "right"]].set_visible(False)


def _draw_slice(
    axes: Axes,
    image: Tensor,
    lesion: ValidationLesion,
    window_hu: Sequence[float],
    outline: bool,
) -> None:
    """Draw the axial slice with most of the lesion; patient's right on the left, front on top."""
    mask = lesion.lesion_mask[0].numpy()
    k = int(mask.sum((0, 1)).argmax())
    hu = HuWindow(*window_hu).unscaled(image[0, :, :, k].float().numpy())
    shown = hu[::-1, ::-1].T
    vmin, vmax = LUNG_WINDOW_HU
    axes.imshow(shown, cmap="gray", vmin=vmin, vmax=vmax, interpolation="nearest")
    if outline:
        axes.contour(mask[::-1, ::-1, k].T, levels=[0.5], colors=ACCENT, linewidths=0.8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
