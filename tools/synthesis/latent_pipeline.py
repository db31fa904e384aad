"""One scan in, the same scan with lesions out, sampled in the latent space of an autoencoder.

An autoencoder changes every voxel of what it decodes, so its output cannot replace the scan. Each
lesion is made in a crop of its own, and the scan gets the difference that the lesion makes there:
whole in the lesion, fading out over a few millimetres round it, and nothing beyond.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from nibabel.affines import apply_affine

from tools.synthesis.generator import LesionGenerator, WindowJob
from tools.synthesis.latent_settings import LatentSettings
from tools.synthesis.pipeline import (
    PlannedLesion,
    histogram_bins,
    lesion_on_grid,
    lesion_record,
)
from tools.synthesis.plan import LesionPlan
from tools.synthesis.sampling import TOLERANCE, ScanWork, SynthesisResult, sample_scans
from tools.synthesis.scan import Scan
from tools.windows import BlendZone, WindowGrid, cut_window, paste_window

__all__ = ["crop_grid", "plan_crops", "synthesize_latent"]


def crop_grid(
    low_mm: np.ndarray, high_mm: np.ndarray, scan: Scan, settings: LatentSettings
) -> WindowGrid:
    """Return the crop for a lesion: its box with context, shifted inside the scan where that fits.

    A scan with the crop's own spacing and axes is read without interpolation.

    Args:
        low_mm: lowest corner of the lesion along each RAS axis.
        high_mm: highest corner.
        scan: it is cut from.
        settings: size and spacing of crops.
    """
    sizes = [settings.size(extent) for extent in high_mm - low_mm + settings.spacing_mm]
    extent = (np.array(sizes) - 1) * settings.spacing_mm
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in scan.nifti.shape])).reshape(3, -1).T
    corners = apply_affine(scan.affine, ends)
    first, last = corners.min(0), corners.max(0)
    start = (low_mm + high_mm - extent) / 2
    # where the scan is smaller than the crop, the crop lies over all of it
    fits = last - first >= extent
    shifted = np.clip(start, first, np.maximum(first, last - extent))
    start = np.where(fits, shifted, (first + last - extent) / 2)
    if fits.all() and np.allclose(scan.spacing_mm, settings.spacing_mm, atol=1e-4):
        start = apply_affine(scan.affine, np.rint(apply_affine(np.linalg.inv(scan.affine), start)))
    return WindowGrid.around(start + extent / 2, sizes, settings.spacing_mm)


def synthesize_latent(
    scan: Scan,
    organ_mask: np.ndarray | None,
    plans: Sequence[LesionPlan],
    generator: LesionGenerator,
    max_attempts: int = 3,
    tolerance: float = TOLERANCE,
) -> SynthesisResult:
    """Synthesise the planned lesions of one scan with a bundle that works in latent space.

    All lesions are sampled together; those whose histogram misses the requested one by more than
    ``tolerance`` are sampled again with another seed, and the best attempt is kept. Costs grow with
    the lesions, not with the scan.

    Args:
        scan: the input, HU.
        organ_mask: lesions are cut to it; None cuts nothing.
        plans: what to make.
        generator: a bundle with ``latent_window``.
        max_attempts: at least 1.
        tolerance: largest accepted Jensen-Shannon divergence, in nats.

    Returns:
        Stored values, label and records. Voxels at ``margin_mm`` from all lesions, and farther, are
        identical to the input; the ring of one lesion leaves the others' labels alone.

    Raises:
        ValueError: if a lesion does not fit the scan, ``max_attempts`` is below 1, or the bundle
            does not work in latent space.
    """
    work = plan_crops(scan, organ_mask, plans, generator)
    return sample_scans([work], generator, max_attempts, tolerance)[0]


def plan_crops(
    scan: Scan,
    organ_mask: np.ndarray | None,
    plans: Sequence[LesionPlan],
    generator: LesionGenerator,
) -> ScanWork:
    """Cut the crops of the planned lesions of one scan; nothing is sampled yet.

    Args:
        scan: the input, HU.
        organ_mask: lesions are cut to it; None cuts nothing.
        plans: what to make.
        generator: a bundle with ``latent_window``.

    Raises:
        ValueError: if a lesion does not fit the scan, or the bundle does not work in latent space.
    """
    settings, window = generator.latent, generator.window
    if settings is None or window is None:
        raise ValueError(f"bundle must have latent_window, got {generator.record.name}")
    bins = histogram_bins(generator)
    zones = [_zone(scan, plan, settings.margin_mm) for plan in plans]
    lesions = [
        _prepare(scan, organ_mask, plan, zone, window, settings, bins)
        for plan, zone in zip(plans, zones, strict=True)
    ]

    def finish() -> SynthesisResult:
        stored, label = _composite(scan, lesions, zones, settings)
        margin = {"margin_mm": settings.margin_mm}
        records = [
            lesion_record(scan, lesion, generator, list(lesion.grid.size), margin)
            for lesion in lesions
        ]
        return SynthesisResult(stored, label, records)

    return ScanWork(lesions, finish)


def _prepare(
    scan: Scan,
    organ_mask: np.ndarray | None,
    plan: LesionPlan,
    zone: BlendZone,
    window: tuple[float, float],
    settings: LatentSettings,
    bins: int,
) -> PlannedLesion:
    """Cut the crop of a lesion and draw its mask there."""
    starts = [part.start for part in plan.box]
    voxels = apply_affine(scan.affine, np.argwhere(plan.label) + starts)
    grid = crop_grid(voxels.min(0), voxels.max(0), scan, settings)
    mask = lesion_on_grid(grid, plan, organ_mask, scan.affine)
    if not mask.any():
        raise ValueError(f"lesion must cover a voxel of the model's grid, got none at {plan.site}")
    image = cut_window(scan.image, scan.affine, grid)
    job = WindowJob(image, mask, plan.histogram, plan.seed, window, plan.subtype)

    def read(result: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        change = result - np.clip(image, *settings.intensity_range)
        part = paste_window(scan.stored, scan.affine, change, grid, zone.inside, zone.box)
        difference = zone.weight * part
        before = np.asarray(scan.image[zone.box][zone.inside], np.float64)
        return difference, _limited(before, difference, settings)[zone.lesion]

    return PlannedLesion(plan, grid, job, bins, read)


def _zone(scan: Scan, plan: LesionPlan, margin_mm: float) -> BlendZone:
    return BlendZone.around(plan.label, plan.box, scan.affine, scan.nifti.shape, margin_mm)


def _limited(before: np.ndarray, difference: np.ndarray, settings: LatentSettings) -> np.ndarray:
    """Return the sum, kept to the model's range; what lay beyond it may stay there."""
    low, high = settings.intensity_range
    return np.clip(before + difference, np.minimum(before, low), np.maximum(before, high))


def _composite(
    scan: Scan,
    lesions: Sequence[PlannedLesion],
    zones: Sequence[BlendZone],
    settings: LatentSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scan's stored values with all lesions in it, and the label."""
    stored = scan.stored.copy(order="K")
    label = np.zeros(scan.stored.shape, np.uint8)
    for lesion in lesions:
        label[lesion.plan.box][lesion.plan.label] = 1
    places, changes = [], []
    for lesion, zone in zip(lesions, zones, strict=True):
        voxels = np.argwhere(zone.inside) + [part.start for part in zone.box]
        # rings add up where they meet, but another lesion is as its own crop made it
        mine = zone.lesion | (label[tuple(voxels.T)] == 0)
        places.append(np.ravel_multi_index(tuple(voxels[mine].T), label.shape))
        changes.append(lesion.values[mine])
    voxels, inverse = np.unique(np.concatenate(places), return_inverse=True)
    difference = np.bincount(inverse, np.concatenate(changes), len(voxels))
    index = np.unravel_index(voxels, label.shape)
    before = np.asarray(scan.image[index], np.float64)
    stored[index] = scan.stored_values(_limited(before, difference, settings))
    return stored, label
