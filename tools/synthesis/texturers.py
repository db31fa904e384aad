"""What fills lesions: a diffusion bundle; the one place where lesions are sampled."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from torch import nn

from tools import __version__
from tools.bundle import Bundle, bundle_record, choose_device, load_weights, sha256_file
from tools.intensity import HuWindow
from tools.synthesis.catalogue import SubtypeLibrary
from tools.synthesis.core import place_core
from tools.synthesis.lesion import Lesion, WindowJob
from tools.synthesis.records import BundleRecord
from tools.synthesis.textures import NO_CONTROL, Presets, read_presets
from tools.synthesis.view import CropView, UnitWindow, View

__all__ = [
    "SEED_STEP",
    "TOLERANCE",
    "DiffusionTexturer",
    "NoTexture",
    "PlainTexturer",
    "Texturer",
    "load_texturer",
    "sample",
]

SEED_STEP = 1_000_003  # between attempts at the same lesion
TOLERANCE = 0.04  # largest accepted Jensen-Shannon divergence, in nats


class Texturer(Protocol):
    """Anything that fills lesions with texture.

    Attributes:
        view: how it sees scans.
        presets: histograms by name.
        library: that presets are drawn from; None: there is none.
        settings: of the sampler, for the records.
        record: of the bundle, or the method.
        device: it works on.
        cores: whether solid cores are put in place afterwards; else histograms are as they come.
    """

    view: View
    presets: Presets
    library: SubtypeLibrary | None
    settings: dict[str, Any]
    record: BundleRecord
    device: torch.device
    cores: bool

    def sample(self, jobs: Sequence[WindowJob]) -> Sequence[np.ndarray | None]:
        """Return one filled window per job, in the scan's units; None: leave the scan as it is."""
        ...

    def batch_together(self) -> None:
        """Work on whole batches from now on; what a seed gives then depends on its company."""
        ...


class DiffusionTexturer:
    """Sample lesion textures with the network and sampler of a bundle.

    Args:
        root: folder of the bundle.
        network: of the bundle; gets its weights here.
        weights: file with them.
        inferer: sampler of windows, or one that cuts windows itself, whose sampler is taken.
        view: how the model sees scans.
        settings: of the sampler, for the records.
        device: of the network.
        autoencoder_path: weights of an autoencoder, as much a part of the result as the network.

    Raises:
        FileNotFoundError: if there are no weights.
        ValueError: if they are not those of the network.
    """

    cores = True

    def __init__(
        self,
        root: str | Path,
        network: nn.Module,
        weights: str | Path,
        inferer: Any,
        view: View,
        settings: Mapping[str, Any],
        device: str | torch.device = "cpu",
        autoencoder_path: str | Path | None = None,
    ) -> None:
        self.folder, self.device, self.view = Path(root), choose_device(device), view
        self.network = load_weights(network, weights, self.device)
        self.settings = {k: v for k, v in settings.items() if k not in ("texture", "seed")}
        # windows are cut by the view, so the window sampler itself is called
        self.inferer = getattr(inferer, "inferer", inferer)
        if isinstance(view, CropView):
            # the scan's own grid is where the lesion fades out: once, not twice
            self.inferer.margin_mm = math.inf
        if autoencoder_path:
            self.settings["autoencoder_sha256"] = sha256_file(autoencoder_path)[:12]
        self.presets, self.library = read_presets(self.folder / "configs")
        self.record = BundleRecord(**bundle_record(self.folder, weights))

    @property
    def bins(self) -> int:
        """Of the histograms of all classes together."""
        return len(next(iter(self.presets.values()))["histogram"])

    def batch_together(self) -> None:
        """Give the network whole batches from now on, as a GPU likes it.

        Rounding then depends on what is sampled beside a lesion, and its voxels with it.
        """
        sampler = self.inferer.sampler if isinstance(self.view, CropView) else self.inferer
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
                results[i] = self._scale(jobs[i]).unscaled(output)
        return results

    def _scale(self, job: WindowJob) -> HuWindow | UnitWindow:
        if isinstance(self.view, CropView):
            return self.view.range
        if job.window is not None:
            return HuWindow(*job.window)
        scale = getattr(self.view, "scale", None)
        if scale is None:
            raise ValueError("a job must state its window where the bundle states none, got None")
        return scale

    def _sample_batch(self, jobs: Sequence[WindowJob]) -> np.ndarray:
        if self.presets is NO_CONTROL and any(job.histogram is not None for job in jobs):
            raise ValueError("texture must be none for a network that takes no histogram, got one")
        rows = [
            [-1.0] * self.bins if job.histogram is None else list(job.histogram) for job in jobs
        ]
        if isinstance(self.view, CropView):
            rows = [[*row, job.subtype] for row, job in zip(rows, jobs, strict=True)]
        channels = np.stack([self._channels(job) for job in jobs])
        inputs = torch.as_tensor(channels, dtype=torch.float32, device=self.device)
        condition = None
        if self.presets is not NO_CONTROL:
            condition = torch.tensor(rows, dtype=torch.float32, device=self.device)
        with torch.inference_mode():
            output = self.inferer(inputs, self.network, condition, seeds=[job.seed for job in jobs])
        return output[:, 0].cpu().numpy()  # combined classes are in all channels

    def _channels(self, job: WindowJob) -> np.ndarray:
        """Return the image once for each class, then the masks."""
        masks = job.lesion_mask.reshape(-1, *job.image.shape)
        image = self._scale(job).scaled(job.image)
        return np.concatenate([np.broadcast_to(image, masks.shape), masks])


