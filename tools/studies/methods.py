"""What a study compares: a bundle asked in several ways, variants of it, and simple methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from tools.histograms import load_presets
from tools.intensity import HuWindow
from tools.studies.cases import Case, lesion_box, other_cases
from tools.synthesis.catalogue import SubtypeLibrary, rim_share
from tools.synthesis.lesion import WindowJob
from tools.synthesis.texturers import load_texturer
from tools.synthesis.view import CropView, CubeView
from tools.transforms.conditions import SUBTYPES


class Request(NamedTuple):
    """What is asked for one case: a histogram per class, ``(K, bins)``, and a subtype; or none."""

    histograms: Tensor | None
    subtype: int = -1


class Run(NamedTuple):
    """What a method made: per case, per sample; and the seconds of each case's samples, each."""

    images: list[list[Any]]
    seconds: list[float]

    @property
    def first(self) -> list[Any]:
        """The first sample of each case."""
        return [samples[0] for samples in self.images]


class Drawn(Protocol):
    """What measures and figures see of a study: cases, methods, and what these made of them."""

    cases: list[Case]
    methods: dict[str, Method]
    runs: dict[str, Run]
    classes: list[str]
    config: dict[str, Any]
    seed: int
    device: str

    def training_cases(self) -> list[Case]:
        """Return all cases of the training section."""


@dataclass
class Method(ABC):
    """A way to make something for each case: an image, a mask, a reconstruction.

    A variant repeats the method ``base`` with another ``model``; ``facts`` go into the results. Of
    a texture, ``asked`` is what was asked of each case, and ``targets`` are histograms by name that
    the result is compared with, one per case (None: none); from ``margin_mm`` off the lesion on
    nothing may change.
    """

    name: str
    base: str = ""
    model: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    asked: Sequence[Request] = ()
    targets: Mapping[str, Sequence[Tensor | None]] = field(default_factory=dict)
    margin_mm: float = 0.0

    @abstractmethod
    def generate(self, cases: Sequence[Case], seed: int) -> Iterator[Any]:
        """Yield what is made for each case, case i with the seed ``seed + i``."""


@dataclass
class MeanFill(Method):
    """Each lesion class filled with its own mean: the floor, without texture."""

    def generate(self, cases: Sequence[Case], seed: int) -> Iterator[np.ndarray]:
        """Yield the filled images."""
        for case in cases:
            image = case.shown.copy()
            for inside in case.masks:
                if inside.any():
                    image[inside] = case.image[inside].mean()
            yield image


class TextureModel:
    """A bundle with its weights, ready to draw lesions at the masks of real ones.

    ``weights`` may also be the folder of another bundle, with its own weights and steps;
    ``overlays`` are configs of the bundle on top of ``inference.json``.
    """

    def __init__(
        self,
        bundle: str,
        device: str = "auto",
        steps: int | None = None,
        weights: str | None = None,
        overlays: Sequence[str] = (),
    ) -> None:
        if weights is not None and Path(weights).is_dir():
            bundle, weights, steps = weights, None, None
        changes = {"num_inference_steps": steps}
        self.texturer = load_texturer(bundle, device, changes, weights, overlays)
        self.view, self.values = self.texturer.view, self.texturer.bins
        self.margin_mm = self.view.margin_mm
        if self.margin_mm:
            # the windows are shown as they are: blended here, not in a scan
            self.texturer.inferer.margin_mm = self.margin_mm
        sizes = [getattr(part, "condition_size", 1) for part in self.texturer.network.modules()]
        self.controlled = None not in sizes

    @property
    def facts(self) -> dict[str, Any]:
        """What the results say of the model."""
        sha256 = str(self.texturer.record.weights_sha256)[:16]
        return {"weights_sha256": sha256, "margin_mm": self.margin_mm, **self.texturer.settings}

    def draw(self, case: Case, request: Request, seed: int) -> np.ndarray:
        """Return the image of a case with its lesions drawn anew, all else as it was."""
        box: tuple[slice, ...] = (slice(None),) * 3
        if isinstance(self.view, CubeView):
            box = lesion_box(case.lesion)
        histogram, before = None, case.shown[box]
        if request.histograms is not None and self.controlled:
            bins = self.values // len(request.histograms)
            rows = [row.tolist() for row in request.histograms]
            rows = [row if len(row) == bins else rebin(row, bins) for row in rows]
            histogram = [value for row in rows for value in row]
        masks = case.masks[(slice(None), *box)]
        job = WindowJob(before, masks, histogram, seed, case.value_range, request.subtype)
        change = self.texturer.sample([job])[0] - self._seen(before, case)
        image = case.shown.copy()
        image[box] = np.where(change != 0, before + change, before)
        return image

    def _seen(self, image: np.ndarray, case: Case) -> np.ndarray:
        """Return the image as the model's range and precision leave it."""
        scale = self.view.range if isinstance(self.view, CropView) else HuWindow(*case.value_range)
        return scale.unscaled(scale.scaled(image).astype(np.float32))


