"""The gallery of shapes: real, ellipsoid and drawn by the model, at equal spheres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from scipy.ndimage import gaussian_filter

from tools.evaluation.shape_sources import PlacedMask, RealShape
from tools.files import new_file
from tools.metrics.shape import SMOOTHING_VOXELS, surface_mesh
from tools.transforms.spheres import shape_grid
from tools.windows import cut_window

__all__ = ["example_shapes", "write_gallery"]

INK, MUTED = "#1f2933", "#9aa5b1"
COLOURS = ("#6b7280", "#2b6cb0", "#b7791f", "#2f855a", "#9b2c2c")
# from above, left of and behind the viewer, who looks from the right front
LIGHT = np.array([0.05, -0.62, 0.78])
VIEW = {"elev": 18, "azim": -55}
OUTLINE_SIZE = 48


def example_shapes(lesions: Sequence[RealShape], count: int = 7) -> list[int]:
    """Return which lesions to show: evenly spread over the logarithm of the sphere's size."""
    sizes = np.log([max(lesion.sphere.radius_mm, 0.5) for lesion in lesions])
    low, high = np.percentile(sizes, [10, 98]).tolist()
    wanted = np.linspace(low, high, min(count, len(lesions)))
    chosen: list[int] = []
    for size in wanted:
        order = np.argsort(np.abs(sizes - size), kind="stable")
        chosen.append(next(int(i) for i in order if int(i) not in chosen))
    return sorted(chosen, key=lambda i: sizes[i])


def write_gallery(
    path: str | Path,
    lesions: Sequence[RealShape],
    shapes: Mapping[str, Sequence[PlacedMask | None]],
    examples: int = 7,
) -> Path:
    """Write one row of shaded surfaces per source, and the outlines of the middle slices.

    Columns are spheres of rising size, each drawn to fill its frame.

    Args:
        path: a PNG file.
        lesions: real masks, the first row.
        shapes: other rows by name, in the order of ``lesions``; None leaves a frame empty. What is
            real too (``real_training``) is not shown: it lies in other spheres.
        examples: columns.
    """
    chosen = example_shapes(lesions, examples)
    rows: dict[str, Sequence[PlacedMask | None]] = {"real": [each.placed for each in lesions]}
    # the model last: rows read from what is wanted over the simple method to the result
    rows |= dict(sorted(shapes.items(), key=lambda item: item[0] != "ellipsoid"))
    rows.pop("real_training", None)
    n = len(rows) + 1
    figure = Figure(figsize=(1.75 * len(chosen) + 0.5, 1.8 * n + 0.5))
    grid = figure.add_gridspec(
        n, len(chosen), left=0.05, right=0.995, top=0.93, bottom=0.01, wspace=0.02, hspace=0.02
    )
    for r, (name, masks) in enumerate(rows.items()):
        for c, i in enumerate(chosen):
            axes = figure.add_subplot(grid[r, c], projection="3d")
            _draw_surface(axes, masks[i], lesions[i], COLOURS[r % len(COLOURS)])
            if r == 0:
                title = f"{2 * lesions[i].sphere.radius_mm:.0f} mm"
                axes.set_title(title, fontsize=11, color=INK)
        _label_row(figure, r, n, name.replace("_", " "))
    for c, i in enumerate(chosen):
        axes = figure.add_subplot(grid[n - 1, c])
        _draw_outlines(axes, [masks[i] for masks in rows.values()], lesions[i])
    _label_row(figure, n - 1, n, "middle slice")
    target = Path(path)
    with new_file(target) as partial:
        figure.savefig(partial, dpi=130, format="png", facecolor="white")
    return target


def _label_row(figure: Figure, row: int, rows: int, text: str) -> None:
    height = 0.93 - (row + 0.5) * (0.92 / rows)
    figure.text(0.018, height, text, rotation=90, ha="center", va="center", fontsize=11, color=INK)


def _draw_surface(axes: Axes3D, shape: PlacedMask | None, lesion: RealShape, colour: str) -> None:
    """Draw the shaded surface, seen a little from above; the frame is the sphere's."""
    axes.set_axis_off()
    axes.view_init(**VIEW)
    reach = lesion.sphere.radius_mm + 0.5
    for set_limits, middle in zip(
        (axes.set_xlim, axes.set_ylim, axes.set_zlim), lesion.sphere.centre_mm, strict=True
    ):
        set_limits(middle - reach, middle + reach)
    axes.set_box_aspect((1, 1, 1), zoom=1.6)
    if shape is None:
        return
    vertices, triangles = surface_mesh(*shape)
    brightness = 0.35 + 0.65 * np.clip(_normals(vertices, triangles) @ LIGHT, 0, 1)
    colours = np.clip(np.array(to_rgb(colour)) * 1.35 * brightness[:, None], 0, 1)
    surface = Poly3DCollection(
        vertices[triangles], facecolors=colours, edgecolors=colours, linewidths=0.3
    )
    axes.add_collection3d(surface)


def _normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Return unit normals of the triangles, outward, smoothed over their corners."""
    corners = vertices[triangles]
    faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    if ((corners.mean(1) - vertices.mean(0)) * faces).sum() < 0:
        faces = -faces
    points = np.zeros_like(vertices)
    for column in triangles.T:
        np.add.at(points, column, faces)
    smooth = points[triangles].sum(1)
    return smooth / np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-12)


def _draw_outlines(axes: Axes, shapes: Sequence[PlacedMask | None], lesion: RealShape) -> None:
    """Draw the outlines of all sources in the middle slice of the sphere, front on top."""
    grid = shape_grid(lesion.sphere.centre_mm, lesion.sphere.radius_mm + 0.5, OUTLINE_SIZE)
    for shape, colour in zip(shapes, COLOURS, strict=False):
        if shape is None:
            continue
        smooth = gaussian_filter(shape.mask.astype(np.float32), SMOOTHING_VOXELS, mode="constant")
        window = cut_window(smooth, shape.affine, grid, beyond=0.0)
        middle = window[:, :, OUTLINE_SIZE // 2 - 1 : OUTLINE_SIZE // 2 + 1].mean(2).T
        if middle.max() > 0.45:
            axes.contour(middle, levels=[0.45], colors=colour, linewidths=1.6)
    centre = (OUTLINE_SIZE - 1) / 2
    turn = np.linspace(0, 2 * np.pi, 100)
    radius = 0.4 * OUTLINE_SIZE
    axes.plot(centre + radius * np.cos(turn), centre + radius * np.sin(turn), ":", color=MUTED)
    axes.set_xlim(-0.5, OUTLINE_SIZE - 0.5)
    axes.set_ylim(-0.5, OUTLINE_SIZE - 0.5)
    axes.set_aspect("equal")
    axes.set_axis_off()
