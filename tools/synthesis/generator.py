"""A bundle as a texture generator: its network, its sampler, its histograms, loaded once."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.bundle import ConfigParser

from tools.synthesis.records import BundleRecord, sha256_file
from tools.transforms.histogram import load_presets

__all__ = [
    "SEED_STEP",
    "LesionGenerator",
    "WindowJob",
    "choose_device",
    "find_bundle",
    "load_network",
    "read_bundle",
]

SEED_STEP = 1_000_003  # between attempts at the same lesion


class WindowJob(NamedTuple):
    """One lesion to be synthesised in its window.

    Attributes:
        image: scan in its own units on the model's grid, ``(H, W, D)``.
        lesion_mask: True inside the lesion, same shape.
        histogram: requested histogram, or None for no control.
        seed: of the sampler's noise.
    """

    image: np.ndarray
    lesion_mask: np.ndarray
    histogram: Sequence[float] | None
    seed: int


def choose_device(name: str) -> torch.device:
    """Return the device for ``auto``, ``cpu``, ``cuda``, ``cuda:1``...

    Raises:
        ValueError: if the device is unknown or absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu or cuda[:N], got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device must be present, got {name!r} and no CUDA device")
    return device


def find_bundle(name_or_path: str) -> Path:
    """Return the folder of a bundle: a path, or the name of one that lies beside ``tools``.

    Raises:
        FileNotFoundError: if there is none; the message lists those there are.
    """
    beside = Path(__file__).resolve().parents[2] / "bundles"
    for folder in (Path(name_or_path), beside / name_or_path):
        if (folder / "configs" / "inference.json").is_file():
            return folder
    known = sorted(path.name for path in beside.glob("*") if (path / "configs").is_dir())
    raise FileNotFoundError(
        f"bundle must be a bundle folder or one of {known}, got {name_or_path!r}"
    )


def read_bundle(
    bundle: str, device: torch.device, required: str, overlays: Sequence[str] = ()
) -> tuple[Path, ConfigParser]:
    """Return the weights of a bundle and its ``inference.json``, ready for a device.

    Args:
        bundle: name or folder.
        device: of the network.
        required: key of the config without which the bundle does not fit the purpose.
        overlays: configs of the bundle on top of ``inference.json``.

    Raises:
        FileNotFoundError: if the bundle, a config or its weights do not exist.
        ValueError: if the key is missing.
    """
    folder = find_bundle(bundle)
    parser = ConfigParser()
    files = [folder / "configs" / name for name in ("inference.json", *overlays)]
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"bundle must have {path.name}, got none in {bundle}")
    parser.read_config(files)
    if parser.get(required) is None:
        raise ValueError(f"bundle must have {required} in inference.json, got none in {bundle}")
    parser["bundle_root"], parser["device"] = str(folder), device
    weights = Path(parser.get_parsed_content("ckpt_path"))
    if not weights.is_file():
        raise FileNotFoundError(f"bundle must have trained weights, got none at {weights}")
    return weights, parser


def load_network(parser: ConfigParser, weights: Path, device: torch.device) -> torch.nn.Module:
    """Return the network of a bundle with its weights, for inference."""
    network = parser.get_parsed_content("network").eval()
    state = torch.load(weights, map_location=device, weights_only=True)
    network.load_state_dict(state.get("model", state))
    return network


class LesionGenerator:
    """Sample lesion textures with a bundle's ``inference.json``.

    Args:
        bundle: name or folder.
        device: see :func:`choose_device`.
        overrides: keys of ``displayable_configs`` to change (``num_inference_steps``,
            ``jump_length``, ...); None keeps the bundle's value.

    Raises:
        FileNotFoundError: if the bundle or its weights do not exist.
        ValueError: if the bundle makes no textures.
    """

    def __init__(
        self, bundle: str, device: str = "auto", overrides: dict[str, Any] | None = None
    ) -> None:
        self.folder = find_bundle(bundle)
        self.device = choose_device(device)
        weights, parser = read_bundle(bundle, self.device, "window_hu")
        known = parser["displayable_configs"]
        changes = {key: value for key, value in (overrides or {}).items() if value is not None}
        for key, value in {**changes, "texture": "none"}.items():
            if key in known:
                parser[f"displayable_configs#{key}"] = value
        self.settings = {k: v for k, v in {**known, **changes}.items() if k != "texture"}
        self.network = load_network(parser, weights, self.device)
        # windows are cut by the pipeline, so the window sampler itself is called
        self.inferer = parser.get_parsed_content("inferer").inferer
        low, high = parser.get_parsed_content("window_hu")
        self.window = (float(low), float(high))
        self.presets = load_presets(self.folder / "configs" / "histograms.json")
        self.record = self._record(weights)

    def _record(self, weights: Path) -> BundleRecord:
        metadata = json.loads((self.folder / "configs" / "metadata.json").read_text())
        # the folder of an unpacked bundle is its name
        return BundleRecord(self.folder.resolve().name, metadata["version"], sha256_file(weights))

    def scale(self, image: np.ndarray) -> np.ndarray:
        """Return intensities clipped to the window and mapped to [-1, 1]."""
        low, high = self.window
        return (np.clip(image, low, high) - low) * (2 / (high - low)) - 1

    def unscale(self, values: np.ndarray) -> np.ndarray:
        """Return values in [-1, 1] in the scan's units."""
        low, high = self.window
        return (values + 1) * ((high - low) / 2) + low

    def sample(self, jobs: Sequence[WindowJob]) -> list[np.ndarray]:
        """Return one synthetic window per job, in the scan's units; equal sizes are one batch."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, job in enumerate(jobs):
            groups[job.image.shape].append(i)
        results: list[np.ndarray] = [np.empty(0)] * len(jobs)
        for members in groups.values():
            outputs = self._sample_batch([jobs[i] for i in members])
            for i, output in zip(members, outputs, strict=True):
                results[i] = self.unscale(output)
        return results

    def _sample_batch(self, jobs: Sequence[WindowJob]) -> np.ndarray:
        bins = len(next(iter(self.presets.values()))["histogram"])
        rows = [[-1.0] * bins if job.histogram is None else list(job.histogram) for job in jobs]
        channels = [np.stack([self.scale(job.image), job.lesion_mask]) for job in jobs]
        inputs = torch.as_tensor(np.stack(channels), dtype=torch.float32, device=self.device)
        condition = torch.tensor(rows, dtype=torch.float32, device=self.device)
        with torch.inference_mode():
            output = self.inferer(inputs, self.network, condition, seeds=[job.seed for job in jobs])
        return output[:, 0].cpu().numpy()
