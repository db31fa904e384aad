"""What a run does to each heart: shape in the wall, texture for its tissue, sample."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tools.synthesis.case_folder import describe_source
from tools.synthesis.cases import Case, mask_name
from tools.synthesis.generator import LesionGenerator
from tools.synthesis.hearts.pipeline import (
    CAVITY,
    WALL,
    HeartPlan,
    HeartWindow,
    plan_heart,
)
from tools.synthesis.hearts.shapes import Heart, HeartRequest, HeartShapeSource
from tools.synthesis.hearts.textures import HeartTextures
from tools.synthesis.job import mask_hashes
from tools.synthesis.sampling import ScanWork
from tools.synthesis.scan import Scan
from tools.transforms.wall import HEART_CLASSES

__all__ = ["HeartJob"]


@dataclass(frozen=True)
class HeartJob:
    """An infarct, with or without no-reflow, in the wall of each heart.

    Args:
        generator: a bundle with slice settings.
        request: size, share of no-reflow, place.
        shapes: source of label maps.
        textures: source of histograms.
        seed: of the run; each scan draws from the seed and its own name.
        max_attempts: samples per heart at most.
    """

    generator: LesionGenerator
    request: HeartRequest
    shapes: HeartShapeSource
    textures: HeartTextures
    seed: int = 0
    max_attempts: int = 3

    @property
    def one_scan_only(self) -> bool:
        """Whether the shape is a mask drawn on one scan; masks of hearts move to any heart."""
        return False

    def describe(self, case: Case) -> dict[str, Any]:
        """Return all that decides what a case becomes, beside scan and bundle; JSON values only."""
        return {
            **asdict(self.request),
            "texture": self.textures.names,
            "texture_histogram": self.textures.file_histogram,
            "shape": describe_source(self.shapes),
            **mask_hashes(case),
            "seed": self.seed,
            "attempts": self.max_attempts,
            "sampler": self.generator.settings,
        }

    def plan(
        self, scan: Scan, case: Case, rng: np.random.Generator
    ) -> tuple[ScanWork, dict[str, Any]]:
        """Return the lesion of a heart, ready to be sampled, and where its label map comes from.

        Raises:
            ValueError: if there is no label map of the heart, or the lesion does not fit it.
        """
        if self.generator.slices is None:
            raise ValueError(f"bundle must be one for hearts, got {self.generator.record.name}")
        path = case.organ_mask or case.lesion_mask
        if path is None:
            raise ValueError(
                "organ_mask must be a label map of the heart (1 cavity, 2 myocardium), got none "
                f"for {case.name}"
            )
        organ = scan.load_labels(path, "organ_mask")
        for name, value in (("cavity", CAVITY[0]), ("myocardium", WALL[0])):
            if not (organ == value).any():
                raise ValueError(
                    f"organ_mask must mark the {name} as {value}, got none in {mask_name(path)}"
                )
        window = HeartWindow.open(scan, organ, self.generator.slices)
        wall, cavity = np.isin(window.organ, WALL), np.isin(window.organ, CAVITY)
        shape = self.shapes.draw(Heart(wall, cavity, window.affine), self.request, rng)
        label = np.where(window.organ > WALL[0], 0, shape.label)  # lesions there stay as they are
        present = [bool((label == value).any()) for value in self.generator.slices.classes]
        number = int(rng.integers(2**31))  # one lesion per heart: its turn is left to chance
        name, histogram = self.textures.draw(number, rng, window.tissue, present)
        seed = int(rng.integers(2**31))
        plan = HeartPlan(label, shape.diameter_mm, shape.source, name, histogram, seed)
        work = plan_heart(scan, window, plan, self.generator)
        carried = {str(n): HEART_CLASSES[n] for n in (*CAVITY, WALL[0])}
        return work, {"source": "file", "name": mask_name(path), "labels": carried}
