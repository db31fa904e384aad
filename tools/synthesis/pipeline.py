"""One scan in, the same scan with lesions out: windows cut, sampled together, pasted exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np
import torch

from tools.histograms import intensity_histogram, jensen_shannon_divergence
from tools.synthesis.generator import LesionGenerator, WindowJob, scaled
from tools.synthesis.plan import LesionPlan
from tools.synthesis.records import LesionRecord
from tools.synthesis.sampling import TOLERANCE, ScanWork, SynthesisResult, sample_scans
from tools.synthesis.scan import Scan
from tools.windows import WindowGrid, cut_window, paste_window, window_size

__all__ = [
    "PlannedLesion",
    "SynthesisResult",
    "histogram_bins",
    "lesion_on_grid",
    "lesion_record",
    "plan_windows",
    "synthesize_lesions",
]


@dataclass
class PlannedLesion:
    """A plan on its way to voxels; what changes is the best attempt so far.

    Args:
        plan: of the lesion.
        grid: of its window.
        job: what the generator is asked for.
        bins: of the histogram.
        read: returns, for a sampled window, the values to keep and those inside the lesion, whose
            histogram counts; both in the scan's units.
        values: to keep, of the best attempt.
        achieved: bins of its histogram.
        jsd: its divergence from the one requested.
        seed: that made it.
        attempts: samples so far.
        seconds: they took.
    """

    plan: LesionPlan
    grid: WindowGrid
    job: WindowJob
    bins: int
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    values: np.ndarray = field(default_factory=lambda: np.empty(0))
    achieved: list[float] = field(default_factory=list)
    jsd: float = float("inf")
    seed: int = 0
    attempts: int = 0
    seconds: float = 0.0

    def offer(self, window: np.ndarray) -> None:
        """Keep what a window became if its histogram is the best so far."""
        assert self.job.window is not None
        values, inside = self.read(window)
        row = torch.as_tensor(scaled(inside, self.job.window))[None]
        achieved = intensity_histogram(row, torch.ones_like(row), self.bins)[0]
        jsd = 0.0
        if self.plan.histogram is not None:
            jsd = jensen_shannon_divergence(achieved, torch.tensor(self.plan.histogram)).item()
        if jsd < self.jsd:
            self.values, self.achieved = values, achieved.tolist()
            self.jsd, self.seed = jsd, self.job.seed


def synthesize_lesions(
    scan: Scan,
    organ_mask: np.ndarray | None,
    plans: Sequence[LesionPlan],
    generator: LesionGenerator,
    max_attempts: int = 3,
    tolerance: float = TOLERANCE,
    spacing_mm: float = 1.0,
) -> SynthesisResult:
    """Synthesise the planned lesions of one scan, see :func:`plan_windows`.

    All lesions are sampled together; those whose histogram misses the requested one by more than
    ``tolerance`` are sampled again with another seed, and the best attempt is kept. Costs grow with
    the lesions, not with the scan.

    Args:
        scan: the input.
        organ_mask: lesions are cut to it; None cuts nothing.
        plans: what to make.
        generator: the bundle.
        max_attempts: at least 1.
        tolerance: largest accepted Jensen-Shannon divergence, in nats.
        spacing_mm: voxel size of the model's grid.

    Returns:
        Stored values, label and records; every voxel outside the label is identical to the input.

    Raises:
        ValueError: if a lesion does not fit the scan, ``max_attempts`` is below 1, or the bundle is
            for scans without units.
    """
    work = plan_windows(scan, organ_mask, plans, generator, spacing_mm)
    return sample_scans([work], generator, max_attempts, tolerance)[0]


def plan_windows(
    scan: Scan,
    organ_mask: np.ndarray | None,
    plans: Sequence[LesionPlan],
    generator: LesionGenerator,
    spacing_mm: float = 1.0,
) -> ScanWork:
    """Cut the windows of the planned lesions of one scan; nothing is sampled yet.

    Args:
        scan: the input.
        organ_mask: lesions are cut to it; None cuts nothing.
        plans: what to make.
        generator: the bundle.
        spacing_mm: voxel size of the model's grid.

    Raises:
        ValueError: if a lesion does not fit the scan, or the bundle is for scans without units.
    """
    window = generator.window
    if window is None:
        raise ValueError(f"bundle must be one for scans in HU, got {generator.record.name}")
    bins = histogram_bins(generator)
    lesions = [_prepare(scan, organ_mask, plan, spacing_mm, window, bins) for plan in plans]

    def finish() -> SynthesisResult:
        stored = scan.stored.copy(order="K")
        label = np.zeros(scan.stored.shape, np.uint8)
        for lesion in lesions:
            # indexing the box first keeps the cost at the lesion's size
            stored[lesion.plan.box][lesion.plan.label] = scan.stored_values(lesion.values)
            label[lesion.plan.box][lesion.plan.label] = 1
        records = [lesion_record(scan, each, generator, each.grid.size[0]) for each in lesions]
        return SynthesisResult(stored, label, records)

    return ScanWork(lesions, finish)


def histogram_bins(generator: LesionGenerator) -> int:
    """Return how many bins the histograms of a bundle have."""
    return len(next(iter(generator.presets.values()))["histogram"])


def _prepare(
    scan: Scan,
    organ_mask: np.ndarray | None,
    plan: LesionPlan,
    spacing_mm: float,
    window: tuple[float, float],
    bins: int,
) -> PlannedLesion:
    """Cut the window of a lesion and draw its mask there."""
    reach = (np.array(plan.label.shape) + 1) * scan.spacing_mm
    probe = WindowGrid.around(plan.site.point_mm, (window_size(2 * reach.max(), spacing_mm),) * 3)
    mask = lesion_on_grid(probe, plan, organ_mask, scan.affine)
    found = np.argwhere(mask)
    if not len(found):
        raise ValueError(f"lesion must cover a voxel of the model's grid, got none at {plan.site}")
    extent = float((np.ptp(found, axis=0) + 1).max() * spacing_mm)
    centre = nib.affines.apply_affine(probe.affine, (found.min(0) + found.max(0)) / 2)
    grid = WindowGrid.around(centre, (window_size(extent, spacing_mm),) * 3, spacing_mm)
    mask = lesion_on_grid(grid, plan, organ_mask, scan.affine)
    image = cut_window(scan.image, scan.affine, grid)
    job = WindowJob(image, mask, plan.histogram, plan.seed, window)

    def read(result: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = paste_window(scan.stored, scan.affine, result, grid, plan.label, plan.box)
        return values, values

    return PlannedLesion(plan, grid, job, bins, read)


def lesion_on_grid(
    grid: WindowGrid, plan: LesionPlan, organ_mask: np.ndarray | None, affine: np.ndarray
) -> np.ndarray:
    """Return the lesion on the model's grid, cut to the organ as the label is."""
    organ = None if organ_mask is None else cut_window(organ_mask, affine, grid) >= 0.5
    mask = np.zeros(grid.size, bool)
    part, box = plan.shape.on_grid(grid.affine, grid.size, plan.site.point_mm, within=organ)
    mask[box] = part
    return mask


