"""Tissues of the chest phantom painted over one another on one grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tools.phantoms.branching import draw_tubes
from tools.phantoms.chest_anatomy import (
    Build,
    Frame,
    Volume,
    central_tubes,
    ellipsoid,
    heart_distance,
    lung_distance,
)
from tools.phantoms.chest_bones import (
    bone_distances,
    cartilage_distance,
    clavicles,
    muscle_distance,
)

__all__ = ["HU", "ChestPainter"]

# Unenhanced CT numbers.
HU = {
    "air": -1000.0,
    "lung": -858.0,
    "fat": -102.0,
    "muscle": 52.0,
    "skin": 15.0,
    "blood": 42.0,
    "heart": 45.0,
    "liver": 60.0,
    "spleen": 50.0,
    "stomach": 22.0,
    "disc": 85.0,
    "canal": 22.0,
    "cartilage": 95.0,
    "spongy_bone": 190.0,
    "hard_bone": 780.0,
}


class ChestPainter:
    """Paints tissues over one another on one grid; edges carry the share of the voxel covered."""

    def __init__(self, axes: tuple[NDArray[np.float64], ...], build: Build) -> None:
        self.frame = Frame(axes, build)
        self.shape = tuple(len(axis) for axis in axes)
        self.scale = np.array(build.scale)
        self.origin = np.array([axis[0] for axis in axes]) / self.scale
        self.spacing = np.array([axis[1] - axis[0] for axis in axes]) / self.scale
        self.edge = np.float32(1.1 * self.spacing.mean())
        self.image: Volume = np.full(self.shape, HU["air"], dtype=np.float32)

    def cover(self, distance: Volume) -> Volume:
        """Turn a signed distance into the share of each voxel inside."""
        return np.clip(distance / self.edge + np.float32(0.5), 0, 1).astype(np.float32)

    def tubes(self, *groups: NDArray[np.float64]) -> Volume:
        """Draw tubes and return the share of each voxel inside."""
        coverage: Volume = np.zeros(self.shape, dtype=np.float32)
        for group in groups:
            draw_tubes(coverage, group, self.origin, self.spacing)
        return coverage

    def put(self, coverage: Volume, value: float | Volume) -> None:
        """Paint a tissue of ``value`` HU over what is there."""
        self.image += coverage * (np.float32(value) - self.image)

    def smooth_field(self, rng: np.random.Generator, scale_mm: float) -> Volume:
        """Return a random field of unit spread that varies over ``scale_mm``."""
        # Drawn coarsely and enlarged: a wide filter on the full grid would take seconds.
        step = np.maximum(1, np.floor(scale_mm / 2 / self.spacing)).astype(int)
        coarse = [int(np.ceil(n / s)) + 2 for n, s in zip(self.shape, step, strict=True)]
        field = ndimage.gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), 1.2)
        zoomed = ndimage.zoom(field / field.std(), step, order=1)
        return zoomed[tuple(slice(0, n) for n in self.shape)]

    def paint(
        self, trees: dict[str, NDArray[np.float64]], rng: np.random.Generator
    ) -> tuple[Volume, Volume, Volume]:
        """Paint the body; return the image in HU and the coverage of lungs and their vessels."""
        self._table()
        heart = heart_distance(self.frame)
        self._soft_tissue(rng)
        self._abdomen(rng)
        lung = self.cover(lung_distance(self.frame, heart))
        self._mediastinum(heart)
        self._lungs(lung, rng)
        vessel = self._trees(trees, lung, self.cover(heart + 3))
        self._bones(rng)
        return self.image, lung, vessel

    def _table(self) -> None:
        """Paint the couch: two thin curved shells with foam between."""
        depth = self.frame.y - np.float32(0.0009) * self.frame.x**2 + 140
        body = self.frame.outline
        couch = np.minimum(-depth, np.minimum(depth + 14, 165 - np.abs(self.frame.x)))
        couch = np.minimum(couch, -body - 1) + 0 * self.frame.z
        self.put(self.cover(couch), -880.0)
        self.put(self.cover(np.minimum(couch, np.float32(1.6) - couch)), -150.0)

    def _soft_tissue(self, rng: np.random.Generator) -> None:
        """Paint skin, fat and muscle."""
        frame = self.frame
        self.put(self.cover(frame.outline), HU["skin"])
        self.put(self.cover(frame.outline - 2), HU["fat"])
        streaks = self.smooth_field(rng, 9.0)
        muscle = muscle_distance(frame) + np.float32(0.8) * streaks
        self.put(self.cover(np.minimum(muscle, frame.outline - 5)), HU["muscle"])
        self.image += np.where(self.image > -300, 5 * streaks, 0)
        self.put(self.cover(frame.cavity), HU["fat"])

    def _abdomen(self, rng: np.random.Generator) -> None:
        """Paint what lies under the diaphragm."""
        frame = self.frame
        below = np.minimum(-frame.diaphragm, frame.cavity - 1)
        self.put(self.cover(below), HU["muscle"])
        inner = np.minimum(below - 3, frame.cavity - 4)
        self.put(self.cover(inner), HU["fat"])
        liver_edge = 70 + frame.x - np.float32(0.25) * (frame.z + 60) * (frame.x < 0)
        liver = np.minimum(inner - 1, np.minimum(liver_edge * 0.7, frame.y + 78))
        self.put(self.cover(liver + self.smooth_field(rng, 25.0)), HU["liver"])
        spleen = ellipsoid(frame, (-92, -48, -118), (34, 42, 40))
        self.put(self.cover(np.minimum(spleen, inner - 1)), HU["spleen"])
        stomach = ellipsoid(frame, (-70, 22, -118), (46, 44, 40))
        stomach = np.minimum(stomach, np.minimum(inner - 2, -liver - 2))
        self.put(self.cover(stomach), HU["muscle"])
        lumen = stomach - np.float32(4)
        self.put(self.cover(lumen), HU["stomach"])
        # The gas lies in front, under a level surface.
        self.put(self.cover(np.minimum(lumen, frame.y - 34)), HU["air"])

    def _mediastinum(self, heart: Volume) -> None:
        """Paint heart, great vessels and oesophagus into the mediastinal fat."""
        within = self.cover(np.maximum(self.frame.diaphragm, heart))
        # The sac shows as a line only where fat lies on both sides of it, below the great vessels.
        sac = np.minimum(np.minimum(heart + 4, -heart - 2.5), -12 - self.frame.z)
        self.put(self.cover(sac) * within, HU["muscle"])
        self.put(self.cover(heart) * within, HU["heart"])
        tubes = central_tubes()
        self.put(self.tubes(tubes["blood"]), HU["blood"])
        self.put(self.tubes(tubes["oesophagus"]), HU["muscle"] - 10)

    def _lungs(self, lung: Volume, rng: np.random.Generator) -> None:
        """Paint parenchyma: denser at the back, patchy, with fissures."""
        frame = self.frame
        value = HU["lung"] - np.float32(0.24) * frame.y + np.float32(0.06) * frame.z
        value = value + 9 * self.smooth_field(rng, 30.0) + 11 * self.smooth_field(rng, 6.0)
        bend = 5 * np.sin(frame.x / 24 + frame.build.phase[0])
        oblique = (frame.z + np.float32(1.05) * frame.y + 8 + bend) / np.float32(1.45)
        minor = np.where((frame.x > 0) & (oblique > 0), frame.z - 4 - bend - 0.1 * frame.y, 99)
        width = np.maximum(np.float32(0.5), self.edge / 2)
        for distance in (oblique, minor):
            value = value + 240 * (np.float32(0.5) / width) * np.exp(-((distance / width) ** 2))
        self.put(lung, value)

    def _trees(self, trees: dict[str, NDArray[np.float64]], lung: Volume, heart: Volume) -> Volume:
        """Paint vessels, airway walls and air; return the coverage of vessels and walls."""
        vessel = self.tubes(trees["artery"], trees["vein"])
        self.put(vessel, HU["blood"])
        central = central_tubes()["air"]
        wall = trees["airway"].copy()
        wall[:, 6:] += 0.35 + 0.12 * wall[:, 6:]
        thick = central.copy()
        thick[:, 6:] += 1.6
        # Straight branches may cut through the heart; its wall stays closed.
        walls = self.tubes(wall, thick) * (1 - heart)
        self.put(walls * (1 - lung * np.float32(0.25)), -10.0)
        self.put(self.tubes(trees["airway"], central) * (1 - heart), HU["air"] + 20)
        return np.maximum(vessel, walls)

    def _bones(self, rng: np.random.Generator) -> None:
        """Paint bones with a hard shell and a spongy core, discs, canal and cartilage."""
        bone, disc, canal = bone_distances(self.frame)
        self.put(self.cover(disc), HU["disc"])
        self.put(self.cover(canal), HU["canal"])
        self.put(self.cover(cartilage_distance(self.frame)), HU["cartilage"])
        self.put(self.cover(bone), HU["hard_bone"])
        spongy = HU["spongy_bone"] + 45 * self.smooth_field(rng, 2.5)
        self.put(self.cover(bone - np.float32(1.5)), spongy)
        collar = clavicles()
        self.put(self.tubes(collar), HU["hard_bone"])
        collar[:, 6:] -= 1.8
        self.put(self.tubes(collar), HU["spongy_bone"])
