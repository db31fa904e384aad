"""A computed chest CT: the embedded scan on which everything runs without a download."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tools.phantoms.branching import draw_tubes, grow_tree
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
from tools.phantoms.ct_noise import ct_noise

__all__ = ["ChestPhantom", "chest_ct"]

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
_LEAVES = {"artery": 4600, "vein": 4000}
_ROOTS_MM = {
    "artery": ((41.0, -15.0, 11.0), (-45.0, -21.0, 11.0)),
    "vein": ((30.0, -8.0, -10.0), (-36.0, -12.0, -8.0)),
}


class ChestPhantom(NamedTuple):
    """A chest CT with everything known about it.

    Attributes:
        image: HU, int16 ``(I, J, K)``, axes to the right, to the front and to the head (RAS).
        lung_mask: 1 in the lungs, vessels and nodules inside them included.
        vessel_mask: 1 in vessels and airway walls of the lungs.
        lesion_mask: 1 in nodules; all 0 in a healthy phantom.
        affine: ``(4, 4)``, voxel indices to mm.
    """

    image: NDArray[np.int16]
    lung_mask: NDArray[np.uint8]
    vessel_mask: NDArray[np.uint8]
    lesion_mask: NDArray[np.uint8]
    affine: NDArray[np.float64]


def chest_ct(
    shape: tuple[int, int, int] = (192, 160, 144),
    spacing_mm: float | tuple[float, float, float] = 2.0,
    seed: int = 0,
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    noise_hu: float = 25.0,
) -> ChestPhantom:
    """Compute a healthy, unenhanced chest CT of an adult on its back.

    The anatomy is defined in mm in a body-fixed frame, so grids of any spacing, shape and centre
    show the same body (the noise differs from grid to grid). Lungs with branching arteries, veins
    and airways, fissures, heart, great vessels, bones, muscles, fat, upper abdomen and table; blurred
    by a point-spread function and given noise with a reconstruction's spectrum.

    Args:
        shape: voxels per axis; the default holds the whole chest (384 x 320 x 288 mm).
        spacing_mm: voxel size, one number or one per axis.
        seed: of body, trees and noise.
        centre_mm: position of the grid's centre in the body; (0, 0, 0) lies between the hila.
        noise_hu: standard deviation of the noise in soft tissue; a fifth more in the lungs.

    Raises:
        ValueError: if ``shape`` has an axis below 8 voxels, or the spacing is not positive.

    Example:
        >>> phantom = chest_ct((24, 20, 18), spacing_mm=16.0)
        >>> phantom.image.shape, bool(phantom.lesion_mask.any())
        ((24, 20, 18), False)
    """
    spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=float), 3)
    if len(shape) != 3 or min(shape) < 8:
        raise ValueError(f"shape must be three axes of at least 8 voxels, got {tuple(shape)}")
    if (spacing <= 0).any():
        raise ValueError(f"spacing_mm must be > 0, got {spacing_mm}")
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.asarray(centre_mm) - spacing * (np.array(shape) - 1) / 2
    axes = tuple(affine[a, 3] + spacing[a] * np.arange(shape[a]) for a in range(3))
    rng = np.random.default_rng([seed, 4])
    body, trees = _body(seed)
    image, lung, vessel = _Painter(axes, body).paint(trees, rng)
    steps = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    image = _acquire(image, lung, steps, noise_hu, rng)
    vessel_mask = ((vessel > 0.35) & (lung > 0.5)).astype(np.uint8)
    lung_mask = (lung > 0.5).astype(np.uint8)
    return ChestPhantom(image, lung_mask, vessel_mask, np.zeros(shape, np.uint8), affine)


def _acquire(
    image: Volume,
    lung: Volume,
    spacing_mm: tuple[float, float, float],
    noise_hu: float,
    rng: np.random.Generator,
) -> NDArray[np.int16]:
    """Blur and add noise as a scanner does; values below air are cut off at -1024 HU."""
    blurred = ndimage.gaussian_filter(image, 0.55 / np.array(spacing_mm))
    noise = ct_noise(image.shape, spacing_mm, rng) * np.float32(noise_hu)
    noise *= np.where(image < -990, np.float32(0.6), 1 + np.float32(0.2) * lung)
    return np.clip(np.round(blurred + noise), -1024, 3071).astype(np.int16)


@lru_cache(maxsize=4)
def _body(seed: int) -> tuple[Build, dict[str, NDArray[np.float64]]]:
    """Return the build and the vessel and airway trees of a seed, the same for every grid."""
    rng = np.random.default_rng([seed, 5])
    build = Build.draw(rng)
    axes = tuple(np.arange(-extent, extent, 5.0) for extent in (160.0, 130.0, 150.0))
    frame = Frame(axes, build)
    inside = lung_distance(frame, heart_distance(frame)) > 2.0
    cloud = np.argwhere(inside) * 5.0 + [axis[0] for axis in axes]
    cloud = (cloud + rng.uniform(-2.5, 2.5, cloud.shape)) / build.scale
    trees: dict[str, NDArray[np.float64]] = {}
    for kind, leaves in _LEAVES.items():
        grown = []
        for side, root in zip((1, -1), _ROOTS_MM[kind], strict=True):
            lung = cloud[cloud[:, 0] * side > 0]
            chosen = lung[rng.choice(len(lung), min(leaves, len(lung)), replace=False)]
            radius = 7.0 if kind == "artery" else 6.0
            grown.append(grow_tree(chosen, np.array(root), radius, rng))
        trees[kind] = np.concatenate(grown)
    trees["airway"] = _airways_along(trees["artery"])
    return build, trees


def _airways_along(arteries: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return airways that run beside the arteries, down to a lumen of 1.4 mm."""
    airways = arteries[arteries[:, 7] > 1.0].copy()
    beside = np.array([0.25, -0.55, 0.8])
    airways[:, :3] += 1.75 * airways[:, 6:7] * beside
    airways[:, 3:6] += 1.75 * airways[:, 7:8] * beside
    airways[:, 6:] *= 0.68
    return airways


class _Painter:
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
