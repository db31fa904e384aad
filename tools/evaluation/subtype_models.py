"""Models that draw nodules by subtype, and the requests that they are measured with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from tools.evaluation.lesions import window_box
from tools.evaluation.subtype_cases import SubtypeCase, rebin
from tools.synthesis.generator import LesionGenerator, WindowJob
from tools.synthesis.subtypes import SubtypeLibrary

__all__ = ["Drawn", "Request", "SubtypeModel", "library_requests", "load_model", "own_requests"]


class Request(NamedTuple):
    """What is asked of a model for one lesion.

    Attributes:
        histogram: of HU; None: none.
        subtype: its number; -1: none.
    """

    histogram: list[float] | None
    subtype: int


class Drawn(NamedTuple):
    """What a model drew.

    Attributes:
        images: HU, in the order of the cases.
        beyond: voxels changed where the model must not: from its margin of the lesion on.
        seconds: for one lesion, on average.
    """

    images: list[np.ndarray]
    beyond: int
    seconds: float


class SubtypeModel(NamedTuple):
    """A bundle with its weights.

    Attributes:
        name: in the tables.
        generator: samples windows.
        margin_mm: width of the blend round a lesion; 0: the mask only.
        weights_sha256: of its weights.
    """

    name: str
    generator: LesionGenerator
    margin_mm: float
    weights_sha256: str

    def draw(
        self, cases: Sequence[SubtypeCase], requests: Sequence[Request], seed: int, label: str
    ) -> Drawn:
        """Return the cases with their lesions drawn anew, all else as it was.

        Args:
            cases: real lesions.
            requests: one for each.
            seed: of the first; the next ones follow.
            label: in front of the progress bar.
        """
        images, beyond = [], 0
        start = time.perf_counter()
        pairs = list(zip(cases, requests, strict=True))
        for i, (case, request) in enumerate(tqdm(pairs, desc=f"{self.name}: {label}")):
            box = self._box(case)
            job = self._job(case, box, request, seed + i)
            change = self.generator.sample([job])[0] - self._seen(case.image[box])
            # scaling to the model's range and back rounds
            moved = np.abs(change) > 0.01
            image = case.image.copy()
            image[box] = np.where(moved, image[box] + change, image[box])
            images.append(image)
            beyond += self._beyond(case.lesion_mask[box], moved)
        return Drawn(images, beyond, (time.perf_counter() - start) / max(len(pairs), 1))

    def _box(self, case: SubtypeCase) -> tuple[slice, ...]:
        if self.generator.latent is not None:
            return (slice(None),) * 3
        return window_box(case.lesion_mask)

    def _job(
        self, case: SubtypeCase, box: tuple[slice, ...], request: Request, seed: int
    ) -> WindowJob:
        histogram = request.histogram
        if histogram is not None:
            bins = len(next(iter(self.generator.presets.values()))["histogram"])
            histogram = histogram if len(histogram) == bins else rebin(histogram, bins)
        mask = case.lesion_mask[box]
        return WindowJob(case.image[box], mask, histogram, seed, subtype=request.subtype)

    def _seen(self, image: np.ndarray) -> np.ndarray:
        """Return the image as the model's range leaves it."""
        if self.generator.latent is not None:
            return np.clip(image, *self.generator.latent.intensity_range)
        window = self.generator.window
        return image if window is None else np.clip(image, *window)

    def _beyond(self, lesion_mask: np.ndarray, moved: np.ndarray) -> int:
        far = ~lesion_mask
        if self.margin_mm:
            far = ndimage.distance_transform_edt(far) >= self.margin_mm
        return int((moved & far).sum())


def load_model(
    name: str,
    bundle: str,
    weights: str | None = None,
    overlay: str = "",
    steps: int | None = None,
    device: str = "auto",
) -> SubtypeModel:
    """Return a bundle ready to draw, as its ``inference.json`` says.

    Args:
        name: in the tables.
        bundle: folder or name. A folder may also stand in for ``weights``: another model at equal
            masks, with its own weights.
        weights: others than the bundle's.
        overlay: config of the bundle on top of ``inference.json``.
        steps: of the sampler; None: the bundle's. Other bundles keep theirs.
        device: ``auto``, ``cpu``, ``cuda``.
    """
    if weights is not None and Path(weights).is_dir():
        bundle, weights, steps = weights, None, None
    overlays = [overlay] if overlay else []
    changes = {"num_inference_steps": steps}
    generator = LesionGenerator(bundle, device, changes, weights, overlays)
    margin = 0.0
    if generator.latent is not None:
        # the windows are shown as they are: blended here, not in a scan
        margin = generator.inferer.margin_mm = generator.latent.margin_mm
    return SubtypeModel(name, generator, margin, str(generator.record.weights_sha256)[:16])


def own_requests(
    cases: Sequence[SubtypeCase], histogram: bool = True, subtype: bool = True
) -> list[Request]:
    """Return what each real lesion is, all of it or a part."""
    return [
        Request(case.histogram if histogram else None, case.subtype if subtype else -1)
        for case in cases
    ]


def library_requests(
    cases: Sequence[SubtypeCase], library: SubtypeLibrary, name: str, seed: int
) -> list[Request]:
    """Return requests for one subtype, whatever the lesion was, with histograms of training.

    Args:
        cases: lesions that lend their masks.
        library: of the bundle.
        name: of the subtype.
        seed: of the draw.
    """
    subtype = library[name]
    rng = np.random.default_rng([seed, subtype.number])
    return [Request(subtype.draw(case.diameter_mm, rng), subtype.number) for case in cases]
