"""Anatomy of the chest phantom: signed distances in millimetres, positive inside.

Everything is written in one body frame (x to the right, y to the front, z to the head; the origin
lies between the hila), so any grid shows the same body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from tools.phantoms.branching import tube_chain

__all__ = ["Build", "Frame", "central_tubes", "lung_distance"]

Volume = NDArray[np.floating[Any]]

# Height z: half-width, half-depth and centre y of the thoracic cavity and of the body outline.
_CAVITY = np.array(
    [
        (132, 18, 13, -36),
        (126, 38, 28, -34),
        (114, 62, 45, -30),
        (95, 84, 60, -25),
        (70, 104, 76, -16),
        (40, 118, 88, -8),
        (0, 128, 96, -2),
        (-50, 135, 101, 1),
        (-100, 137, 102, 2),
        (-160, 134, 100, 2),
    ]
)[::-1]
_OUTLINE = np.array(
    [
        (160, 118, 72, -40),
        (140, 150, 84, -34),
        (115, 174, 98, -24),
        (80, 180, 111, -12),
        (40, 174, 119, -5),
        (0, 168, 124, -1),
        (-60, 163, 125, 2),
        (-160, 160, 124, 3),
    ]
)[::-1]


@dataclass(frozen=True)
class Build:
    """What differs from one phantom body to the next.

    Attributes:
        scale: size along x, y, z relative to the standard body, about 1.
        fat_mm: fat under the skin beyond the standard body.
        heart: relative size of the heart.
        inspiration_mm: how much lower the diaphragm stands.
        phase: phases in radians of the waves that bend the outlines.
    """

    scale: tuple[float, float, float]
    fat_mm: float
    heart: float
    inspiration_mm: float
    phase: tuple[float, float, float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Build:
        """Draw a body at random."""
        scale = np.clip(rng.normal((0.98, 0.98, 1.0), (0.03, 0.03, 0.03)), 0.9, 1.05)
        phase = rng.uniform(0, 2 * np.pi, 4)
        return cls(
            (float(scale[0]), float(scale[1]), float(scale[2])),
            float(rng.uniform(-6, 8)),
            float(rng.uniform(0.92, 1.08)),
            float(rng.uniform(-8, 8)),
            (float(phase[0]), float(phase[1]), float(phase[2]), float(phase[3])),
        )


def superellipse(
    x: Volume,
    y: Volume,
    width: Volume | np.floating[Any],
    depth: Volume | np.floating[Any],
    power: float,
) -> Volume:
    """Return the distance in mm to a superellipse along the ray from its centre."""
    radius = (np.abs(x / width) ** power + np.abs(y / depth) ** power) ** np.float32(1 / power)
    length = np.hypot(x, y)
    # At the centre itself the ray has no direction: any small radius gives the half-width there.
    return length / np.maximum(radius, 1e-3) - length


def ellipsoid(
    frame: Frame, centre: tuple[float, float, float], semi_axes: tuple[float, float, float]
) -> Volume:
    """Return the approximate distance in mm to an axis-aligned ellipsoid, positive inside."""
    scaled = [
        (coordinate - np.float32(c)) / np.float32(a)
        for coordinate, c, a in zip((frame.x, frame.y, frame.z), centre, semi_axes, strict=True)
    ]
    return (1 - np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)) * np.float32(
        min(semi_axes)
    )


def smooth_union(parts: list[Volume], blend_mm: float) -> Volume:
    """Return the union of signed distances with rounded seams."""
    joined = parts[0]
    for part in parts[1:]:
        # Polynomial smooth maximum: exact where the parts differ by more than the blend.
        overlap = np.maximum(blend_mm - np.abs(joined - part), 0) / np.float32(blend_mm)
        joined = np.maximum(joined, part) + overlap * overlap * np.float32(blend_mm / 4)
    return joined


class Frame:
    """Coordinates of a grid in the body frame, with the distances that several organs share.

    Args:
        axes_mm: three coordinate vectors of the grid in mm.
        build: the body.

    Attributes:
        x, y, z: body coordinates, broadcastable to the grid.
        cavity: distance to the inner chest wall, positive inside.
        angle: angle round the cavity, 0 at the spine and pi at the sternum.
        outline: distance to the skin.
        diaphragm: height above the diaphragm.
    """

    def __init__(self, axes_mm: tuple[NDArray[np.float64], ...], build: Build) -> None:
        """Evaluate the shared distances on the grid."""
        grid = np.meshgrid(*axes_mm, indexing="ij", sparse=True)
        scaled = zip(grid, build.scale, strict=True)
        x, y, z = (axis.astype(np.float32) / np.float32(size) for axis, size in scaled)
        a, b, c, d = build.phase
        self.build = build
        self.z: Volume = z
        self.x: Volume = x + 2 * np.sin(z / 38 + a) + np.float32(1.2) * np.sin(y / 27 + b)
        self.y: Volume = y + np.float32(1.5) * np.sin(z / 45 + c) + 2 * np.sin(x / 41 + d)
        width, depth, centre = (_profile(_CAVITY, z, column) for column in (1, 2, 3))
        self.cavity: Volume = superellipse(self.x, self.y - centre, width, depth, 2.25)
        self.angle: Volume = np.arctan2(np.abs(self.x), centre - self.y)
        width, depth, centre = (_profile(_OUTLINE, z, column) for column in (1, 2, 3))
        fat = np.float32(build.fat_mm)
        self.outline: Volume = superellipse(self.x, self.y - centre, width + fat, depth + fat, 2.5)
        self.diaphragm: Volume = z - self._diaphragm_height()

    def _diaphragm_height(self) -> Volume:
        """Return the height of the two domes: highest inside, low at the ribs and at the back."""
        x, y = self.x, self.y
        right = -52 - 66 * (((x - 58) / 92) ** 2 + ((y - 14) / 104) ** 2) ** np.float32(1.25)
        left = -62 - 66 * (((x + 62) / 88) ** 2 + ((y - 16) / 100) ** 2) ** np.float32(1.25)
        domes: Volume = np.maximum(np.maximum(right, left), -150)
        return domes - np.float32(self.build.inspiration_mm)


def _profile(table: NDArray[np.int_], z: Volume, column: int) -> Volume:
    inside = np.clip(z, table[0, 0], table[-1, 0])
    values: Volume = PchipInterpolator(table[:, 0], table[:, column])(inside).astype(np.float32)
    return values


def heart_distance(frame: Frame) -> Volume:
    """Return the distance to the heart: ventricles to the front left, atria behind to the right."""
    size = frame.build.heart
    parts = [
        ((-36, 26, -48), (44, 34, 32)),
        ((-12, 36, -40), (40, 31, 37)),
        ((18, 14, -26), (30, 29, 37)),
        ((-8, -8, -12), (33, 22, 26)),
    ]
    ellipsoids = [
        ellipsoid(frame, centre, (size * axes[0], size * axes[1], size * axes[2]))
        for centre, axes in parts
    ]
    return smooth_union(ellipsoids, 14.0)


def mediastinum_distance(frame: Frame, heart: Volume) -> Volume:
    """Return the distance to what lies between the lungs: heart sac, great vessels, spine, fat."""
    x, y, z = frame.x, frame.y, frame.z
    # Narrow behind the sternum, where the lungs nearly meet; wide in the middle and at the inlet.
    upper = np.clip((z - 20) / 70, 0, 1)
    middle = 22 + 8 * upper - 14 * np.clip((y - 25) / 45, 0, 1) * (1 - np.clip((z - 70) / 40, 0, 1))
    inlet = np.clip((z - 85) / 45, 0, 1) ** 2
    middle = middle + 24 * inlet - 9 * upper * (np.abs(y + 14) / 45) ** 2
    middle = np.maximum(middle, 7)
    strip = middle - np.abs(x) + np.float32(2.5) * np.sin(z / 14 + y / 19 + frame.build.phase[2])
    spine = superellipse(x, y + 82, np.float32(25.0), np.float32(40.0), 2.4)
    aorta = 17 - np.hypot(x + 23, y + 44) - np.maximum(z - 50, 0)
    arch = ellipsoid(frame, (-4, -6, 54), (34, 40, 24))
    root = ellipsoid(frame, (0, -8, 16), (42, 26, 30))
    return smooth_union([strip, heart + 5, spine, aorta, arch, root], 10.0)


def lung_distance(frame: Frame, heart: Volume) -> Volume:
    """Return the distance to the lungs.

    They lie inside the chest wall, beside the mediastinum, above the diaphragm and below the apex.
    """
    side = np.minimum(frame.cavity, -mediastinum_distance(frame, heart))
    # The base is steep near the ribs: half the height is closer to the distance there.
    lung = np.minimum(side, np.float32(0.7) * frame.diaphragm)
    return np.minimum(lung, np.float32(0.8) * (129 - frame.z))


# Nodes x, y, z, radius in mm of the large tubes in the mediastinum.
_Nodes = list[tuple[float, float, float, float]]
_AORTA: _Nodes = [
    (-6, 22, -2, 15),
    (10, 22, 22, 16),
    (14, 16, 44, 15),
    (2, -2, 61, 14),
    (-16, -26, 58, 13),
    (-24, -42, 38, 12.5),
    (-24, -46, -10, 12),
    (-20, -46, -80, 11.5),
    (-10, -42, -160, 11),
]
_BLOOD: list[_Nodes] = [
    _AORTA,
    [(24, 18, 96, 8), (27, 12, 50, 9.5), (26, 8, 0, 10)],
    [(14, -2, -40, 12), (24, -6, -75, 12.5), (22, -12, -160, 12)],
    [(-18, 34, -4, 14), (-24, 18, 16, 14), (-18, 2, 27, 12)],
    [(-16, 2, 26, 11), (12, -8, 22, 10.5), (40, -14, 12, 8)],
    [(-18, 2, 27, 11), (-34, -14, 24, 10), (-44, -20, 12, 8)],
    [(8, 6, 58, 6), (14, 2, 80, 6), (20, -4, 110, 5), (34, -14, 150, 4)],
    [(-4, -4, 62, 4.5), (-10, -6, 90, 4), (-16, -18, 160, 4)],
    [(-14, -16, 60, 5), (-20, -18, 90, 5), (-36, -20, 118, 4.5), (-80, -10, 134, 4)],
    [(24, 18, 96, 8), (34, 14, 116, 7), (70, 8, 130, 6)],
    [(24, 20, 84, 7), (0, 26, 90, 6.5), (-26, 18, 104, 6.5), (-60, 8, 126, 6)],
]
_OESOPHAGUS: _Nodes = [(-2, -34, 160, 6), (-4, -38, 60, 6.5), (-6, -40, 0, 7), (-10, -34, -70, 7.5)]
_AIR: list[_Nodes] = [
    [(0, -12, 160, 9), (1, -16, 90, 8.5), (2, -22, 40, 8.5)],
    [(2, -22, 41, 8), (18, -22, 24, 7), (41, -18, 12, 5.5)],
    [(2, -22, 41, 7.5), (-18, -22, 22, 6.2), (-44, -22, 7, 5)],
]


def central_tubes() -> dict[str, NDArray[np.float64]]:
    """Return the great vessels, the oesophagus and the trachea with the main bronchi.

    Returns:
        Tubes ``(m, 8)`` in body coordinates under "blood", "oesophagus" and "air".
    """
    return {
        "blood": np.concatenate([tube_chain(nodes) for nodes in _BLOOD]),
        "oesophagus": tube_chain(_OESOPHAGUS),
        "air": np.concatenate([tube_chain(nodes) for nodes in _AIR]),
    }
