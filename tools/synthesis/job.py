"""What a run does to each scan of an organ in HU: sites, shapes, textures, samples."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tools.synthesis.case_folder import describe_source
from tools.synthesis.cases import Case, mask_name
from tools.synthesis.generator import LesionGenerator
from tools.synthesis.latent_pipeline import plan_crops
from tools.synthesis.lobes import lobe_region, read_lobes
from tools.synthesis.organ_masks import OrganSource, RecipeOrgan
from tools.synthesis.pipeline import plan_windows
from tools.synthesis.plan import Request, TextureChoice, plan_lesions
from tools.synthesis.records import sha256_file
from tools.synthesis.sampling import ScanWork
from tools.synthesis.scan import Scan
from tools.synthesis.shapes import MaskFileShape, ShapeSource

__all__ = ["Job", "mask_hashes"]


@dataclass(frozen=True)
class Job:
    """Lesions within an organ of a CT scan, each in a window of its own.

    Args:
        generator: the bundle.
        request: sizes, numbers and places.
        shapes: source of shapes.
        textures: source of histograms.
        seed: of the run; each scan draws from the seed and its own name.
        max_attempts: samples per lesion at most.
        organs: finds the organ in scans that come without a mask of it.
    """

    generator: LesionGenerator
    request: Request
    shapes: ShapeSource
    textures: TextureChoice
    seed: int = 0
    max_attempts: int = 3
    organs: OrganSource = field(default_factory=RecipeOrgan)

    @property
    def one_scan_only(self) -> bool:
        """Whether the shape is a mask drawn on one scan."""
        return isinstance(self.shapes, MaskFileShape)

    def describe(self, case: Case) -> dict[str, Any]:
        """Return all that decides what a case becomes, beside scan and bundle; JSON values only."""
        later = ("erosion_mm", "lobe", "sizes")  # unknown to older versions, whose runs may go on
        request = {k: v for k, v in asdict(self.request).items() if k not in later or v is not None}
        return {
            **request,
            "texture": self.textures.names,
            "texture_histogram": self.textures.file_histogram,
            "shape": describe_source(self.shapes),
            "organ_source": "file" if case.organ_mask else self.organs.record["source"],
            **mask_hashes(case),
            "seed": self.seed,
            "attempts": self.max_attempts,
            "sampler": self.generator.settings,
        }

    def plan(
        self, scan: Scan, case: Case, rng: np.random.Generator
    ) -> tuple[ScanWork, dict[str, Any]]:
        """Return the lesions of a scan, ready to be sampled, and where its organ comes from.

        Raises:
            ValueError: if the lesions do not fit the scan.
        """
        existing = None
        if case.lesion_mask is not None:
            existing = scan.load_mask(case.lesion_mask, "lesion_mask", empty=True)
        organ, region, organ_record = self._region(scan, case)
        plans = plan_lesions(
            scan.image,
            scan.affine,
            organ,
            self.request,
            self.shapes,
            self.textures,
            rng,
            existing,
            region,
        )
        cut = organ if region is None else region
        cut = None if self.one_scan_only else cut
        windows = plan_windows if self.generator.latent is None else plan_crops
        return windows(scan, cut, plans, self.generator), organ_record

    def _region(
        self, scan: Scan, case: Case
    ) -> tuple[np.ndarray | None, np.ndarray | None, dict[str, Any]]:
        """Return the organ, the lobes asked for (None: any), and where both come from."""
        if self.request.lobe is None:
            organ, record = self._organ(scan, case)
            return organ, None, record
        if case.organ_mask is not None:
            lobes = read_lobes(scan.load_labels(case.organ_mask, "organ_mask"))
            record = {"source": "file", "name": mask_name(case.organ_mask)}
        else:
            lobes, record = self.organs.lobes(scan), dict(self.organs.record)
        region = lobe_region(lobes, self.request.lobe)
        return lobes > 0, region, record | {"lobe": list(self.request.lobe)}

    def _organ(self, scan: Scan, case: Case) -> tuple[np.ndarray | None, dict[str, Any]]:
        """Return the organ on the scan's grid, and where it comes from."""
        if case.organ_mask is not None:
            mask = scan.load_mask(case.organ_mask, "organ_mask")
            return mask, {"source": "file", "name": mask_name(case.organ_mask)}
        if self.one_scan_only:
            return None, {"source": "none", "name": "the mask file decides"}
        return self.organs(scan), dict(self.organs.record)


def mask_hashes(case: Case) -> dict[str, str | None]:
    """Return the hashes of the masks of a case by argument, None where there is none."""
    masks = {"organ_mask": case.organ_mask, "lesion_mask": case.lesion_mask}
    return {f"{k}_sha256": None if v is None else sha256_file(v) for k, v in masks.items()}