def lesion_record(
    scan: Scan,
    lesion: PlannedLesion,
    generator: LesionGenerator,
    window_voxels: int | list[int],
    settings: Mapping[str, Any] | None = None,
) -> LesionRecord:
    """Return the record of a lesion that was sampled.

    Args:
        scan: it lies in.
        lesion: with its best attempt.
        generator: that made it.
        window_voxels: of its window.
        settings: to be added to those of the sampler.
    """
    plan = lesion.plan
    volume = float(plan.label.sum() * abs(np.linalg.det(scan.affine[:3, :3])))
    return LesionRecord(
        label=1,
        class_name="lesion",
        site_mm=[round(float(v), 3) for v in plan.site.point_mm],
        diameter_mm=round((6 * volume / np.pi) ** (1 / 3), 3),
        volume_mm3=round(volume, 3),
        texture=plan.texture,
        shape_source=plan.shape.source,
        seed=lesion.seed,
        diameter_requested_mm=round(plan.diameter_mm, 3),
        histogram_requested=plan.histogram,
        histogram_achieved=lesion.achieved,
        histogram_jsd=None if plan.histogram is None else lesion.jsd,
        sampler={**generator.settings, "window_voxels": window_voxels, **(settings or {})},
        attempts=lesion.attempts,
        seconds=round(lesion.seconds, 3),
    )
