"""Examples of an autoencoder's reconstructions as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.figure
import numpy as np
from torch import Tensor

from tools.files import new_file

__all__ = ["write_examples"]

WINDOW_HU = (-1000.0, 400.0)
ERROR_HU = 200.0


def write_examples(
    path: Path,
    examples: Sequence[tuple[Tensor, Tensor, Tensor | None]],
    intensity_range: tuple[float, float],
) -> None:
    """Write image, reconstruction and their difference, one column per patch.

    The slice is the axial one with the most lesion, the middle one where there is none.

    Args:
        path: PNG file to write.
        examples: image and reconstruction in [0, 1] and lesion mask, ``(1, 1, H, W, D)``.
        intensity_range: HU that 0 and 1 stand for.
    """
    figure = matplotlib.figure.Figure(figsize=(2 * max(len(examples), 1), 6), dpi=100)
    axes = figure.subplots(3, max(len(examples), 1), squeeze=False)
    low, high = intensity_range
    for column, (image, reconstruction, mask) in enumerate(examples):
        area = np.zeros(image.shape[-1]) if mask is None else mask[0, 0].numpy().sum((0, 1))
        level = int(area.argmax()) if area.any() else image.shape[-1] // 2
        before, after = (
            part[0, 0, :, :, level].numpy().T * (high - low) + low
            for part in (image, reconstruction)
        )
        for row, values in enumerate((before, after)):
            axes[row, column].imshow(
                values, "gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], origin="lower"
            )
        axes[2, column].imshow(
            after - before, "RdBu_r", vmin=-ERROR_HU, vmax=ERROR_HU, origin="lower"
        )
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for row, name in enumerate(("image", "reconstruction", f"difference, ±{ERROR_HU:.0f} HU")):
        axes[row, 0].set_ylabel(name)
    figure.tight_layout()
    with new_file(path) as partial:
        figure.savefig(partial, format="png")
