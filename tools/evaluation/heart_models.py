"""Networks of a heart bundle and its variants, and the one sampler that serves them all."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser
from torch import nn

from tools.evaluation.heart_cases import HeartWindow
from tools.inferers import LesionInpaintInferer

__all__ = [
    "HeartBundle",
    "HeartModel",
    "Variant",
    "load_heart_bundle",
    "load_heart_model",
    "parse_variants",
]

DEFAULT_WEIGHTS = Path("models") / "model.pt"


class Variant(NamedTuple):
    """A network to compare with: ``train.json`` with an overlay, and its weights.

    Attributes:
        name: in the tables.
        overlay: file in the bundle's ``configs``; "" for none.
        weights: path of the file.
    """

    name: str
    overlay: str
    weights: str


class HeartModel(NamedTuple):
    """A network with its weights.

    Attributes:
        name: in the tables.
        network: in evaluation mode.
        controlled: whether it takes histograms.
        weights: the file.
    """

    name: str
    network: nn.Module
    controlled: bool
    weights: Path


@dataclass(frozen=True)
class HeartBundle:
    """What all variants of a bundle share.

    Attributes:
        folder: of the bundle.
        window: how hearts are cut and scaled.
        config: the parsed file that holds the sampler.
        inferer_key: id of the sampler in it.
    """

    folder: Path
    window: HeartWindow
    config: dict[str, Any]
    inferer_key: str

    def make_inferer(
        self, steps: int | None = None, combine: str | None = None
    ) -> LesionInpaintInferer:
        """Return the sampler; without a preset, which would condition runs without control.

        Args:
            steps: timesteps of the chain; None leaves it to the bundle.
            combine: ``"step"`` or ``"end"``; None leaves it to the bundle.
        """
        parser = ConfigParser(deepcopy(self.config))  # the parser writes into what it is given
        parser[f"{self.inferer_key}#condition"] = None
        for name, value in (("num_inference_steps", steps), ("combine", combine)):
            if value is not None:
                parser[f"{self.inferer_key}#{name}"] = value
        return parser.get_parsed_content(self.inferer_key)


def parse_variants(text: str | Sequence[str]) -> list[Variant]:
    """Return the variants of a list ``NAME:OVERLAY:WEIGHTS``, separated by commas.

    Args:
        text: the list; OVERLAY may be empty.

    Raises:
        ValueError: if an entry does not have three parts, or two have one name.

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


def _parse(folder: Path, *names: str) -> ConfigParser:
    paths = [folder / "configs" / name for name in names]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"bundle must have {path.name}, got none in {folder}")
    parser = ConfigParser(ConfigParser.load_config_files([str(path) for path in paths]))
    parser["bundle_root"] = str(folder)
    return parser


def load_heart_bundle(folder: str | Path) -> HeartBundle:
    """Return window and sampler of a bundle.

    The window is what ``train.json`` says; the sampler what ``inference.json`` says, or where
    there is none ``validate#inferer`` of ``train.json``.

    Args:
        folder: of the bundle.

    Raises:
        FileNotFoundError: if there is no ``train.json``.
    """
    folder = Path(folder)
    train = _parse(folder, "train.json")
    window = HeartWindow(**{name: train.get_parsed_content(name) for name in HeartWindow._fields})
    parser, key = train, "validate#inferer"
    if (folder / "configs" / "inference.json").is_file():  # what users run
        parser, key = _parse(folder, "inference.json"), "inferer"
    if "inferer" in parser[key]:  # a sampler of whole scans holds that of windows
        key = f"{key}#inferer"
    return HeartBundle(folder, window, dict(parser.get()), key)


def load_heart_model(
    folder: str | Path, name: str, overlay: str = "", weights: str | Path | None = None
) -> HeartModel:
    """Return the network that ``train.json`` and an overlay describe, with its weights.

    Args:
        folder: of the bundle.
        name: in the tables.
        overlay: file in ``configs``; "" for none.
        weights: a state dict, bare, under ``model``, or under ``ema`` in a checkpoint of the
            training; None takes ``models/model.pt``.

    Raises:
        FileNotFoundError: if a config or the weights do not exist.
        ValueError: if the weights are those of another network.
    """
    folder = Path(folder)
    parser = _parse(folder, "train.json", *([overlay] if overlay else []))
    path = folder / DEFAULT_WEIGHTS if weights is None else Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"weights must lead to an existing file, got {path}")
    network = parser.get_parsed_content("network_def")
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = next((state[key] for key in ("ema", "model") if key in state), state)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        shown = overlay or "train.json"
        raise ValueError(f"weights must fit the network of {shown}, got {path}") from error
    controlled = parser.get_parsed_content("network_def#condition_size") is not None
    return HeartModel(name, network.eval(), controlled, path)
