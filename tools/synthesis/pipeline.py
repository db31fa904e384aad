"""One scan in, the same scan with lesions out: windows cut, sampled together, pasted exactly."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import torch

from tools.metrics.histogram import intensity_histogram, jensen_shannon_divergence
from tools.synthesis.generator import SEED_STEP, LesionGenerator, WindowJob, scaled
from tools.synthesis.plan import LesionPlan
from tools.synthesis.records import LesionRecord
from tools.synthesis.scan import Scan
from tools.transforms.window import WindowGrid, cut_window, paste_window, window_size

__all__ = [
    "PlannedLesion",
    "SynthesisResult",
    "lesion_on_grid",
    "lesion_record",
    "sample_lesions",
    "synthesize_lesions",
]


@dataclass(frozen=True)
class SynthesisResult:
    """A scan with lesions.

    Args:
        stored: the scan's stored values, changed inside the label only.
        label: uint8, 0 background, 1 lesion (of a heart: its label map with the lesions in it).
        records: one per lesion, in the order of the plans.
    """

    stored: np.ndarray
    label: np.ndarray
    records: list[LesionRecord]


@dataclass
class PlannedLesion:
    """A plan on its way to voxels; what changes is the best attempt so far.

    Args:
        plan: of the lesion.
        grid: of its window.
        job: what the generator is asked for.
        window: intensities at the outer edges of the histogram.
        values: in the scan's units, one for each voxel of the label.
        achieved: bins of their histogram.
        jsd: its divergence from the one requested.
        seed: that made it.
        attempts: samples so far.
        seconds: they took.
    """

    plan: LesionPlan
    grid: WindowGrid
    job: WindowJob
    window: tuple[float, float]
    values: np.ndarray
    achieved: list[float]
    jsd: float = float("inf")
    seed: int = 0
    attempts: int = 0
    seconds: float = 0.0

    def offer(self, values: np.ndarray, inside: np.ndarray, bins: int) -> None:
        """Keep the values of an attempt if their histogram is the best so far.

        Args:
            values: to keep.
            inside: those of the lesion, whose histogram counts.
            bins: of the histogram.
        """
        row = torch.as_tensor(scaled(inside, self.window))[None]
        achieved = intensity_histogram(row, torch.ones_like(row), bins)[0]
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
    tolerance: float = 0.25,
    spacing_mm: float = 1.0,
) -> SynthesisResult:
    """Synthesise the planned lesions of one scan.

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
    window = generator.window
    if window is None:
        raise ValueError(f"bundle must be one for scans in HU, got {generator.record.name}")
    lesions = [_prepare(scan, organ_mask, plan, spacing_mm, window) for plan in plans]

    def offer(lesion: PlannedLesion, result: np.ndarray) -> None:
        plan = lesion.plan
        values = paste_window(scan.stored, scan.affine, result, lesion.grid, plan.label, plan.box)
        lesion.offer(values, values, _bins(generator))

    sample_lesions(lesions, generator, offer, max_attempts, tolerance)
    stored = scan.stored.copy(order="K")
    label = np.zeros(scan.stored.shape, np.uint8)
    for lesion in lesions:
        # indexing the box first keeps the cost at the lesion's size
        stored[lesion.plan.box][lesion.plan.label] = scan.stored_values(lesion.values)
        label[lesion.plan.box][lesion.plan.label] = 1
    records = [lesion_record(scan, lesion, generator, lesion.grid.size[0]) for lesion in lesions]
    return SynthesisResult(stored, label, records)


def _bins(generator: LesionGenerator) -> int:
    return len(next(iter(generator.presets.values()))["histogram"])


def _prepare(
    scan: Scan,
    organ_mask: np.ndarray | None,
    plan: LesionPlan,
    spacing_mm: float,
    window: tuple[float, float],
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
    return PlannedLesion(plan, grid, job, window, np.empty(0), [])


def lesion_on_grid(
    grid: WindowGrid, plan: LesionPlan, organ_mask: np.ndarray | None, affine: np.ndarray
) -> np.ndarray:
    """Return the lesion on the model's grid, cut to the organ as the label is."""
    organ = None if organ_mask is None else cut_window(organ_mask, affine, grid) >= 0.5
    mask = np.zeros(grid.size, bool)
    part, box = plan.shape.on_grid(grid.affine, grid.size, plan.site.point_mm, within=organ)
    mask[box] = part
    return mask


def sample_lesions(
    lesions: Sequence[PlannedLesion],
    generator: LesionGenerator,
    offer: Callable[[PlannedLesion, np.ndarray], None],
    max_attempts: int,
    tolerance: float,
) -> None:
    """Sample lesions together, again those that miss their histogram, and keep the best of each.

    Args:
        lesions: changed in place.
        generator: the bundle.
        offer: offers the lesion what its window became, see :meth:`PlannedLesion.offer`.
        max_attempts: at least 1.
        tolerance: largest accepted Jensen-Shannon divergence, in nats.

    Raises:
        ValueError: if ``max_attempts`` is below 1.
    """
    if max_attempts < 1:
        raise ValueError(f"max_attempts must be at least 1, got {max_attempts}")
    pending = list(lesions)
    for attempt in range(max_attempts):
        start = time.perf_counter()
        for lesion in pending:
            lesion.job = lesion.job._replace(seed=lesion.plan.seed + attempt * SEED_STEP)
        windows = generator.sample([lesion.job for lesion in pending])
        seconds = (time.perf_counter() - start) / len(pending)
        for lesion, window in zip(pending, windows, strict=True):
            lesion.attempts += 1
            lesion.seconds += seconds
            offer(lesion, window)
        pending = [lesion for lesion in pending if lesion.jsd > tolerance]
        if not pending:
            break


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
