"""One lesion on its way from the wish to the voxels: placed, shaped, sampled, pasted, recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from nibabel.affines import apply_affine

from tools.histograms import intensity_histogram, jensen_shannon_divergence
from tools.intensity import HuWindow
from tools.organs.organ import Organ
from tools.scans.changed import Changed
from tools.synthesis.records import LesionRecord
from tools.synthesis.textures import Texture
from tools.synthesis.view import Canvas, CropView, LesionWindow, UnitWindow, View
from tools.windows import BlendZone, Box, compose_rim, extended, grown, paste_window

Limits = HuWindow | UnitWindow

__all__ = ["Lesion", "SynthesisResult", "WindowJob", "composite", "instance_map"]


class WindowJob(NamedTuple):
    """A window that a model is asked to fill.

    Attributes:
        image: scan in its own units on the model's grid, ``(H, W, D)``.
        lesion_mask: True inside the lesion, same shape; or one such mask per class, stacked.
        histogram: requested histogram, or None for no control.
        seed: of the sampler's noise.
        window: intensities that the model sees as -1 and 1; None: the bundle's.
        subtype: number of the lesion's subtype; -1: none.
        labels: label map of an organ with parts on the window's grid, without the lesion.
        affine: of that grid.
    """

    image: np.ndarray
    lesion_mask: np.ndarray
    histogram: Sequence[float] | None
    seed: int
    window: Sequence[float] | None = None
    subtype: int = -1
    labels: np.ndarray | None = None
    affine: np.ndarray | None = None


class SynthesisResult(NamedTuple):
    """A scan with lesions.

    Attributes:
        changed: the scan's stored values, changed inside the label (or its margin) only.
        label: uint8, 0 background, the values of the organ's parts and lesion classes.
        records: one per lesion class, in the order of the lesions.
    """

    changed: Changed
    label: np.ndarray
    records: list[LesionRecord]

    @property
    def stored(self) -> np.ndarray:
        """The scan's stored values with the lesions in them, a copy as large as the scan."""
        return np.asarray(self.changed)


