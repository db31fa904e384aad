"""Real lesions, healed, and drawn anew at their own masks by any method."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from tqdm import tqdm

from tools.files import new_file
from tools.histograms import intensity_histogram
from tools.intensity import HuWindow
from tools.organs.organ import Organ
from tools.scans.crops import Crop
from tools.scans.scan import Scan
from tools.shapes import MaskFileShape, MaskFileWallShape
from tools.studies.judge import pairs
from tools.synthesis.cases import Case
from tools.synthesis.synthesizer import Synthesizer
from tools.synthesis.textures import NO_CONTROL, Textures
from tools.synthesis.view import View
from tools.transforms.healing import heal, heal_wall
from tools.windows import Box

__all__ = ["PERCENT", "Real", "Redraw"]

MARGIN_MM = 12.0  # of the crops that are judged
SMALLEST_MM3 = 14.0
PERCENT = HuWindow(0.0, 100.0)  # of the scale of a scan that has no units

logger = logging.getLogger(__name__)


class Real(NamedTuple):
    """A real lesion, cut out of its scan, and the files it comes from."""

    crop: Crop  # in HU, or where scans have no units in percent of the scan's own scale
    classes: np.ndarray  # masks within the crop, one per class
    box: Box
    scale: HuWindow | None  # intensities that are 0 and 100 %; None: in HU
    image: Path
    label: Path

    def part(self, image: Any) -> np.ndarray:
        """Return the crop of an image of the whole scan, in the units of the crop."""
        values = np.asarray(image[self.box], np.float32)
        if self.scale is None:
            return values
        low, high = self.scale
        return (values - low) * (100 / (high - low))

    def mask_of(self, scan: Scan) -> np.ndarray:
        """Return where this lesion is in its whole scan."""
        mask = np.zeros(scan.shape, bool)
        mask[self.box] = self.crop.mask
        return mask


@dataclass(frozen=True)
class Redraw:
    """How real lesions are read, taken out of their scans and drawn anew.

    Args:
        organ: whose lesions they are.
        view: that gives scans without units their scale.
        margin_mm: of the rim that is healed with the lesion; 0: the lesion alone.
        seed: of all chance; each lesion adds its own name.
    """

    organ: Organ
    view: View
    margin_mm: float
    seed: int

    def read(
        self,
        source: Path,
        section: str | None,
        limit: int | None,
        largest_mm: float | None = None,
    ) -> Iterator[Real]:
        """Yield the lesions of a datalist, evenly over the list if there is a limit.

        Each connected part is a lesion, unless the organ has but one, of several pieces. Lesions of
        more than ``largest_mm`` (sphere of equal volume) are left out.
        """
        found = [
            real
            for name, patient, image, label in tqdm(
                _evenly(list(pairs(source, section)), limit), desc="reading"
            )
            for real in self.reals(name, patient, image, label)
            if largest_mm is None or real.crop.diameter_mm <= largest_mm
        ]
        yield from _evenly(found, limit)

    def reals(self, name: str, patient: str, image: Path, label: Path) -> Iterator[Real]:
        """Yield the lesions of a scan."""
        scan = self._scan(image)
        labels = scan.load_labels(label, "label")
        masks = np.stack([labels == value for value in self.organ.values])
        inside = np.asarray(masks.any(0))
        pieces: np.ndarray
        pieces, number = ndimage.label(inside, np.ones((3, 3, 3)))
        least = SMALLEST_MM3 / float(np.prod(scan.spacing_mm))
        sizes = np.bincount(pieces.ravel(), minlength=number + 1)
        large = [k for k in range(1, number + 1) if sizes[k] >= least]
        if not large:
            logger.warning("%s is left out: it holds no lesion", name)
            return
        if self.organ.most_lesions == 1:
            pieces, large = inside.astype(int), [1]
        scale, boxes = self.view.open(scan, labels).scale, ndimage.find_objects(pieces)
        margin = np.ceil(MARGIN_MM / np.array(scan.spacing_mm)).astype(int)
        for turn, k in enumerate(large, start=1):
            sides = zip(boxes[k - 1], margin, strict=True)
            first, second, third = (slice(max(0, s.start - m), s.stop + m) for s, m in sides)
            box = (first, second, third)
            own = masks[(slice(None), *box)] & np.asarray(pieces[box] == k)
            affine = scan.affine.copy()
            affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
            called = f"{name}_{turn}"
            crop = Crop(called, patient, np.empty(0), own.any(0), scan.spacing_mm, affine)
            real = Real(crop, own, box, scale, image, label)
            yield real._replace(crop=crop._replace(image=real.part(scan.image)))

    def healed(self, real: Real) -> np.ndarray:
        """Return the whole scan without its lesion; others stay."""
        scan = self._scan(real.image)
        image = np.asarray(scan.image, np.float32)
        rng = self._chance(real)
        mask = real.mask_of(scan)
        if not self.organ.wall:
            return heal(image, mask, scan.spacing_mm, rng, self.margin_mm)
        labels = scan.load_labels(real.label, "label")
        wall, cavity = (np.isin(labels, part) for part in (self.organ.wall, self.organ.cavity))
        return heal_wall(image, mask, wall, cavity, scan.affine, rng, self.margin_mm)

    def put_back(self, real: Real) -> Crop:
        """Return the real lesion in healed surroundings."""
        healed = real.part(self.healed(real))
        return real.crop._replace(image=np.where(real.crop.mask, real.crop.image, healed))

    def drawn(
        self, real: Real, job: Synthesizer, target: Path, texture: str | None = None, turn: int = 0
    ) -> Crop:
        """Return a lesion drawn anew, from its file where that was done before.

        Args:
            real: whose mask is filled.
            job: fills it.
            target: ``X_image.nii.gz``, written with ``X_label.nii.gz`` beside it.
            texture: word for what it shall look like; None: like the real one.
            turn: other ones have other chance.
        """
        if not target.is_file():
            source = self._scan(real.image)
            healed = source.stored_values(self.healed(real))
            scan = self._scan(nib.Nifti1Image(healed, source.affine, dtype=healed.dtype))
            textures = _textures(real, job, texture)
            own = replace(job, shapes=self._shape(source, real), textures=textures, count=1)
            case = Case(real.crop.name, real.image, self._organ_mask(source, real))
            plan = own.plan(scan, case, self._chance(real, turn), "error")
            (result,) = own.finish([plan])
            label = target.with_name(target.name.replace("_image.", "_label."))
            with new_file(label) as partial:
                scan.write_label(partial, result.label)
            with new_file(target) as partial:
                scan.write(partial, result.stored)
        return real.crop._replace(image=real.part(Scan(target).image))

    def _scan(self, source: Any) -> Scan:
        return Scan(source, in_hu=self.organ.modality == "CT")

    def _shape(self, scan: Scan, real: Real) -> MaskFileShape | MaskFileWallShape:
        if self.organ.chart == "wall":
            return MaskFileWallShape(real.label, self.organ)
        return MaskFileShape(real.label, (real.mask_of(scan), scan.affine))

    def _organ_mask(self, scan: Scan, real: Real) -> nib.Nifti1Image | None:
        """Return the label map of an organ with parts, the lesion healed; None without parts."""
        if not self.organ.parts:
            return None
        labels = scan.load_labels(real.label, "label")
        labels = np.where(real.mask_of(scan), self.organ.room[0], labels)
        return nib.Nifti1Image(labels.astype(np.uint8), scan.affine)

    def _chance(self, real: Real, turn: int = 0) -> np.random.Generator:
        key = [self.seed, zlib.crc32(real.crop.name.encode()), *([turn] if turn else [])]
        return np.random.default_rng(key)


def _evenly(listed: list[Any], limit: int | None) -> list[Any]:
    """Return at most so many of a list, evenly over it."""
    if limit is None or limit >= len(listed):
        return listed
    return [listed[k] for k in np.linspace(0, len(listed) - 1, limit).round().astype(int)]


def _textures(real: Real, job: Synthesizer, texture: str | None) -> Textures:
    """Return what a word of the bundle asks for; without one the histogram of the lesion itself."""
    before = job.textures
    presets, library = before.presets, before.library
    if presets is NO_CONTROL and hasattr(job.texturer, "network"):  # which can be told nothing
        return before
    if texture is None and real.scale is not None:  # its tissues count too
        texture = f"like:{real.image}:{real.label}"
    elif texture is None:
        row = torch.from_numpy(real.crop.image[real.crop.mask].astype(np.float64))[None]
        assert before.window_hu is not None  # as all bundles of scans in HU have
        low, high = before.window_hu
        bins = intensity_histogram(row, torch.ones_like(row), before.bins, (low, high))[0]
        texture, library = "own", None
        presets = {"own": {"histogram": bins.double().tolist(), "weight": 1.0}}
    return Textures(texture, presets, before.organ, library, before.window_hu, before.view)