@dataclass
class TextureMethod(Method):
    """A model asked for something in each case."""

    texture: TextureModel | None = None

    def generate(self, cases: Sequence[Case], seed: int) -> Iterator[np.ndarray]:
        """Yield the images."""
        assert self.texture is not None
        for i, (case, request) in enumerate(zip(cases, self.asked, strict=True)):
            # one by one: no result may hang on what else was in a batch
            yield self.texture.draw(case, request, seed + i)


def rebin(histogram: Sequence[float], bins: int) -> list[float]:
    """Return a histogram over the same window with another number of bins.

    Within a bin the weight is taken to be spread evenly.

    Example:
        >>> rebin([0.0, 0.5, 0.5], 2)
        [0.25, 0.75]
    """
    total = np.concatenate([[0.0], np.cumsum(np.asarray(histogram, float))])
    edges = np.linspace(0, 1, len(total))
    return np.diff(np.interp(np.linspace(0, 1, bins + 1), edges, total)).tolist()


def requests(
    cases: Sequence[Case],
    model: TextureModel,
    histogram: str | None,
    subtype: str | None,
    presets: Path,
    seed: int,
) -> tuple[list[Tensor | None], list[Request]]:
    """Return which histograms a method of the study stands for, and what is asked of the model.

    ``histogram`` is ``own``, ``other`` (another case's), ``library`` (a training lesion's of the
    subtype, near in size, of the library of ``model``), the name of one of the ``presets``, or
    None. ``subtype`` is ``own``, a subtype's name, or None.
    """
    own: list[Tensor] = [case.histograms for case in cases]
    numbers = [SUBTYPES.index(case.group) if case.group in SUBTYPES else -1 for case in cases]
    if subtype != "own":
        numbers = [-1 if subtype is None else SUBTYPES.index(subtype)] * len(cases)
    if histogram is None:
        return list(own), [Request(None, number) for number in numbers]
    wanted, targets = own, list[Tensor | None](own)
    if histogram == "other":
        order = other_cases(cases, seed)
        wanted = [own[j] for j in order]
        # a case that is alone with its classes has no other to take a request from
        targets = [own[j] if j != i else None for i, j in enumerate(order)]
    elif histogram != "own":
        if histogram == "library":
            library = (model.texturer.library or SubtypeLibrary())[str(subtype)]
            rng = np.random.default_rng([seed, library.number])
            rows = [
                library.draw(case.facts["diameter_mm"], rng, rim_share(case.lesion, case.affine))
                for case in cases
            ]
        else:
            found = load_presets(presets)
            if histogram not in found:
                raise ValueError(f"histogram must be in {presets}, got {histogram!r}")
            rows = [list(found[histogram]["histogram"])] * len(cases)
        wanted = [torch.tensor(row, dtype=torch.float32).view(len(own[0]), -1) for row in rows]
        targets = list(wanted)
    return targets, [Request(rows, n) for rows, n in zip(wanted, numbers, strict=True)]


class Variant(NamedTuple):
    """A network to compare with: an overlay of the bundle ("": none) and its weights."""

    name: str
    overlay: str
    weights: str


def parse_variants(text: str | Sequence[str]) -> list[Variant]:
    """Return the variants of a list ``NAME:OVERLAY:WEIGHTS``, separated by commas.

    Example:
        >>> parse_variants("J:joint.json:j.pt")
        [Variant(name='J', overlay='joint.json', weights='j.pt')]
    """
    entries = text.split(",") if isinstance(text, str) else list(text)
    found = []
    for entry in filter(None, (str(entry).strip() for entry in entries)):
        parts = entry.split(":", 2)
        if len(parts) != 3 or not (parts[0] and parts[2]):
            raise ValueError(f"variants must be a list of NAME:OVERLAY:WEIGHTS, got {entry!r}")
        found.append(Variant(*parts))
    if len({variant.name for variant in found}) < len(found):
        raise ValueError(f"variants must have different names, got {text!r}")
    return found
