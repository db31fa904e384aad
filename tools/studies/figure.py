"""The figure of a study: real lesions and what the methods made of them, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from tools.files import new_file
from tools.metrics.shape import surface_mesh
from tools.report.montage import COLOURS, INK, Picture, draw_picture
from tools.studies.cases import Case, PlacedMask
from tools.studies.methods import Drawn

Named = Mapping[str, Any]

MUTED = "#9aa5b1"
SIDE = 1.9  # inches of a picture
ERROR_HU = 200.0
# from above, left of and behind the viewer, who looks from the right front
LIGHT = np.array([0.05, -0.62, 0.78])
VIEW = {"elev": 18, "azim": -55}


def example_cases(cases: Sequence[Case], count: int = 6) -> list[int]:
    """Return which cases to show: of each group and set of classes alike, evenly over the sizes."""
    found: list[int] = []
    kinds = [(case.group, case.present) for case in cases]
    known = sorted(set(kinds), key=kinds.index)
    for kind in known:
        mine = [i for i, other in enumerate(kinds) if other == kind]
        mine.sort(key=lambda i: (cases[i].sphere.radius_mm, int(cases[i].masks.sum())))
        share = min(max(count // len(known), 1), len(mine))
        found += [mine[(2 * k + 1) * len(mine) // (2 * share)] for k in range(share)]
    return found[:count]


def write_figure(path: Path, study: Drawn, results: Mapping[str, Any]) -> None:
    """Write one row per example case and one column per method, and how a measure is distributed.

    The part ``figure`` of the study says what is shown: ``columns`` (methods), ``view``
    (``slices``, ``errors`` or ``surfaces``), ``window`` (intensities that are black and white),
    ``mirror``, ``origin``, ``examples``, and ``spread``, the measure drawn below by case.
    """
    settings = study.config["figure"]
    chosen = example_cases(study.cases, settings.get("examples", 6))
    shown = {name: study.runs[name].first for name in settings["columns"] if name in study.runs}
    draw, extra = VIEWS[settings["view"]]
    columns = ["real", *shown, *extra]
    below = 3.2 if "spread" in settings else 0.0
    size = (SIDE * len(columns) + 0.4, (SIDE + 0.2) * len(chosen) + below + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    heights = [size[1] - below, below] if below else [size[1]]
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    top, *bottom = parts[:, 0].tolist()
    kind = {"projection": "3d"} if settings["view"] == "surfaces" else {}
    grid = top.subplots(len(chosen), len(columns), squeeze=False, subplot_kw=kind)
    for row, i in zip(grid, chosen, strict=True):
        made = {name: images[i] for name, images in shown.items()}
        for axes, name in zip(row, columns, strict=True):
            draw(axes, study.cases[i], made, name, settings)
            if i == chosen[0]:
                axes.set_title(name.replace("_", " "), fontsize=9, color=INK)
        _caption(row[0], study.cases[i])
    for part in bottom:
        _draw_spread(part.subplots(), results["cases"], settings["spread"])
    with new_file(path) as partial:
        figure.savefig(partial, dpi=120, format="png", facecolor="white")


def _caption(axes: Axes, case: Case) -> None:
    size = case.facts.get("diameter_mm")
    words = f"{size:.0f} mm" if size else f"{int(case.masks.sum())} voxels"
    text = f"{case.group}\n{words}" if case.group else words
    # a 3-D frame is drawn without its labels
    if isinstance(axes, Axes3D):
        axes.text2D(
            -0.05, 0.5, text, transform=axes.transAxes, rotation=90, va="center", fontsize=8
        )
    else:
        axes.set_ylabel(text, fontsize=8, color=INK)


def _level(case: Case) -> int:
    """Return the slice with most of the last class that is there; the middle one without any."""
    present = [mask for mask in case.masks if mask.any()]
    return int(present[-1].sum((0, 1)).argmax()) if present else case.image.shape[2] // 2


def _plane(array: np.ndarray, k: int, settings: Mapping[str, Any]) -> np.ndarray:
    """Return a slice as rows and columns; ``mirror``: the patient's right on the left."""
    part = array[::-1, :, k] if settings.get("mirror") else array[:, :, k]
    return part.T


