"""One picture of a case: every lesion before, after, and outlined."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tools.files import new_file
from tools.scans.scan import Scan
from tools.synthesis.records import read_record
from tools.windows import WindowGrid, cut_window

__all__ = ["write_overview"]

FIELD = 80  # mm shown round a lesion
TITLES = ("before", "after", "label")


def write_overview(
    case: Mapping[str, Any], path: str | Path, window: tuple[float, float] = (-1000.0, 400.0)
) -> Path:
    """Write a PNG with one column per lesion and rows before, after, label: axial slices.

    ``case`` has ``folder`` and ``original`` as :func:`synthesize_scans` returns them; ``window`` is
    shown from black to white.
    """
    folder = Path(case["folder"])
    record = read_record(folder / "lesions.json")
    before, after = Scan(case["original"]), Scan(folder / "image.nii.gz")
    label = after.load_labels(folder / "label.nii.gz", "label")
    lesions = np.isin(label, [lesion.label for lesion in record.lesions]).astype(np.float32)
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9}):
        count = len(record.lesions)
        figure, axes = plt.subplots(3, count, figsize=(2.6 * count, 8.2), squeeze=False)
        for column, lesion in zip(axes.T, record.lesions, strict=True):
            grid = WindowGrid.around(lesion.site_mm, (2 * FIELD, 2 * FIELD, 1), 0.5)
            volumes = ((before.image, window[0]), (after.image, window[0]), (lesions, 0.0))
            views = [
                cut_window(volume, before.affine, grid, beyond=outside)[..., 0].T
                for volume, outside in volumes
            ]
            kind = lesion.texture.replace("_", "-")
            column[0].set_title(f"{kind}, {lesion.diameter_mm:.0f} mm")
            for axis, view in zip(column, (views[0], views[1], views[1]), strict=True):
                _show(axis, view, window)
            # outline on the third row only, so that the lesion can be judged without it
            column[2].contour(views[2], [0.5], colors="#ff5a36", linewidths=1)
        for axis, title in zip(axes[:, 0], TITLES, strict=True):
            axis.set_ylabel(title)
        figure.tight_layout(pad=0.4)
        with new_file(path) as partial:
            figure.savefig(partial, dpi=110)
        plt.close(figure)
    return Path(path)


def _show(axis: Axes, view: np.ndarray, window: tuple[float, float]) -> None:
    # x grows to the patient's right hand: mirrored, as radiologists look
    axis.imshow(view, cmap="gray", vmin=window[0], vmax=window[1], origin="lower")
    axis.invert_xaxis()
    axis.set_xticks([])
    axis.set_yticks([])
