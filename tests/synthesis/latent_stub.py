"""Stands for a bundle that works in latent space: changes its whole crop, in no time."""

from collections.abc import Sequence

import numpy as np

from tools.synthesis.generator import WindowJob
from tools.synthesis.latent_settings import LatentSettings
from tools.synthesis.records import BundleRecord
from tools.synthesis.subtypes import Subtype, SubtypeLibrary

BINS = 40
RISE = 300.0


def row(*bins: int) -> list[float]:
    """A histogram with equal shares in these bins."""
    return [1 / len(bins) if i in bins else 0.0 for i in range(BINS)]


def library() -> SubtypeLibrary:
    """Solid lesions small and dark or large and bright; ground-glass ones of one kind."""
    solid = Subtype(0, 0.75, np.array([6.0, 20.0]), np.array([row(20), row(30)]), row(25))
    glass = Subtype(2, 0.25, np.array([9.0]), np.array([row(10)]), row(10))
    return SubtypeLibrary(solid=solid, ground_glass=glass)


class LatentStub:
    """Raises every voxel of the crop by 300 HU, far from the lesion too, with noise of its seed."""

    window, slices, device = (-1000.0, 400.0), None, "cpu"
    record = BundleRecord("latent_stub", "0.1.0")

    def __init__(self, noise: float = 0.0, **window: float) -> None:
        self.latent = LatentSettings(**window)
        self.library = library()
        self.presets = self.library.presets
        self.settings = {"num_inference_steps": 1}
        self.noise = noise
        self.jobs: list[WindowJob] = []

    def sample(self, jobs: Sequence[WindowJob]) -> list[np.ndarray]:
        self.jobs += jobs
        results = []
        for job in jobs:
            noise = np.random.default_rng(job.seed).normal(0, self.noise, job.image.shape)
            results.append((np.clip(job.image, -1000, 1000) + RISE + noise).astype(np.float32))
        return results