@dataclass
class Lesion:
    """One lesion of one or several classes.

    Args:
        canvas: on which it lies.
        organ: its table.
        number: of the lesion in its scan, from 1.
        point_mm: its site, RAS mm; None where its shape decides.
        diameter_mm: asked for; None where a mask decides.
        source: of its shape.
        masks: True inside each class, ``(K, i, j, k)``, within ``box``.
        box: where ``masks`` lie on the canvas.
        texture: what it shall look like.
        window: what the model sees of it.
        view: that cut the window.
        seed: of the sampler, of the next attempt.
        values: of the best attempt: by class, or of a margin the change at each voxel of ``zone``.
        achieved: bins of its histograms, by class.
        divergences: from the ones requested.
        jsd: mean of the divergences, infinite before any attempt.
        best_seed: that made it.
        attempts: samples so far.
        seconds: they took.
        host_reaction: what the tissue round it did, for the record; None: nothing.
    """

    canvas: Canvas
    organ: Organ
    number: int
    point_mm: tuple[float, ...] | None
    diameter_mm: float | None
    source: str
    masks: np.ndarray
    box: Box
    texture: Texture
    window: LesionWindow
    view: View
    seed: int
    values: list[np.ndarray] = field(default_factory=list)
    achieved: list[list[float]] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)
    jsd: float = float("inf")
    best_seed: int = 0
    attempts: int = 0
    seconds: float = 0.0
    host_reaction: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.present = [k for k, mask in enumerate(self.masks) if mask.any()]
        self.zone: BlendZone | None = None
        self.blend_sigma_mm: float | None = None
        softening = getattr(self.view, "blend_sigma_mm", None)
        if softening is not None:
            self.blend_sigma_mm = float(np.random.default_rng(self.seed).uniform(*softening))
        if self.view.margin_mm:
            place = (self.box, self.canvas.affine, self.canvas.shape, self.view.margin_mm)
            how = (self.view.fades, self.blend_sigma_mm)
            self.zone = BlendZone.around(np.asarray(self.masks.any(0)), *place, *how)

    @property
    def job(self) -> WindowJob:
        """What a model is asked for."""
        window, texture = self.window, self.texture
        scale = (window.scale.low, window.scale.high)
        return WindowJob(
            window.image,
            window.masks,
            texture.histogram,
            self.seed,
            scale,
            texture.subtype,
            window.labels,
            window.grid.affine,
        )

    def requested(self, k: int) -> list[float] | None:
        """Return the bins asked for of a class, None for no control."""
        if self.texture.histogram is None:
            return None
        return np.reshape(self.texture.histogram, (len(self.masks), -1))[k].tolist()

    def offer(self, result: np.ndarray | None, bins: int) -> None:
        """Keep what a window became if its histograms are the best so far.

        They are measured on the scan's own grid.

        Args:
            result: sampled window, in the scan's units; None: the scan stays as it is.
            bins: of the histogram of a class.
        """
        values, inside = self._read(result)
        achieved, divergences = self._histograms(inside, bins)
        jsd = float(np.mean(divergences))
        if jsd < self.jsd:
            self.values, self.achieved, self.divergences = values, achieved, divergences
            self.jsd, self.best_seed = jsd, self.seed

    def measure(self, target: Changed) -> None:
        """Measure the histograms once more, in what the scan can store.

        Args:
            target: stored values with all lesions, in the axes of the scan.
        """
        part = self.canvas.turned(target[self.canvas.box_of_scan(self.box)])
        inside = [self.canvas.scan.values_of(part[self.masks[k]]) for k in self.present]
        self.achieved, self.divergences = self._histograms(inside, len(self.achieved[0]))

    def _histograms(
        self, inside: Sequence[np.ndarray], bins: int
    ) -> tuple[list[list[float]], list[float]]:
        """Return the bins of each class and how far they are from those asked for."""
        achieved, divergences = [], []
        for k, part in zip(self.present, inside, strict=True):
            row = torch.as_tensor(self.window.scale.scaled(part))[None]
            found = intensity_histogram(row, torch.ones_like(row), bins)[0]
            wanted, jsd = self.requested(k), 0.0
            if wanted is not None:
                jsd = jensen_shannon_divergence(found, torch.tensor(wanted)).item()
            achieved.append(found.tolist())
            divergences.append(jsd)
        return achieved, divergences

    def _read(self, result: np.ndarray | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return what is kept of a window, and the values inside each class."""
        canvas, grid = self.canvas, self.window.grid
        if result is None:
            image = canvas.turned(canvas.scan.image)[self.box]
            values = [image[self.masks[k]] for k in self.present]
            return values, values
        like = canvas.turned(canvas.scan.stored)
        if self.zone is None:
            values = []
            for k in self.present:
                own = extended(result, self.window.masks[k] > 0)
                values.append(paste_window(like, canvas.affine, own, grid, self.masks[k], self.box))
            return values, values
        zone, limits, image = self.zone, self._limits(), canvas.turned(canvas.scan.image)
        shown = np.clip(self.window.image, limits.low, limits.high)
        before = np.asarray(image[zone.box][zone.inside], np.float64)
        if self.view.fades:
            change = paste_window(like, canvas.affine, result - shown, grid, zone.inside, zone.box)
            difference = zone.weight * change
        else:
            ends = (limits.low, limits.high)
            grain = self.view.grain
            drawn = compose_rim(image, canvas.affine, shown, result, grid, zone, ends, grain)
            difference = drawn - before
        after = _limited(before, difference, limits)
        masks, _ = grown(self.masks, self.box, canvas.shape, canvas.affine, self.view.margin_mm)
        return [difference], [after[masks[k][zone.inside]] for k in self.present]

    def _limits(self) -> Limits:
        return self.view.range if isinstance(self.view, CropView) else self.window.scale

    def records(self, settings: Mapping[str, Any]) -> list[LesionRecord]:
        """Return one record per class that the lesion has.

        Args:
            settings: of the sampler.
        """
        scale = self.window.scale
        sampler = {
            **settings,
            "window_voxels": list(self.window.grid.size),
            "intensity_range": [round(float(scale.low), 3), round(float(scale.high), 3)],
            "margin_mm": self.view.margin_mm,
        }
        if self.blend_sigma_mm is not None:
            sampler["blend_sigma_mm"] = round(self.blend_sigma_mm, 3)
        if self.texture.solid_share is not None:
            sampler["solid_share"] = round(self.texture.solid_share, 3)
        if self.host_reaction is not None:
            sampler["host_reaction"] = dict(self.host_reaction)
        return [
            self._record(n, k, {**sampler, "lesion": self.number})
            for n, k in enumerate(self.present)
        ]

    def _record(self, n: int, k: int, sampler: dict[str, Any]) -> LesionRecord:
        each, affine = self.organ.classes[k], self.canvas.affine
        mask = self.masks[k]
        volume = float(mask.sum() * abs(np.linalg.det(affine[:3, :3])))
        whole = mask.copy()
        for other, part in zip(self.organ.classes, self.masks, strict=True):
            if other.inside == each.name:
                whole |= part
        return LesionRecord(
            label=each.value,
            class_name=each.name,
            site_mm=[round(float(v), 3) for v in self._site(mask)],
            diameter_mm=round(self.organ.measure_mm(whole, affine), 3),
            diameter_kind=self.organ.diameter_kind,
            volume_mm3=round(volume, 3),
            texture=self.texture.name,
            shape_source=self.source,
            seed=self.best_seed,
            diameter_requested_mm=(
                None if each.inside or self.diameter_mm is None else round(self.diameter_mm, 3)
            ),
            histogram_requested=self.requested(k),
            histogram_achieved=self.achieved[n],
            histogram_jsd=None if self.texture.histogram is None else self.divergences[n],
            sampler=sampler,
            attempts=self.attempts,
            seconds=round(self.seconds / len(self.present), 3),
        )

    def _site(self, mask: np.ndarray) -> Sequence[float]:
        """Return the site; where the shape decided, the voxel nearest to the middle of the class.

        A lesion of a wall bends round: its own middle can lie outside of it.
        """
        if self.organ.chart == "box" and self.point_mm is not None:
            return self.point_mm
        voxels = np.argwhere(mask) + [part.start for part in self.box]
        nearest = voxels[np.linalg.norm(voxels - voxels.mean(0), axis=1).argmin()]
        return apply_affine(self.canvas.affine, nearest).tolist()


def composite(
    canvas: Canvas, lesions: Sequence[Lesion], settings: Mapping[str, Any]
) -> SynthesisResult:
    """Put the best attempts into the scan; every voxel outside label and margin stays as it is.

    Args:
        canvas: on which the lesions lie.
        lesions: sampled.
        settings: of the sampler, for the records.
    """
    scan = canvas.scan
    label = np.zeros(canvas.shape, np.uint8, order="F")
    if canvas.labels is not None:
        label = canvas.labels.astype(np.uint8)
    for lesion in lesions:
        for k in lesion.present:
            # indexing the box first keeps the cost at the lesion's size
            label[lesion.box][lesion.masks[k]] = lesion.organ.values[k]
    pasted = [_pasted(each) for each in lesions if each.zone is None]
    blended = _blended(canvas, label, [each for each in lesions if each.zone is not None])
    places, values = (np.concatenate(part) for part in zip(*pasted, blended, strict=True))
    # of lesions that meet the last one counts
    flat = np.ravel_multi_index(tuple(places.T), label.shape)
    _, last = np.unique(flat[::-1], return_index=True)
    places, values = places[::-1][last], values[::-1][last]
    index = places[:, np.argsort(canvas.order)]
    changed = Changed(scan.stored, index, scan.storable(scan.stored_values(values), index))
    for lesion in lesions:
        lesion.measure(changed)
    records = [record for lesion in lesions for record in lesion.records(settings)]
    return SynthesisResult(changed, canvas.back(label), records)


def instance_map(canvas: Canvas, lesions: Sequence[Lesion]) -> np.ndarray:
    """Return which lesion a voxel belongs to: its number, whatever the class; 0 for none.

    Where lesions meet, the last one counts, as in the label. uint16, on the scan's grid.
    """
    found = np.zeros(canvas.shape, np.uint16, order="F")
    for lesion in lesions:
        found[lesion.box][np.asarray(lesion.masks.any(0))] = lesion.number
    return canvas.back(found)


def _pasted(lesion: Lesion) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels ``(n, 3)`` of a lesion without a margin, and their values."""
    start = [part.start for part in lesion.box]
    voxels = [np.argwhere(lesion.masks[k]) + start for k in lesion.present]
    return np.concatenate(voxels), np.concatenate(lesion.values).astype(np.float64)


def _blended(
    canvas: Canvas, label: np.ndarray, lesions: Sequence[Lesion]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels that lesions with a margin change, and their values."""
    if not lesions:
        return np.zeros((0, 3), int), np.zeros(0)
    places, changes = [], []
    for lesion in lesions:
        zone = lesion.zone
        assert zone is not None
        voxels = np.argwhere(zone.inside) + [part.start for part in zone.box]
        # rings add up where they meet, but another lesion is as its own window made it
        mine = zone.lesion | ~np.isin(label[tuple(voxels.T)], lesion.organ.values)
        places.append(np.ravel_multi_index(tuple(voxels[mine].T), label.shape))
        changes.append(lesion.values[0][mine])
    found, inverse = np.unique(np.concatenate(places), return_inverse=True)
    difference = np.bincount(inverse, np.concatenate(changes), len(found))
    index = np.unravel_index(found, label.shape)
    before = np.asarray(canvas.turned(canvas.scan.image)[index], np.float64)
    return np.stack(index, 1), _limited(before, difference, lesions[0]._limits())


def _limited(
    before: np.ndarray, difference: np.ndarray, limits: HuWindow | UnitWindow
) -> np.ndarray:
    """Return the sum, kept to the model's range; what lay beyond it may stay there."""
    low, high = limits.low, limits.high
    return np.clip(before + difference, np.minimum(before, low), np.maximum(before, high))
