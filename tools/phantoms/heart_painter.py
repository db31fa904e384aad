"""Tissues of the heart phantom painted over one another, water and fat apart."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from tools.phantoms.heart_anatomy import HeartBuild, HeartFrame, Infarct, Volume, ellipse

__all__ = ["SIGNAL", "HeartPainter"]

# Longitudinal magnetisation some 10 minutes after contrast, with healthy myocardium nulled; what
# has kept its long relaxation time (water in the stomach) is still negative.
SIGNAL = {
    "air": 0.0,
    "lung": 0.02,
    "lung_vessel": 0.7,
    "fat": 0.74,
    "muscle": 0.17,
    "cortical_bone": 0.03,
    "marrow": 0.5,
    "liver": 0.30,
    "liver_vessel": 0.43,
    "spleen": 0.34,
    "stomach": -0.22,
    "stomach_wall": 0.30,
    "blood": 0.42,
    "myocardium": 0.09,
    "infarct": 0.46,
    "no_reflow": 0.21,
}


class HeartPainter:
    """Paints tissues over one another on one grid; edges carry the share of the voxel covered.

    Args:
        axes: mm along x, y, z as in :class:`tools.phantoms.heart_anatomy.HeartFrame`.
        build: what differs between hearts.
        rng: source of randomness for textures and signals.
    """

    def __init__(
        self,
        axes: tuple[NDArray[np.float64], ...],
        build: HeartBuild,
        rng: np.random.Generator,
    ) -> None:
        self.frame = HeartFrame(axes, build)
        self.rng = rng
        self.shape = tuple(len(axis) for axis in axes)
        self.spacing = np.array([axis[1] - axis[0] for axis in axes])
        self.edge = np.float32(1.1 * self.spacing[:2].mean())
        self.water: Volume = np.zeros(self.shape, dtype=np.float32)
        self.fat: Volume = np.zeros(self.shape, dtype=np.float32)
        # patients, doses and waiting times differ
        self.signal = {name: value * rng.uniform(0.9, 1.1) for name, value in SIGNAL.items()}
        self.signal["myocardium"] = rng.uniform(0.03, 0.13)
        self.signal["infarct"] = self.signal["blood"] * rng.uniform(0.95, 1.4)
        mixed = rng.uniform(0.05, 0.4)
        self.signal["no_reflow"] = (1 - mixed) * self.signal["myocardium"]
        self.signal["no_reflow"] += mixed * self.signal["infarct"]

    def cover(self, distance: Volume) -> Volume:
        """Turn a distance into the share of each voxel inside."""
        return np.clip(distance / self.edge + np.float32(0.5), 0, 1).astype(np.float32)

    def put(self, coverage: Volume, tissue: str, texture: Volume | float = 0.0) -> None:
        """Paint a tissue over what is there."""
        value = self.signal[tissue] + texture
        fatty = tissue in ("fat", "marrow")
        self.water += coverage * ((0 if fatty else value) - self.water)
        self.fat += coverage * ((value if fatty else 0) - self.fat)

    def field(self, scale_mm: float) -> Volume:
        """Return a random field of unit spread that varies over ``scale_mm``."""
        step = np.maximum(1, np.floor(scale_mm / 2 / self.spacing)).astype(int)
        coarse = [int(np.ceil(n / s)) + 2 for n, s in zip(self.shape, step, strict=True)]
        noise = self.rng.standard_normal(coarse, dtype=np.float32)
        # where sheets lie farther apart than the field varies, they stay independent
        sigma = np.minimum(1.2, scale_mm / 2 / (self.spacing * step))
        smooth = torch.from_numpy(ndimage.gaussian_filter(noise, sigma))[None, None]
        size = [int(n) for n in np.array(coarse) * step]
        zoomed = functional.interpolate(smooth, size=size, mode="trilinear")[0, 0].numpy()
        cut = zoomed[tuple(slice(0, n) for n in self.shape)]
        return ((cut - cut.mean()) / cut.std()).astype(np.float32)

    def paint(self, infarct: Infarct | None) -> dict[str, Volume]:
        """Paint thorax and heart; return the coverage of what is labelled.

        Args:
            infarct: None for a healthy heart.

        Returns:
            ``epicardium`` (all inside it), ``cavity``, ``infarct``, ``no_reflow``: each 0 to 1.
        """
        self._chest_wall()
        self._lungs()
        self._abdomen()
        self._round_the_heart()
        return self._heart(infarct)

    def _chest_wall(self) -> None:
        """Paint skin fat, muscle and ribs."""
        frame, build = self.frame, self.frame.build
        # towards the apex the heart comes close to the front of the chest
        shift = np.float32(16) * (1 - frame.place)
        wave = 4 * self.field(60.0)
        centre = (55.0 + 0.4 * shift, 165 - build.chest_mm + shift)
        self.body = ellipse(frame.x, frame.y, centre, (185.0, 165.0)) + wave
        self.put(self.cover(self.body), "fat", 0.10 * self.field(14.0) + 0.06 * self.field(4.0))
        muscle = self.body - build.fat_mm + 2.5 * self.field(25.0)
        streaks = 0.05 * self.field(5.0)
        self.put(self.cover(muscle), "muscle", streaks)
        self.put(self.cover(np.minimum(muscle - 5, 8 - muscle + self.field(18.0))), "fat")
        self.chest = muscle - 17 - 1.5 * self.field(30.0)
        turn = np.arctan2(frame.y - 80, frame.x - 55)
        wave = np.sin(turn * 19 + frame.z / 12 + build.phases[5])
        rib = np.minimum(4.4 - np.abs(self.chest + 6.5), (wave - 0.25) * 9)
        self.put(self.cover(rib + 1), "cortical_bone")
        self.put(self.cover(rib - 0.8), "marrow")

    def _lungs(self) -> None:
        """Paint lungs: dark, with bright dots where vessels pass the slice."""
        self.put(self.cover(self.chest), "lung", 0.03 * self.field(8.0))
        dots = np.clip((self.field(5.0) - np.float32(2.4)) * 5, 0, 1)
        dots += np.clip((self.field(11.0) - np.float32(2.5)) * 4, 0, 1)
        self.put(np.clip(dots, 0, 1) * self.cover(self.chest - 4), "lung_vessel")

    def _abdomen(self) -> None:
        """Paint what lies under the diaphragm: liver, stomach, spleen, fat between them."""
        frame, phases = self.frame, self.frame.build.phases
        dome = frame.build.radius_mm + 2 + np.float32(0.0022) * (frame.x - 5) ** 2
        self.below = np.minimum(frame.y - dome + 2.0 * self.field(45.0), self.chest + 4)
        self.put(self.cover(self.below), "muscle")
        inner = self.below - 2.2
        self.put(self.cover(inner), "fat", -0.15 + 0.12 * self.field(9.0))
        edge = 14 + 12 * np.cos(phases[6]) - frame.x - 0.35 * (frame.y - 60)
        liver = np.minimum(inner - 0.5, edge + 5 * self.field(22.0))
        self.put(self.cover(liver), "liver", 0.018 * self.field(5.0))
        vessels = np.clip((self.field(11.0) - np.float32(1.6)) * 4, 0, 1)
        self.put(vessels * self.cover(liver - 4), "liver_vessel")
        stomach = ellipse(frame.x, frame.y, (60.0, 84.0), (40.0, 34.0), -20)
        stomach = np.minimum(stomach, np.minimum(inner - 2, -liver - 2)) + 3 * self.field(18.0)
        self.put(self.cover(stomach), "stomach_wall")
        folds = 0.16 * self.field(8.0)
        self.put(self.cover(stomach - 3.5 - 1.5 * self.field(7.0)), "stomach", folds)
        spleen = ellipse(frame.x, frame.y, (104.0, 78.0), (24.0, 36.0), 25)
        spleen = np.minimum(spleen, np.minimum(inner - 2, -stomach - 2))
        self.put(self.cover(spleen), "spleen", 0.03 * self.field(6.0))

    def _round_the_heart(self) -> None:
        """Paint the fat of mediastinum and pericardium, and the aorta behind."""
        frame = self.frame
        self.right = frame.right_ventricle() + 1.2 * self.field(14.0)
        heart = np.maximum(frame.epicardium, self.right)
        uneven = 0.3 + 2.4 * np.clip(self.field(20.0) - 0.1, 0, 2)
        # more fat in front of the right ventricle and in the grooves between the two
        front = np.clip((-frame.v - 8) / 30, 0, 1) * np.clip((-frame.u) / 20, 0, 1)
        sac = heart + uneven + 6 * front * np.clip(self.field(30.0) + 1, 0, 2)
        between = np.minimum(
            sac + 9, np.minimum(self.chest + 6, 8 * self.field(18.0) - frame.u - 22)
        )
        self.put(
            self.cover(np.minimum(between, -self.below)), "fat", -0.08 + 0.12 * self.field(9.0)
        )
        self.put(self.cover(sac + 1.6), "muscle", -0.08)
        self.put(self.cover(sac), "fat", -0.15 + 0.08 * self.field(8.0))
        aorta = ellipse(frame.x, frame.y, (14.0, 76.0 - 8 * frame.place), (10.5, 10.5))
        aorta = np.minimum(aorta, 40 * (frame.place - 0.55))
        self.put(self.cover(aorta + 1.6), "muscle")
        self.put(self.cover(aorta), "blood")

    def _heart(self, infarct: Infarct | None) -> dict[str, Volume]:
        frame = self.frame
        mottle = 0.012 * self.field(6.0)
        self.put(self.cover(self.right), "myocardium", 0.06 + mottle)
        bands = 0.7 * self.field(5.0) + self.field(9.0)
        right_blood = self.right - 2.6 - 0.7 * bands
        self.put(self.cover(right_blood), "blood", 0.02 + mottle)
        # the band that crosses the right ventricle near its apex, and trabeculae along its wall
        lattice = np.clip((bands - 1.3) * 1.2, 0, 0.8) * np.exp(-np.maximum(right_blood, 0) / 6)
        self.put(lattice * self.cover(right_blood), "myocardium", 0.08)
        epicardium = self.cover(frame.epicardium)
        self.put(epicardium, "myocardium", mottle)
        shown = np.zeros_like(epicardium)
        core = shown
        if infarct is not None:
            dead, stopped = frame.infarct(infarct, self.field(11.0))
            shown = self.cover(np.minimum(dead, frame.epicardium - 0.3))
            core = self.cover(stopped) * shown
            patchy = 0.035 * self.field(5.0)
            self.put(shown * epicardium, "infarct", patchy)
            self.put(core * epicardium, "no_reflow", 0.5 * patchy)
        rough = 0.45 * self.field(4.0) * np.clip(1.3 - frame.place, 0.3, 1)
        cavity = self.cover(frame.endocardium)
        self.put(self.cover(frame.endocardium - 0.6 + rough), "blood", mottle)
        fringe = np.exp(-np.maximum(frame.endocardium, 0) / 4)
        lattice = np.clip((self.field(4.5) - 0.7) * 0.9, 0, 0.7) * fringe
        self.put(lattice * cavity, "myocardium", 0.05)
        muscles = frame.papillary_muscles() + 0.5 * rough
        self.put(self.cover(np.minimum(muscles, frame.endocardium + 1)), "myocardium", 0.03)
        parts = {"epicardium": epicardium, "cavity": cavity}
        return parts | {"infarct": shown, "no_reflow": core}
