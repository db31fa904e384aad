"""One heart in, the same heart with infarct and no-reflow out: all slices in one window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from nibabel.affines import apply_affine, voxel_sizes

from tools.histograms import intensity_histogram, jensen_shannon_divergence
from tools.intensity import Percentiles, tissue_levels
from tools.synthesis.generator import LesionGenerator, SliceSettings, WindowJob, scaled
from tools.synthesis.records import LesionRecord
from tools.synthesis.sampling import ScanWork, SynthesisResult
from tools.synthesis.scan import Scan
from tools.transforms.wall import HEART_CLASSES
from tools.windows import Window, WindowGrid, cut_window, paste_window

__all__ = ["HeartLesion", "HeartPlan", "HeartWindow", "plan_heart"]

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
        rule = Window(settings.size, settings.spacing_mm, multiple=4)
        grid = rule.on_slices(np.isin(organ, settings.organ), affine, centre_mm)
        image = cut_window(np.transpose(scan.image, order), affine, grid)
        window = Percentiles(settings.percentiles, settings.empty_value).of(image)
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


@dataclass
class HeartLesion:
    """The plan of a heart on its way to voxels; what changes is the best attempt so far.

    Args:
        window: of the scan.
        plan: what to make.
        job: what the generator is asked for.
        classes: labels of the lesion classes that the plan holds.
        blocks: requested bins of each of them, or None for no control.
        bins: of the histogram of each.
        values: of the best attempt, by class, in the scan's units.
        achieved: bins of their histograms.
        divergences: from the ones requested.
        jsd: mean of the divergences.
        seed: that made it.
        attempts: samples so far.
        seconds: they took.
    """

    window: HeartWindow
    plan: HeartPlan
    job: WindowJob
    classes: list[int]
    blocks: list[list[float]] | None
    bins: int
    values: list[np.ndarray] = field(default_factory=list)
    achieved: list[list[float]] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)
    jsd: float = float("inf")
    seed: int = 0
    attempts: int = 0
    seconds: float = 0.0

    def offer(self, window: np.ndarray) -> None:
        """Keep what the window became if its histograms are the best so far.

        They are measured on the scan's own grid.
        """
        label, grid = self.plan.label, self.window.grid
        whole = tuple(slice(0, n) for n in label.shape)
        values, achieved, divergences = [], [], []
        for number, value in enumerate(self.classes):
            inside = paste_window(label, self.window.affine, window, grid, label == value, whole)  # type: ignore[arg-type]
            row = torch.as_tensor(scaled(inside, self.window.range))[None]
            bins = intensity_histogram(row, torch.ones_like(row), self.bins)[0]
            values.append(inside)
            achieved.append(bins.tolist())
            divergences.append(
                0.0 if self.blocks is None else _divergence(bins, self.blocks[number])
            )
        jsd = float(np.mean(divergences))
        if jsd < self.jsd:
            self.values, self.achieved, self.divergences = values, achieved, divergences
            self.jsd, self.seed = jsd, self.job.seed


def _divergence(achieved: torch.Tensor, requested: Sequence[float]) -> float:
    return jensen_shannon_divergence(achieved, torch.tensor(requested, dtype=torch.float32)).item()


def plan_heart(
    scan: Scan, window: HeartWindow, plan: HeartPlan, generator: LesionGenerator
) -> ScanWork:
    """Make ready the window of one heart; nothing is sampled yet.

    Args:
        scan: the input.
        window: of the scan.
        plan: what to make.
        generator: a bundle with slice settings.

    Raises:
        ValueError: if the plan holds no lesion, or the bundle is not for thick slices.
    """
    settings = generator.slices
    if settings is None:
        raise ValueError(f"bundle must be one for thick slices, got {generator.record.name}")
    classes = [value for value in settings.classes if (plan.label == value).any()]
    if not classes:
        raise ValueError("label must hold a lesion, got none")
    masks = window.masks(plan.label, settings.classes)
    job = WindowJob(window.image, masks, plan.histogram, plan.seed, window.range)
    blocks = None
    if plan.histogram is not None:
        rows = np.reshape(plan.histogram, (len(settings.classes), -1)).tolist()
        blocks = [rows[settings.classes.index(value)] for value in classes]
    bins = len(next(iter(generator.presets.values()))["histogram"]) // len(settings.classes)
    lesion = HeartLesion(window, plan, job, classes, blocks, bins)

    def finish() -> SynthesisResult:
        stored, label = scan.stored.copy(), window.organ.astype(np.uint8)
        # a view: what is written there goes to the scan
        turned = np.transpose(stored, window.order)
        for value, values in zip(classes, lesion.values, strict=True):
            turned[plan.label == value] = scan.stored_values(values)
            label[plan.label == value] = value
        records = [_record(lesion, generator, number) for number in range(len(classes))]
        return SynthesisResult(stored, np.transpose(label, np.argsort(window.order)), records)

    return ScanWork([lesion], finish)


def _record(lesion: HeartLesion, generator: LesionGenerator, number: int) -> LesionRecord:
    """Return the record of one class of the lesion."""
    window, plan, value = lesion.window, lesion.plan, lesion.classes[number]
    voxels = np.argwhere(plan.label == value)
    nearest = voxels[np.linalg.norm(voxels - voxels.mean(0), axis=1).argmin()]
    volume = float(len(voxels) * voxel_sizes(window.affine).prod())
    return LesionRecord(
        label=value,
        class_name=HEART_CLASSES[value],
        site_mm=[round(float(v), 3) for v in apply_affine(window.affine, nearest)],
        diameter_mm=round((6 * volume / np.pi) ** (1 / 3), 3),
        volume_mm3=round(volume, 3),
        texture=plan.texture,
        shape_source=plan.source,
        seed=lesion.seed,
        histogram_requested=None if lesion.blocks is None else lesion.blocks[number],
        histogram_achieved=lesion.achieved[number],
        histogram_jsd=None if lesion.blocks is None else lesion.divergences[number],
        sampler={
            **generator.settings,
            "window_voxels": list(window.grid.size),
            "intensity_range": [round(v, 3) for v in window.range],
            "sphere_diameter_mm": plan.diameter_mm,
        },
        attempts=lesion.attempts,
        seconds=round(lesion.seconds / len(lesion.classes), 3),
    )
