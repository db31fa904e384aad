"""One heart in, the same heart with infarct and no-reflow out: all slices in one window."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from nibabel.affines import apply_affine, voxel_sizes

from tools.metrics.histogram import intensity_histogram, jensen_shannon_divergence
from tools.synthesis.generator import SEED_STEP, LesionGenerator, SliceSettings, WindowJob, scaled
from tools.synthesis.pipeline import SynthesisResult
from tools.synthesis.records import LesionRecord
from tools.synthesis.scan import Scan
from tools.transforms.heart_region import HEART_CLASSES
from tools.transforms.slice_window import percentile_range, slice_grid
from tools.transforms.tissue import tissue_levels
from tools.transforms.window import WindowGrid, cut_window, paste_window

__all__ = ["HeartPlan", "HeartWindow", "synthesize_heart"]

CAVITY, WALL = (1,), (2, 3, 4)


class HeartWindow(NamedTuple):
    """What the model sees of a scan; arrays have the slices along the last axis.

    Attributes:
        order: axes of the scan in the order of the arrays.
        affine: voxel index of the re-ordered scan to RAS mm.
        organ: label map of the scan, re-ordered: 0, 1 cavity, 2 myocardium, 3 and 4 lesions that
            are there already.
        grid: the window.
        image: scan on the window's grid, in its own units.
        range: intensities that the model sees as -1 and 1.
        tissue: levels of myocardium and blood in [-1, 1], or None without a label of both.
    """

    order: tuple[int, ...]
    affine: np.ndarray
    organ: np.ndarray
    grid: WindowGrid
    image: np.ndarray
    range: tuple[float, float]
    tissue: tuple[float, float] | None

    @classmethod
    def open(
        cls,
        scan: Scan,
        organ: np.ndarray,
        settings: SliceSettings,
        centre_mm: Sequence[float] | None = None,
    ) -> HeartWindow:
        """Cut the window round the heart and find the scale of its intensities.

        Slices are the axis with the largest voxel size.

        Args:
            scan: the input.
            organ: label map on the scan's grid.
            settings: of the model.
            centre_mm: RAS mm, the centre where the label map is empty.

        Raises:
            ValueError: if there is neither a heart nor a point, or the window holds no signal.
        """
        spacing = np.round(scan.spacing_mm, 3)
        axis = 2 - int(np.argmax(spacing[::-1]))
        order = (*(n for n in range(3) if n != axis), axis)
        affine = scan.affine[:, [*order, 3]]
        organ = np.transpose(organ, order)
        grid = slice_grid(
            np.isin(organ, settings.organ),
            affine,
            settings.size,
            settings.spacing_mm,
            centre_mm=centre_mm,
        )
        image = cut_window(np.transpose(scan.image, order), affine, grid)
        window = percentile_range(image, settings.percentiles, settings.empty_value)
        labels = cut_window(organ, affine, grid, order=0, beyond=0.0).astype(np.uint8)
        tissue = None
        if np.isin(labels, CAVITY).any() and (labels == WALL[0]).any():
            tissue = tissue_levels(scaled(image, window), labels)
        return cls(order, affine, organ, grid, image, window, tissue)

    def masks(self, label: np.ndarray, classes: Sequence[int]) -> np.ndarray:
        """Return the lesions of a label map on the window's grid, one mask per class."""
        parts = cut_window(label, self.affine, self.grid, order=0, beyond=0.0)
        return np.stack([parts == value for value in classes])


class HeartPlan(NamedTuple):
    """The lesions of one heart, decided but not yet sampled.

    Attributes:
        label: label map of the re-ordered scan: 0 and the values of the lesion classes.
        diameter_mm: of the sphere round the lesion that was asked for; None: as it came.
        source: where the shape comes from.
        texture: name of the texture.
        histogram: requested bins, one block per class, or None for no control.
        seed: of the sampler.
    """

    label: np.ndarray
    diameter_mm: float | None
    source: str
    texture: str
    histogram: Sequence[float] | None
    seed: int


class _Attempt(NamedTuple):
    """What one sample of the window gave, by class."""

    values: list[np.ndarray]
    achieved: list[list[float]]
    divergences: list[float]
    seed: int

    @property
    def jsd(self) -> float:
        return float(np.mean(self.divergences))