class PlainTexturer(ABC):
    """A method without a network: fills each window by itself.

    Args:
        name: of the method.
        root: folder of the bundle whose presets and bins are used.
        view: how it sees scans.
        settings: for the records.
    """

    cores = False

    def __init__(self, name: str, root: str | Path, view: View, settings: dict[str, Any]) -> None:
        self.view, self.device = view, torch.device("cpu")
        self.presets, self.library = read_presets(Path(root) / "configs")
        self.record = BundleRecord(name, __version__)
        self.settings = {"method": name, **settings}

    def sample(self, jobs: Sequence[WindowJob]) -> list[np.ndarray]:
        """Return each window with its lesion filled."""
        return [self._fill(job) for job in jobs]

    @abstractmethod
    def _fill(self, job: WindowJob) -> np.ndarray:
        """Return one window, in the scan's units."""

    def batch_together(self) -> None:  # noqa: B027  # to be kept by all who inherit it
        """Do nothing: there is no network."""


class NoTexture:
    """Leaves scans as they are: only labels are made, of a bundle that draws shapes.

    Args:
        root: folder of the bundle.
        weights: of the shapes, for the record.
        view: window of the histograms that are recorded.
    """

    cores = False

    def __init__(self, root: str | Path, weights: str | Path, view: View) -> None:
        self.view, self.device = view, torch.device("cpu")
        self.record = BundleRecord(**bundle_record(root, weights))
        self.presets = NO_CONTROL
        self.library, self.settings = None, dict[str, Any]()

    def sample(self, jobs: Sequence[WindowJob]) -> list[None]:
        """Return nothing for each job."""
        return [None for _ in jobs]

    def batch_together(self) -> None:
        """Do nothing: there is no network."""


def sample(
    lesions: Iterable[Lesion],
    texturer: Texturer,
    max_attempts: int = 3,
    tolerance: float = TOLERANCE,
) -> None:
    """Sample lesions of any number of scans together, again those that miss their histogram.

    What becomes of a lesion depends on its own seed, not on what is sampled beside it.

    Args:
        lesions: changed in place: the best attempt is kept.
        texturer: fills them.
        max_attempts: at least 1.
        tolerance: largest accepted Jensen-Shannon divergence, in nats.

    Raises:
        ValueError: if ``max_attempts`` is below 1.
    """
    if max_attempts < 1:
        raise ValueError(f"attempts must be at least 1, got {max_attempts}")
    pending = list(lesions)
    bins = len(next(iter(texturer.presets.values()))["histogram"])
    for attempt in range(max_attempts):
        if not pending:
            return
        start = time.perf_counter()
        for lesion in pending:
            lesion.seed += SEED_STEP if attempt else 0
        windows = texturer.sample([lesion.job for lesion in pending])
        seconds = (time.perf_counter() - start) / len(pending)
        for lesion, window in zip(pending, windows, strict=True):
            lesion.attempts += 1
            lesion.seconds += seconds
            made = _cored(lesion, window) if texturer.cores else window
            lesion.offer(made, bins // len(lesion.masks))
        pending = [lesion for lesion in pending if lesion.jsd > tolerance]


def _cored(lesion: Lesion, window: np.ndarray | None) -> np.ndarray | None:
    """Return a window with the core of its lesion in place, if it shall have one."""
    share, scale, grid = lesion.texture.solid_share, lesion.window.scale, lesion.window.grid
    if window is None or share is None or lesion.texture.histogram is None:
        return window
    whole = np.asarray(lesion.window.masks.any(0))
    asked, spacing = np.asarray(lesion.texture.histogram), float(voxel_sizes(grid.affine).min())
    values = place_core(scale.scaled(window), whole, asked, share, lesion.seed, spacing)
    return np.where(whole, scale.unscaled(values), window)


def load_texturer(
    bundle: str | Path,
    device: str | torch.device = "auto",
    overrides: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    overlays: Sequence[str] = (),
) -> DiffusionTexturer:
    """Return the texturer of a bundle, as its ``synthesize.json`` builds it.

    Args:
        bundle: name or folder.
        device: see :func:`tools.bundle.choose_device`.
        overrides: keys of ``displayable_configs`` to change (``num_inference_steps``,
            ``jump_length``, ...); None keeps the bundle's value.
        weights: others than the bundle's; None: its own.
        overlays: configs of the bundle on top of its own.

    Raises:
        FileNotFoundError: if the bundle or its weights do not exist.
        ValueError: if the bundle makes no textures.
    """
    changes = {f"displayable_configs#{k}": v for k, v in (overrides or {}).items() if v is not None}
    opened = Bundle(bundle, device, overlays, weights, ("texturer",), changes)
    opened.parser["displayable_configs#texture"] = "none"
    return opened.get("texturer")