def _draw_slice(axes: Axes, case: Case, made: Named, name: str, settings: Named) -> None:
    """Draw an axial slice, outlines of the classes on the real one."""
    image, k = made.get(name, case.image), _level(case)
    low, high = settings.get("window", case.scale)
    (bottom, top), (least, most) = case.value_range, case.scale
    values = least + (_plane(image, k, settings) - bottom) * ((most - least) / (top - bottom))
    outlines = [_plane(mask, k, settings) for mask in (case.masks if name == "real" else ())]
    origin = settings.get("origin", "lower")
    draw_picture(axes, Picture(values, (low, high), outlines, origin=origin))


def _draw_error(axes: Axes, case: Case, made: Named, name: str, settings: Named) -> None:
    """Draw a slice, or the difference from the real one in the last column."""
    if name != "difference":
        _draw_slice(axes, case, made, name, settings)
        return
    k, span = _level(case), case.scale[1] - case.scale[0]
    error = (next(iter(made.values()))[:, :, k] - case.image[:, :, k]) * span
    draw_picture(axes, Picture(error.T, (-ERROR_HU, ERROR_HU), origin="lower"), "RdBu_r")


def _draw_surface(axes: Axes3D, case: Case, made: Named, name: str, _: Named) -> None:
    """Draw the shaded surface, seen a little from above; the frame is the sphere's."""
    axes.set_axis_off()
    axes.view_init(**VIEW)
    reach = case.sphere.radius_mm + 0.5
    frame = (axes.set_xlim, axes.set_ylim, axes.set_zlim)
    for set_limits, middle in zip(frame, case.sphere.centre_mm, strict=True):
        set_limits(middle - reach, middle + reach)
    axes.set_box_aspect((1, 1, 1), zoom=1.6)
    shape: PlacedMask | None = made.get(name, case.placed)
    if shape is None:
        return
    vertices, triangles = surface_mesh(*shape)
    brightness = 0.35 + 0.65 * np.clip(_normals(vertices, triangles) @ LIGHT, 0, 1)
    colour = COLOURS[[*made].index(name) % len(COLOURS)] if name in made else MUTED
    colours = np.clip(np.array(to_rgb(colour)) * 1.35 * brightness[:, None], 0, 1)
    drawn = {"facecolors": colours, "edgecolors": colours, "linewidths": 0.3}
    axes.add_collection3d(Poly3DCollection(vertices[triangles], **drawn))


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


Draw = Callable[..., None]
# how a case is drawn, and columns beside the methods
VIEWS: dict[str, tuple[Draw, tuple[str, ...]]] = {
    "slices": (_draw_slice, ()),
    "errors": (_draw_error, ("difference",)),
    "surfaces": (_draw_surface, ()),
}


def _numbers(value: Any, keys: Sequence[str]) -> list[float]:
    """Return the numbers in a tree of results; where it has one of the keys, under that alone."""
    if isinstance(value, Mapping):
        value = [value[key] for key in keys if key in value] or list(value.values())
    if isinstance(value, Sequence):
        return [number for part in value for number in _numbers(part, keys)]
    return [] if value is None else [float(value)]


def _draw_spread(axes: Axes, rows: Sequence[Mapping[str, Any]], measure: Mapping[str, Any]) -> None:
    """Draw every case as a dot, median and quartiles as a bar beside them, by method."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for method, value in row.get(measure["measure"], {}).items():
            columns.setdefault(method, []).extend(_numbers(value, measure["keys"]))
    if measure.get("log"):  # several orders of magnitude
        axes.set_yscale("log")
    for place, values in enumerate(columns.values()):
        colour = COLOURS[place % len(COLOURS)]
        shown = np.maximum(values, 1e-4) if measure.get("log") else np.array(values)
        axes.plot([place] * len(shown), shown, "o", color=colour, alpha=0.5, markersize=4)
        if len(shown):
            low, middle, high = np.percentile(shown, [25, 50, 75])
            axes.plot([place + 0.2] * 2, [low, high], color=colour, linewidth=4)
            axes.plot(place + 0.2, middle, "o", color="white", markeredgecolor=INK)
    axes.set_xticks(range(len(columns)), [n.replace("_", " ") for n in columns], fontsize=8)
    axes.set_ylabel(measure["label"], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