def synthesize_heart(
    scan: Scan,
    window: HeartWindow,
    plan: HeartPlan,
    generator: LesionGenerator,
    max_attempts: int = 3,
    tolerance: float = 0.25,
) -> SynthesisResult:
    """Synthesise the planned lesions of one heart; every voxel outside them stays as it is.

    A result whose histograms miss the requested ones by more than ``tolerance`` (mean over
    classes) is sampled again with another seed, and the best attempt is kept.

    Args:
        scan: the input.
        window: of the scan.
        plan: what to make.
        generator: a bundle with slice settings.
        max_attempts: at least 1.
        tolerance: largest accepted Jensen-Shannon divergence, in nats.

    Returns:
        Stored values; label map: that of the organ with the lesions in it; one record per class.

    Raises:
        ValueError: if ``max_attempts`` is below 1 or the plan holds no lesion.
    """
    if max_attempts < 1:
        raise ValueError(f"max_attempts must be at least 1, got {max_attempts}")
    if generator.slices is None:
        raise ValueError(f"bundle must be one for thick slices, got {generator.record.name}")
    classes = [value for value in generator.slices.classes if (plan.label == value).any()]
    if not classes:
        raise ValueError("label must hold a lesion, got none")
    start = time.perf_counter()
    masks = window.masks(plan.label, generator.slices.classes)
    job = WindowJob(window.image, masks, plan.histogram, plan.seed, window.range)
    best: _Attempt | None = None
    for number in range(max_attempts):
        attempt = _sample(
            window, plan, job._replace(seed=plan.seed + number * SEED_STEP), generator, classes
        )
        best = attempt if best is None or attempt.jsd < best.jsd else best
        if best.jsd <= tolerance:
            break
    assert best is not None
    stored, label = scan.stored.copy(), window.organ.astype(np.uint8)
    turned = np.transpose(stored, window.order)  # a view: what is written there goes to the scan
    for value, values in zip(classes, best.values, strict=True):
        turned[plan.label == value] = scan.stored_values(values)
        label[plan.label == value] = value
    seconds = (time.perf_counter() - start) / len(classes)
    records = [
        _record(window, plan, generator, best, place, number + 1, seconds)
        for place in enumerate(classes)
    ]
    return SynthesisResult(stored, np.transpose(label, np.argsort(window.order)), records)


def _sample(
    window: HeartWindow,
    plan: HeartPlan,
    job: WindowJob,
    generator: LesionGenerator,
    classes: Sequence[int],
) -> _Attempt:
    """Sample the window once and measure the result on the scan's own grid."""
    assert generator.slices is not None
    result = generator.sample([job])[0]
    blocks = None
    if plan.histogram is not None:
        blocks = np.reshape(plan.histogram, (len(generator.slices.classes), -1))
    attempt = _Attempt([], [], [], job.seed)
    whole = tuple(slice(0, n) for n in plan.label.shape)
    for value in classes:
        mask = plan.label == value
        values = paste_window(plan.label, window.affine, result, window.grid, mask, whole)  # type: ignore[arg-type]
        row = torch.as_tensor(scaled(values, window.range))[None]
        achieved = intensity_histogram(row, torch.ones_like(row))[0]
        jsd = 0.0
        if blocks is not None:
            asked = torch.tensor(blocks[generator.slices.classes.index(value)], dtype=torch.float32)
            jsd = jensen_shannon_divergence(achieved, asked).item()
        attempt.values.append(values)
        attempt.achieved.append(achieved.tolist())
        attempt.divergences.append(jsd)
    return attempt


def _record(
    window: HeartWindow,
    plan: HeartPlan,
    generator: LesionGenerator,
    attempt: _Attempt,
    place: tuple[int, int],
    attempts: int,
    seconds: float,
) -> LesionRecord:
    """Return the record of one class of the lesion."""
    assert generator.slices is not None
    number, value = place
    voxels = np.argwhere(plan.label == value)
    nearest = voxels[np.linalg.norm(voxels - voxels.mean(0), axis=1).argmin()]
    volume = float(len(voxels) * voxel_sizes(window.affine).prod())
    requested = None
    if plan.histogram is not None:
        blocks = np.reshape(plan.histogram, (len(generator.slices.classes), -1))
        requested = blocks[generator.slices.classes.index(value)].tolist()
    return LesionRecord(
        label=value,
        class_name=HEART_CLASSES[value],
        site_mm=[round(float(v), 3) for v in apply_affine(window.affine, nearest)],
        diameter_mm=round((6 * volume / np.pi) ** (1 / 3), 3),
        volume_mm3=round(volume, 3),
        texture=plan.texture,
        shape_source=plan.source,
        seed=attempt.seed,
        histogram_requested=requested,
        histogram_achieved=attempt.achieved[number],
        histogram_jsd=None if requested is None else attempt.divergences[number],
        sampler={
            **generator.settings,
            "window_voxels": list(window.grid.size),
            "intensity_range": [round(v, 3) for v in window.range],
            "sphere_diameter_mm": plan.diameter_mm,
        },
        attempts=attempts,
        seconds=round(seconds, 3),
    )
