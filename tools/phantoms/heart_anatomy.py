"""Geometry of the heart phantom: ventricles, infarct and thorax as distances in mm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["TERRITORIES", "HeartBuild", "HeartFrame", "Infarct", "ellipse"]

Volume = NDArray[np.float32]

# Middle (angle in the slice, 0 towards the patient's left, 90 towards the back; place between apex
# 0 and base 1) of the wall that each coronary artery feeds, and how far it may wander.
TERRITORIES: dict[str, tuple[float, float, float]] = {
    "left_anterior_descending": (-125.0, 0.40, 22.0),
    "right_coronary": (105.0, 0.62, 18.0),
    "left_circumflex": (25.0, 0.60, 22.0),
}


@dataclass(frozen=True)
class HeartBuild:
    """What differs between hearts.

    Attributes:
        radius_mm: outer radius of the left ventricle at its base.
        length_mm: from the tip of the left ventricle to its base.
        wall_mm: thickness of its wall at the base.
        apex_wall_mm: thickness at the tip.
        oval: relative difference of the axes in a slice.
        phases: angles in radians at which shapes bulge.
        right_size: extent of the right ventricle in radii of the left.
        fat_mm: thickness of the fat under the skin.
        chest_mm: from the axis of the heart to the front of the chest.
        drift_mm: how far the axis moves in the slices between apex and base.
    """

    radius_mm: float
    length_mm: float
    wall_mm: float
    apex_wall_mm: float
    oval: float
    phases: tuple[float, ...]
    right_size: float
    fat_mm: float
    chest_mm: float
    drift_mm: tuple[float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator, stack_mm: float) -> HeartBuild:
        """Draw a heart whose left ventricle fills a stack of slices.

        Args:
            rng: source of randomness.
            stack_mm: thickness of the stack.
        """
        wall = rng.uniform(9.0, 12.0)
        return cls(
            radius_mm=rng.uniform(31.0, 38.0),
            length_mm=stack_mm * rng.uniform(1.05, 1.14),
            wall_mm=wall,
            apex_wall_mm=wall * rng.uniform(0.55, 0.7),
            oval=rng.uniform(0.0, 0.06),
            phases=tuple(rng.uniform(0, 2 * np.pi, 8)),
            right_size=rng.uniform(0.92, 1.12),
            fat_mm=rng.uniform(9.0, 24.0),
            chest_mm=rng.uniform(80.0, 94.0),
            drift_mm=(rng.uniform(-6.0, 10.0), rng.uniform(-8.0, 4.0)),
        )


@dataclass(frozen=True)
class Infarct:
    """Where an infarct lies in the wall of the left ventricle.

    Attributes:
        angle_deg: its middle in the slice; 0 is towards the patient's left, 90 towards the back.
        extent_deg: its whole angle.
        place: its middle between apex (0) and base (1).
        length: its extent in that direction, whole.
        transmurality: share of the wall it takes at its middle, from the cavity outwards.
        no_reflow: share of angle, length and depth that the core without flow takes; 0 for none.
        territory: artery that was closed.
    """

    angle_deg: float
    extent_deg: float
    place: float
    length: float
    transmurality: float
    no_reflow: float
    territory: str

    @classmethod
    def draw(cls, rng: np.random.Generator, no_reflow: bool, territory: str | None) -> Infarct:
        """Draw an infarct of a territory, or of one drawn as well."""
        names = list(TERRITORIES)
        # the anterior wall is struck most often
        name = territory or names[int(rng.choice(3, p=[0.5, 0.32, 0.18]))]
        angle, place, wander = TERRITORIES[name]
        # obstruction of the small vessels comes with deep infarcts
        depth = rng.uniform(0.75, 1.2) if no_reflow else rng.uniform(0.45, 1.1)
        return cls(
            angle_deg=float(angle + rng.uniform(-wander, wander)),
            extent_deg=float(rng.uniform(95, 190)),
            place=float(place + rng.uniform(-0.08, 0.08)),
            length=float(rng.uniform(0.75, 1.25)),
            transmurality=float(depth),
            no_reflow=float(rng.uniform(0.4, 0.7)) if no_reflow else 0.0,
            territory=name,
        )


def ellipse(
    x: Volume, y: Volume, centre: tuple, semi_axes: tuple, angle_deg: float = 0.0
) -> Volume:
    """Return the distance in mm to an ellipse, about, positive inside.

    Args:
        x: mm, any shape that broadcasts with ``y``.
        y: mm.
        centre: mm; each a number or an array that broadcasts.
        semi_axes: mm; likewise.
        angle_deg: from x towards y.
    """
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    u = (x - centre[0]) * c + (y - centre[1]) * s
    v = (y - centre[1]) * c - (x - centre[0]) * s
    a, b = (np.maximum(axis, 1e-3) for axis in semi_axes)
    radius = np.sqrt((u / a) ** 2 + (v / b) ** 2) + 1e-6
    gradient = np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2) / radius
    return ((1 - radius) / np.maximum(gradient, 1e-3)).astype(np.float32)


class HeartFrame:
    """Distances (mm, positive inside) of one heart on one grid.

    Args:
        axes: mm along x (to the patient's left), y (to the back), z (from the tip of the left
            ventricle to its base).
        build: what differs between hearts.
    """

    def __init__(self, axes: tuple[NDArray[np.float64], ...], build: HeartBuild) -> None:
        grid = np.meshgrid(*(axis.astype(np.float32) for axis in axes), indexing="ij", sparse=True)
        self.x, self.y, self.z = grid
        self.build = build
        self.place = self.z / np.float32(build.length_mm)
        away = np.clip(1 - self.place, 0, 1)
        # an ellipsoid, blunter than a half sphere; nothing beyond the tip
        profile = np.where(self.place > 0, np.sqrt(1 - away**2.3), 0)
        self.profile = (profile * (1 - 0.06 * np.clip(self.place - 0.8, 0, 1))).astype(np.float32)
        u = self.x - np.float32(build.drift_mm[0]) * (self.place - np.float32(0.5))
        v = self.y - np.float32(build.drift_mm[1]) * (self.place - np.float32(0.5))
        self.u, self.v = u, v
        self.radius = np.hypot(u, v)
        self.angle = np.arctan2(v, u)
        self._left_ventricle()

    def _left_ventricle(self) -> None:
        build, phases = self.build, self.build.phases
        oval = 1 + build.oval * np.cos(2 * (self.angle - phases[0]))
        oval = oval + np.float32(0.015) * np.cos(3 * self.angle + phases[1])
        outer = build.radius_mm * self.profile * oval
        thickness = build.apex_wall_mm + (build.wall_mm - build.apex_wall_mm) * np.clip(
            self.place * 1.6, 0, 1
        )
        uneven = 1 + 0.09 * np.cos(self.angle - phases[2]) + 0.04 * np.cos(4 * self.angle)
        self.thickness = (thickness * uneven).astype(np.float32)
        self.epicardium: Volume = (outer - self.radius).astype(np.float32)
        self.endocardium: Volume = (outer - self.thickness - self.radius).astype(np.float32)
        self.depth: Volume = (-self.endocardium / self.thickness).astype(np.float32)

    def right_ventricle(self) -> Volume:
        """Return the outline of the right ventricle, wall included; the left lies over it."""
        size = self.build.radius_mm * self.build.right_size
        reach = np.sqrt(np.clip((self.place - 0.12) / 0.55, 0.02, 1)).astype(np.float32)
        centre = (-0.80 * self.build.radius_mm * (0.6 + 0.4 * reach), 0.12 * self.build.radius_mm)
        semi_axes = (1.10 * size * reach, 1.04 * size * (0.3 + 0.7 * reach))
        whole = ellipse(self.u, self.v, centre, semi_axes, -32)
        return np.where(self.place > 0.14, whole, np.float32(-99))

    def papillary_muscles(self) -> Volume:
        """Return the two muscles that stand free in the left ventricle."""
        phases = self.build.phases
        inner = self.radius + self.endocardium  # radius of the cavity
        result: Volume = np.full(self.radius.shape, -99, dtype=np.float32)
        for turn, size, phase in ((-38, 4.6, phases[3]), (118, 4.2, phases[4])):
            angle = np.deg2rad(turn) + 0.25 * np.sin(phase)
            # free at the base, joined with the wall towards the apex
            away = inner * (0.62 + 0.30 * np.clip(1 - self.place * 1.5, 0, 1))
            centre = (away * np.cos(angle), away * np.sin(angle))
            high = np.clip((0.72 + 0.06 * np.cos(phase) - self.place) * 6, 0, 1)
            muscle = ellipse(self.u, self.v, centre, (size * high, 0.8 * size * high), turn)
            result = np.maximum(result, muscle)
        return result

    def infarct(self, infarct: Infarct, edge: Volume) -> tuple[Volume, Volume]:
        """Return infarct and its core without flow, both distances from the wave front, in mm.

        Necrosis runs from the inner layer outwards as a wave, least deep at the borders of the
        territory.

        Args:
            infarct: where it lies.
            edge: random field of unit spread that makes the front uneven.
        """
        turn = np.angle(np.exp(1j * (self.angle - np.deg2rad(infarct.angle_deg))))
        # the territory narrows towards the base and opens round the apex
        half = np.deg2rad(infarct.extent_deg / 2) * (1.15 - 0.3 * self.place)
        across = np.abs(turn + 0.12 * edge) / half
        along = np.abs(self.place - infarct.place + 0.03 * edge) / (infarct.length / 2)
        off = np.sqrt(across**2 + along**2)
        reach = np.where(off < 1, 1 - np.clip(off, 0, 1) ** 3.5, -0.3)
        front = infarct.transmurality * reach * (1 + 0.08 * edge)
        dead = (front - self.depth) * self.thickness
        if not infarct.no_reflow:
            return dead.astype(np.float32), np.full(dead.shape, -99, dtype=np.float32)
        inner = np.where(off < infarct.no_reflow, 1 - (off / infarct.no_reflow) ** 3, -0.3)
        depth = 0.16 + 0.7 * infarct.no_reflow * infarct.transmurality * inner
        core = np.minimum(depth - self.depth - 0.06 * edge, self.depth - 0.10) * self.thickness
        return dead.astype(np.float32), np.minimum(core, dead - 1).astype(np.float32)
