"""A bundle ready to be measured: network with weights, sampler as configured, presets."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from tools.evaluation.control import SamplingOptions
from tools.histograms import load_presets
from tools.inferers import LesionInpaintInferer

__all__ = ["BundleUnderTest", "load_bundle"]


@dataclass(frozen=True)
class BundleUnderTest:
    """What the measurements need of a bundle.

    Attributes:
        network: with its trained weights, in evaluation mode.
        config: the parsed files.
        inferer_key: id of the window sampler in them.
        window_hu: intensities that -1 and 1 stand for.
        presets: histograms by name, in rising order of their mean intensity.
        weights: file the network was loaded from.
    """

    network: nn.Module
    config: dict[str, Any]
    inferer_key: str
    window_hu: tuple[float, float]
    presets: dict[str, list[float]]
    weights: Path

    def make_inferer(self, options: SamplingOptions) -> LesionInpaintInferer:
        """Return the bundle's sampler with the options in place of its own settings."""
        parser = ConfigParser(deepcopy(self.config))  # the parser writes into what it is given
        # a preset named in the config would condition the runs that are to have no control
        changes: dict[str, Any] = {"num_inference_steps": options.steps, "condition": None}
        for name in ("guidance_scale", "histogram_strength"):
            if getattr(options, name) is not None:
                changes[name] = getattr(options, name)
        if options.amp_dtype is not None:
            changes["amp_dtype"] = None if options.amp_dtype == "float32" else options.amp_dtype
        for name, value in changes.items():
            parser[f"{self.inferer_key}#{name}"] = value
        return parser.get_parsed_content(self.inferer_key)


def load_bundle(
    bundle: str | Path,
    weights: str | Path | None = None,
    files: Sequence[str] = ("inference.json",),
) -> BundleUnderTest:
    """Return a bundle's network, sampler and presets as its configs describe them.

    Args:
        bundle: folder of the bundle.
        weights: state dict of the network, bare or under ``model``; None takes ``models/model.pt``.
        files: configs, later ones override earlier ones; the sampler is ``inferer``, or
            ``validate#inferer`` where there is none.

    Raises:
        FileNotFoundError: if a config or the weights do not exist.
    """
    folder = Path(bundle)
    paths = [folder / "configs" / name for name in files]
    weights = folder / "models" / "model.pt" if weights is None else Path(weights)
    for name, path in (*(("bundle", path) for path in paths), ("weights", weights)):
        if not path.is_file():
            raise FileNotFoundError(f"{name} must lead to an existing file, got {path}")
    parser = ConfigParser(ConfigParser.load_config_files([str(path) for path in paths]))
    parser["bundle_root"] = str(folder)
    network = parser.get_parsed_content("network_def")
    state = torch.load(weights, map_location="cpu", weights_only=True)
    network.load_state_dict(state.get("model", state))
    key = "inferer" if "inferer" in parser else "validate#inferer"
    if "inferer" in parser[key]:  # the volume sampler holds the window sampler
        key = f"{key}#inferer"
    low, high = parser.get_parsed_content("window_hu")
    presets = load_presets(folder / "configs" / "histograms.json")
    histograms = {name: list(entry["histogram"]) for name, entry in presets.items()}
    rising = sorted(histograms, key=lambda name: _mean_bin(histograms[name]))
    return BundleUnderTest(
        network.eval(),
        dict(parser.get()),
        key,
        (float(low), float(high)),
        {name: histograms[name] for name in rising},
        weights,
    )


def _mean_bin(histogram: Sequence[float]) -> float:
    return sum(i * weight for i, weight in enumerate(histogram))
