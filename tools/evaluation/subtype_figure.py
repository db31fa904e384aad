"""Lesions as they were and as each subtype, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tools.evaluation.subtype_cases import SubtypeCase
from tools.files import new_file
from tools.transforms.conditions import SUBTYPES

__all__ = ["write_subtype_figure"]

LUNG_WINDOW_HU = (-1350.0, 150.0)


def write_subtype_figure(
    path: Path,
    cases: Sequence[SubtypeCase],
    images: Mapping[str, Sequence[np.ndarray]],
    rows_per_subtype: int = 2,
) -> Path:
    """Write axial slices through the middle of lesions: real, and drawn by request.

    Args:
        path: a PNG file.
        cases: real lesions.
        images: HU by request, in the order of ``cases``.
        rows_per_subtype: lesions shown of each.
    """
    chosen = []
    for number in range(len(SUBTYPES)):
        mine = [i for i, case in enumerate(cases) if case.subtype == number]
        mine.sort(key=lambda i: cases[i].diameter_mm)
        count = min(rows_per_subtype, len(mine))
        chosen += [mine[(2 * k + 1) * len(mine) // (2 * count)] for k in range(count)]
    columns = {"real": [case.image for case in cases], **images}
    size = (1.7 * len(columns), 1.8 * len(chosen) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(chosen), len(columns), squeeze=False)
    for row, i in zip(axes, chosen, strict=True):
        case = cases[i]
        middle = round(float(np.argwhere(case.lesion_mask)[:, 2].mean()))
        for axis, (name, drawn) in zip(row, columns.items(), strict=True):
            low, high = LUNG_WINDOW_HU
            axis.imshow(drawn[i][:, :, middle].T, cmap="gray", vmin=low, vmax=high, origin="lower")
            if name == "real":
                outline = case.lesion_mask[:, :, middle].T
                axis.contour(outline, levels=[0.5], colors="tab:orange", linewidths=0.6)
                axis.set_ylabel(f"{SUBTYPES[case.subtype]}\n{case.diameter_mm:.0f} mm", fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
            if i == chosen[0]:
                axis.set_title(name, fontsize=8)
    with new_file(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
    return path
