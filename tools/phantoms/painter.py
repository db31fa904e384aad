"""One painter for all phantoms: a table of implicit shapes and their tissues becomes voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import PchipInterpolator
from torch.nn import functional

from tools.phantoms.branching import draw_tubes, tube_chain

__all__ = ["Build", "Painter", "Volume"]

Volume = NDArray[np.float32]
Part = Mapping[str, Any]
FAR: Any = np.float32(99)  # mm inside: what nothing clips


class Build(NamedTuple):
    """What differs from one body of a table to the next."""

    scale: tuple[float, float, float]  # coordinates of the table are mm divided by it
    phases: tuple[float, float]  # radians, of the waves in which the axis of the body sways
    numbers: dict[str, float]  # values of the names that stand for numbers in the table

    @classmethod
    def draw(cls, table: Mapping[str, Any], rng: np.random.Generator) -> Build:
        """Draw a body from the ranges ``scale`` and ``vary`` of a table."""
        x, y, z = (float(rng.uniform(*limits)) for limits in table["scale"])
        a, b = (float(phase) for phase in rng.uniform(0, 2 * np.pi, 2))
        numbers = {name: float(rng.uniform(*limits)) for name, limits in table["vary"].items()}
        return cls((x, y, z), (a, b), numbers)


class Painter:
    """Paints the parts of a table over one another on one grid; edges have partial volume.

    A table holds ``tissues`` {name: [value, spread, mm over which it varies, gradient]}, of which
    the first fills the background, and ``parts`` in the order of painting. A part has a shape:
    ``ellipsoids`` [x, y, z, semi-axes], a ``stack`` of superellipses [z, semi-axes, centre], the
    half-space of a ``plane`` [a, b, c, d], ``ribs`` round a part, a ``union`` of parts, ``tubes``,
    or none. ``mirror`` puts it on both sides. Its surface is moved inwards (``inset_mm``), made
    uneven (``rough`` [mm, over mm]) or hollowed (``shell_mm``), then clipped: ``inside`` and
    ``outside`` of parts [name, mm], ``beyond`` planes, pieces along z (``every_mm`` [period,
    length, offset]). It is painted with ``tissue``, only in ``spots`` [mm, standard deviations]
    where these are given, and kept under ``name`` for later parts.

    Coordinates of the grid along x, y, z are in mm, in equal steps; ``trees`` are further tubes
    ``(m, 8)``, by name. ``image`` holds the values, ``distance`` about the signed distance in mm to
    each named part, positive inside, ``xyz`` coordinates in the table's frame, broadcastable.
    """

    def __init__(
        self,
        table: Mapping[str, Any],
        axes_mm: Iterable[NDArray[np.float64]],
        build: Build,
        rng: np.random.Generator,
        trees: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> None:
        axes = [axis / size for axis, size in zip(axes_mm, build.scale, strict=True)]
        self.tissues, self.numbers, self.rng = table["tissues"], build.numbers, rng
        self.trees = trees or {}
        self.shape = (len(axes[0]), len(axes[1]), len(axes[2]))
        self.origin = np.array([axis[0] for axis in axes])
        self.spacing = np.array([axis[1] - axis[0] for axis in axes])
        # within the slice: thick slices are for the caller to average
        self.edge = np.float32(1.1 * self.spacing[:2].mean())
        x, y, z = np.meshgrid(
            *(axis.astype(np.float32) for axis in axes), indexing="ij", sparse=True
        )
        x = x + table["sway_mm"] * np.sin(z / 38 + build.phases[0])
        y = y + table["sway_mm"] * np.sin(z / 45 + build.phases[1])
        self.xyz: tuple[Volume, Volume, Volume] = (x, y, z)
        self.distance: dict[str, Volume] = {}
        background = next(iter(self.tissues.values()))[0]
        self.image: Volume = np.full(self.shape, background, dtype=np.float32)

    def paint(self, parts: Iterable[Part]) -> None:
        """Paint parts in their order."""
        for part in parts:
            distance = self._distance(part)
            if "name" in part:
                self.distance[part["name"]] = np.broadcast_to(distance, self.shape)
            if "tissue" in part:
                coverage = self.cover(distance)
                if "tubes" in part:
                    coverage = coverage * self._tubes(part)
                for size_mm, limit in [part["spots"]] if "spots" in part else []:
                    coverage = coverage * np.clip(4 * (self.field(size_mm) - limit), 0, 1)
                self.put(coverage, part["tissue"])

    def cover(self, distance: Volume) -> Volume:
        """Turn a signed distance into the share of each voxel inside."""
        return np.clip(distance / self.edge + np.float32(0.5), 0, 1).astype(np.float32)

    def put(self, coverage: Volume, tissue: str) -> None:
        """Paint a tissue over what is there."""
        mean, spread, size_mm, *gradient = self.tissues[tissue]
        value: Any = np.float32(mean)
        for slope, axis in zip(gradient, self.xyz, strict=False):
            value = value + np.float32(slope) * axis
        if spread:
            value = value + np.float32(spread) * self.field(size_mm)
        self.image += coverage * (value - self.image)

    def field(self, size_mm: float) -> Volume:
        """Return a random field of unit spread that varies over ``size_mm``."""
        # drawn coarsely and enlarged: a wide filter on the full grid would take seconds
        step = np.maximum(1, np.floor(size_mm / 2 / self.spacing)).astype(int)
        coarse = [int(np.ceil(n / s)) + 2 for n, s in zip(self.shape, step, strict=True)]
        noise = self.rng.standard_normal(coarse, dtype=np.float32)
        # where sheets lie farther apart than the field varies, they stay independent
        smooth = ndimage.gaussian_filter(
            noise, np.minimum(1.2, size_mm / 2 / (self.spacing * step))
        )
        size = [int(n) for n in np.array(coarse) * step]
        wide = functional.interpolate(torch.from_numpy(smooth)[None, None], size, mode="trilinear")
        cut = wide[0, 0].numpy()[tuple(slice(0, n) for n in self.shape)]
        return (cut - cut.mean()) / max(cut.std(), 1e-6)

    def _distance(self, part: Part) -> Volume:
        """Return the signed distance to a part."""
        found: list[Any] = [shape(self, part) for key, shape in SHAPES.items() if key in part]
        if found:
            inset_mm = self._number(part.get("inset_mm", 0.0))
            found = [distance - np.float32(inset_mm) for distance in found]
        for name, inset_mm in part.get("inside", []):
            found.append(self.distance[name] - np.float32(self._number(inset_mm)))
        for name, gap_mm in part.get("outside", []):
            found.append(-self.distance[name] - np.float32(self._number(gap_mm)))
        if "rough" in part:
            height_mm, size_mm = part["rough"]
            found[0] = found[0] + np.float32(height_mm) * self.field(size_mm)
        if "shell_mm" in part:
            found[0] = np.float32(part["shell_mm"] / 2) - np.abs(found[0])
        for *normal, offset_mm in part.get("beyond", []):
            found.append(_plane(self, {"plane": [*normal, self._number(offset_mm)]}))
        if "every_mm" in part:
            period, length, offset = part["every_mm"]
            within = (self.xyz[2] + offset) % period - period / 2
            found.append(length / 2 - np.abs(within))
        distance: Volume = reduce(np.minimum, found, FAR)
        return distance

    def _number(self, value: float | str) -> float:
        return self.numbers[value] if isinstance(value, str) else value

    def _tubes(self, part: Part) -> Volume:
        """Return the share of each voxel that tubes cover: chains in the table, or a tree."""
        if isinstance(part["tubes"], str):
            tubes = self.trees.get(part["tubes"], np.zeros((0, 8)))
        else:
            chains = [np.array(nodes, dtype=float) for nodes in part["tubes"]]
            if part.get("mirror"):
                chains += [nodes * (-1, 1, 1, 1) for nodes in chains]
            tubes = np.concatenate([tube_chain(nodes) for nodes in chains])
        factor, added_mm = part.get("radius", (1.0, 0.0))
        tubes = np.concatenate([tubes[:, :6], factor * tubes[:, 6:] + added_mm], axis=1)
        coverage: Volume = np.zeros(self.shape, dtype=np.float32)
        draw_tubes(coverage, tubes, self.origin, self.spacing)
        return coverage


def _sides(painter: Painter, part: Part) -> tuple[Volume, Volume, Volume]:
    x, y, z = painter.xyz
    return (np.abs(x) if part.get("mirror") else x), y, z


def _ellipsoids(painter: Painter, part: Part) -> Volume:
    x, y, z = _sides(painter, part)
    found = []
    for cx, cy, cz, a, b, c in part["ellipsoids"]:
        radius = np.sqrt(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 + ((z - cz) / c) ** 2)
        found.append((1 - radius) * np.float32(min(a, b, c)))
    return _joined(found, part.get("blend_mm", 0))


def _plane(painter: Painter, part: Part) -> Volume:
    a, b, c, d = part["plane"]
    x, y, z = painter.xyz
    return np.float32(a) * x + np.float32(b) * y + np.float32(c) * z + np.float32(d)


def _stack(painter: Painter, part: Part) -> Volume:
    """Return the distance along the ray from the centre of the superellipse at each z."""
    x, y, z = _sides(painter, part)
    rows = np.array(part["stack"], dtype=float)
    heights = np.clip(z.ravel(), rows[0, 0], rows[-1, 0])
    curve = PchipInterpolator(rows[:, 0], rows[:, 1:])(heights).astype(np.float32)
    width, depth, cx, cy = (curve[:, column] for column in range(4))
    u, v = x - cx, y - cy
    if "turn_deg" in part:
        turn = np.float32(np.deg2rad(part["turn_deg"]))
        u, v = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    power = np.float32(part.get("power", 2))
    radius = (np.abs(u / width) ** power + np.abs(v / depth) ** power) ** (1 / power)
    length = np.hypot(u, v)
    # at the centre itself the ray has no direction: any small radius gives the half-width there
    side = length / np.maximum(radius, 1e-3) - length
    ends = np.minimum(z - np.float32(rows[0, 0]), np.float32(rows[-1, 0]) - z)
    return np.minimum(side, ends)


def _ribs(painter: Painter, part: Part) -> Volume:
    """Return the distance to bars round a part, each lower at the front than at the back."""
    x, y, z = painter.xyz
    rib = part["ribs"]
    angle = np.arctan2(np.abs(x - rib["centre"][0]), rib["centre"][1] - y)
    slope = np.clip(40 + 0.25 * (100 - z), 32, 78)
    height = z + slope * (0.5 - 0.5 * np.cos(angle))
    number = np.clip(np.round((rib["first"] - height) / rib["step"]), 0, rib["count"] - 1)
    height = height - (rib["first"] - number * rib["step"])
    away = painter.distance[rib["round"]] + rib["away_mm"]
    distance = 4.2 * (1 - np.sqrt((height / 6.3) ** 2 + (away / 3.8) ** 2))
    end = 3.2 - rib["shorter"] * np.maximum(number - 6, 0)
    return np.minimum(distance, 40 * (end - angle)).astype(np.float32)


def _union(painter: Painter, part: Part) -> Volume:
    found = [painter.distance[name] + np.float32(mm) for name, mm in part["union"]]
    return _joined(found, part.get("blend_mm", 0))


def _joined(distances: list[Volume], blend_mm: float) -> Volume:
    """Return the union of signed distances, with rounded seams where asked."""
    joined = distances[0]
    for other in distances[1:]:
        # polynomial smooth maximum: exact where the parts differ by more than the blend
        near = np.maximum(blend_mm - np.abs(joined - other), 0) if blend_mm else np.float32(0)
        joined = np.maximum(joined, other) + near * near * np.float32(1 / max(4 * blend_mm, 1))
    return joined


SHAPES: dict[str, Callable[[Painter, Part], Volume]] = {
    "ellipsoids": _ellipsoids,
    "plane": _plane,
    "stack": _stack,
    "ribs": _ribs,
    "union": _union,
}
