"""Pictures of lesions side by side: one look for all pages and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools.report.findings import png

__all__ = ["COLOURS", "INK", "Picture", "bare", "draw_picture", "montage"]

INK = "#1f2933"
COLOURS = ("#2b6cb0", "#dd6b20", "#2f855a", "#b7791f", "#9b2c2c")


class Picture(NamedTuple):
    """A slice as it is drawn.

    Attributes:
        values: rows and columns.
        window: values that are black and white.
        outlines: masks of the shape of the values; empty ones are not drawn.
        aspect: height of a pixel over its width.
        origin: where the first row stands, ``upper`` or ``lower``.
    """

    values: np.ndarray
    window: tuple[float, float] = (-1.0, 1.0)
    outlines: Sequence[np.ndarray] = ()
    aspect: float = 1.0
    origin: str = "upper"


def draw_picture(axes: Axes, picture: Picture, colours: str = "gray") -> None:
    """Draw a picture and the outlines on it, without a frame."""
    low, high = picture.window
    axes.imshow(
        picture.values,
        cmap=colours,
        vmin=low,
        vmax=high,
        aspect=picture.aspect,
        origin=picture.origin,  # type: ignore[arg-type]
        interpolation="bicubic",
    )
    for mask, colour in zip(picture.outlines, COLOURS, strict=False):
        if mask.any() and not mask.all():
            axes.contour(mask, levels=[0.5], colors=colour, linewidths=0.9)
    bare(axes)


def bare(axes: Axes) -> None:
    """Leave ticks and frame out."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def montage(
    rows: Sequence[Sequence[Picture]],
    titles: Sequence[str],
    labels: Sequence[str],
    side: float = 1.6,
) -> bytes:
    """Return a PNG of rows of as many pictures each.

    Args:
        rows: the pictures.
        titles: above the columns.
        labels: beside the rows.
        side: of a picture, in inches.
    """
    size = (side * len(titles) + 0.3, side * len(rows) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, pictures in zip(grid, rows, strict=True):
        for axes, picture in zip(line, pictures, strict=True):
            draw_picture(axes, picture)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8)
    for axes, label in zip(grid[:, 0], labels, strict=True):
        axes.set_ylabel(label, fontsize=8)
    return png(figure, 120)
