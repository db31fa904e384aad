"""A bundle as a texture generator: its network, its sampler, its histograms, loaded once."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.bundle import ConfigParser

from tools.histograms import load_presets
from tools.intensity import HuWindow
from tools.synthesis.bundles import (
    choose_device,
    find_bundle,
    load_network,
    read_bundle,
    resolved,
)
from tools.synthesis.latent_settings import LatentSettings
from tools.synthesis.records import BundleRecord, sha256_file
from tools.synthesis.subtypes import SUBTYPES_FILE, read_subtypes

__all__ = [
    "SEED_STEP",
    "LatentSettings",
    "LesionGenerator",
    "SliceSettings",
    "WindowJob",
    "scaled",
    "unscaled",
]

SEED_STEP = 1_000_003  # between attempts at the same lesion


class WindowJob(NamedTuple):
    """One lesion to be synthesised in its window.

    Attributes:
        image: scan in its own units on the model's grid, ``(H, W, D)``.
        lesion_mask: True inside the lesion, same shape; or one such mask per class, stacked.
        histogram: requested histogram, or None for no control.
        seed: of the sampler's noise.
        window: intensities that the model sees as -1 and 1; None: the bundle's.
        subtype: number of the lesion's subtype, of a latent bundle; -1: none.
    """

    image: np.ndarray
    lesion_mask: np.ndarray
    histogram: Sequence[float] | None
    seed: int
    window: tuple[float, float] | None = None
    subtype: int = -1


@dataclass(frozen=True)
class SliceSettings:
    """How a bundle for scans of few thick slices cuts its one window and scales it.

    Args:
        organ: labels of all that is organ, in the organ's label map.
        size: voxels of the window within the slice.
        spacing_mm: voxel size within the slice.
        percentiles: of the window, that become -1 and 1.
        empty_value: intensity that is no signal; None: there is none.
        classes: label of each lesion class.
    """

    organ: tuple[int, ...]
    size: tuple[int, ...]
    spacing_mm: float
    percentiles: tuple[float, float]
    empty_value: float | None
    classes: tuple[int, ...]

    @classmethod
    def from_config(cls, parser: ConfigParser) -> SliceSettings:
        """Return the settings of an ``inference.json`` that has ``slice_window``."""
        window: Mapping[str, Any] = parser.get_parsed_content("slice_window")
        low, high = parser.get_parsed_content("percentiles")
        return cls(
            tuple(window["organ"]),
            tuple(window["size"]),
            float(window["spacing_mm"]),
            (float(low), float(high)),
            parser.get_parsed_content("empty_value"),
            tuple(parser.get_parsed_content("classes")),
        )


class LesionGenerator:
    """Sample lesion textures with a bundle's ``inference.json``.

    A bundle states either ``window_hu``, the intensities that are -1 and 1 in every scan, or
    ``slice_window`` and ``percentiles``, for scans without units and with few thick slices. One
    with ``latent_window`` works in the latent space of an autoencoder: its windows are
    ``intensity_range`` scaled to [0, 1], ``window_hu`` is that of the histograms, its condition
    ends with the subtype. Presets come from ``subtypes.json``, if the bundle has one: histograms of
    training lesions by subtype, drawn near the size wanted; else from ``histograms.json``.

    Args:
        bundle: name or folder.
        device: see :func:`choose_device`.
        overrides: keys of ``displayable_configs`` to change (``num_inference_steps``,
            ``jump_length``, ...); None keeps the bundle's value.
        weights: others than the bundle's; None: its own.
        overlays: configs of the bundle on top of ``inference.json``.

    Raises:
        FileNotFoundError: if the bundle or its weights do not exist.
        ValueError: if the bundle makes no textures.
    """

    def __init__(
        self,
        bundle: str,
        device: str = "auto",
        overrides: dict[str, Any] | None = None,
        weights: str | Path | None = None,
        overlays: Sequence[str] = (),
    ) -> None:
        self.folder = find_bundle(bundle)
        self.device = choose_device(device)
        required = ("window_hu", "slice_window")
        path, parser = read_bundle(bundle, self.device, required, overlays, weights)
        known = parser["displayable_configs"]
        changes = {key: value for key, value in (overrides or {}).items() if value is not None}
        for key, value in {**changes, "texture": "none"}.items():
            if key in known:
                parser[f"displayable_configs#{key}"] = value
        self.settings = {k: v for k, v in (known | changes).items() if k not in ("texture", "seed")}
        if overlays:
            self.settings["overlays"] = list(overlays)
        self.network = load_network(parser, path, self.device)
        self.latent = LatentSettings.from_config(parser)
        # windows are cut by the pipeline, so the window sampler itself is called
        inferer = resolved(parser, "inferer")
        self.inferer = getattr(inferer, "inferer", inferer)
        if self.latent is not None:
            # the scan's own grid is where the pipeline fades the lesion out: once, not twice
            self.inferer.margin_mm = math.inf
            if parser.get("autoencoder_path"):  # as much a part of the result as the network
                autoencoder = parser.get_parsed_content("autoencoder_path")
                self.settings["autoencoder_sha256"] = sha256_file(autoencoder)[:12]
        self.slices: SliceSettings | None = None
        self.window: tuple[float, float] | None = None
        if parser.get("slice_window") is not None:
            self.slices = SliceSettings.from_config(parser)
        else:
            low, high = parser.get_parsed_content("window_hu")
            self.window = (float(low), float(high))
        library = self.folder / "configs" / SUBTYPES_FILE
        self.library = read_subtypes(library) if library.is_file() else None
        if self.library is None:
            self.presets = load_presets(self.folder / "configs" / "histograms.json")
        else:
            self.presets = self.library.presets
        self.record = self._record(path)

    def _record(self, weights: Path) -> BundleRecord:
        metadata = json.loads((self.folder / "configs" / "metadata.json").read_text())
        # the folder of an unpacked bundle is its name
        return BundleRecord(self.folder.resolve().name, metadata["version"], sha256_file(weights))

    def batch_together(self) -> None:
        """Give the network whole batches from now on, as a GPU likes it.

        Rounding then depends on what is sampled beside a lesion, and its voxels with it.
        """
        sampler = self.inferer if self.latent is None else self.inferer.sampler
        sampler.one_by_one = False

    def sample(self, jobs: Sequence[WindowJob]) -> list[np.ndarray]:
        """Return one synthetic window per job, in the scan's units; equal sizes are one batch."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, job in enumerate(jobs):
            groups[job.image.shape].append(i)
        results: list[np.ndarray] = [np.empty(0)] * len(jobs)
        for members in groups.values():
            outputs = self._sample_batch([jobs[i] for i in members])
            for i, output in zip(members, outputs, strict=True):
                results[i] = self._unscaled(output, jobs[i])
        return results

    def _window(self, job: WindowJob) -> tuple[float, float]:
        window = job.window or self.window
        if window is None:
            raise ValueError("a job must state its window where the bundle states none, got None")
        return window

    def _sample_batch(self, jobs: Sequence[WindowJob]) -> np.ndarray:
        bins = len(next(iter(self.presets.values()))["histogram"])
        rows = [[-1.0] * bins if job.histogram is None else list(job.histogram) for job in jobs]
        channels = np.stack([self._channels(job) for job in jobs])
        if self.latent is not None:
            rows = [[*row, job.subtype] for row, job in zip(rows, jobs, strict=True)]
        inputs = torch.as_tensor(channels, dtype=torch.float32, device=self.device)
        condition = torch.tensor(rows, dtype=torch.float32, device=self.device)
        with torch.inference_mode():
            output = self.inferer(inputs, self.network, condition, seeds=[job.seed for job in jobs])
        return output[:, 0].cpu().numpy()  # combined classes are in all channels

    def _unscaled(self, output: np.ndarray, job: WindowJob) -> np.ndarray:
        if self.latent is None:
            return unscaled(output, self._window(job))
        return self.latent.unscaled(output)

    def _channels(self, job: WindowJob) -> np.ndarray:
        """Return the image once for each class, then the masks."""
        masks = job.lesion_mask.reshape(-1, *job.image.shape)
        if self.latent is None:
            image = scaled(job.image, self._window(job))
        else:
            image = self.latent.scaled(job.image)
        return np.concatenate([np.broadcast_to(image, masks.shape), masks])


def scaled(image: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Return intensities clipped to a window and mapped to [-1, 1]."""
    return HuWindow(*window).scaled(image)


def unscaled(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Return values in [-1, 1] in the scan's units."""
    return HuWindow(*window).unscaled(values)
