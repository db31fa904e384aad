"""Bundles as people name them: found, read, their networks and samplers built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

__all__ = ["choose_device", "find_bundle", "load_network", "read_bundle", "resolved"]

STATES = ("ema", "model", "network")  # what a file of weights may hold them under, best first


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
    bundle: str,
    device: torch.device,
    required: str | Sequence[str],
    overlays: Sequence[str] = (),
    weights: str | Path | None = None,
    weights_key: str = "ckpt_path",
) -> tuple[Path, ConfigParser]:
    """Return the weights of a bundle and its ``inference.json``, ready for a device.

    Args:
        bundle: name or folder.
        device: of the network.
        required: keys of the config, one of which the bundle must have to fit the purpose.
        overlays: configs of the bundle on top of ``inference.json``.
        weights: others than those that the config names.
        weights_key: where the config names them.

    Raises:
        FileNotFoundError: if the bundle, a config or its weights do not exist.
        ValueError: if all of the keys are missing.
    """
    folder = find_bundle(bundle)
    parser = ConfigParser()
    files = [folder / "configs" / name for name in ("inference.json", *overlays)]
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"bundle must have {path.name}, got none in {bundle}")
    parser.read_config(files)
    keys = [required] if isinstance(required, str) else list(required)
    if all(parser.get(key) is None for key in keys):
        wanted = " or ".join(keys)
        raise ValueError(f"bundle must have {wanted} in inference.json, got none in {bundle}")
    parser["bundle_root"], parser["device"] = str(folder), device
    weights = Path(weights or parser.get_parsed_content(weights_key))
    if not weights.is_file():
        raise FileNotFoundError(f"bundle must have trained weights, got none at {weights}")
    return weights, parser


def load_network(
    parser: ConfigParser, weights: Path, device: torch.device, key: str = "network"
) -> torch.nn.Module:
    """Return a network of a bundle with its weights, for inference.

    Args:
        parser: the bundle's config.
        weights: state dict, bare or under ``model``, or a checkpoint of the training, whose
            averaged weights are taken before the last ones.
        device: of the weights.
        key: of the network in the config.

    Raises:
        ValueError: if the weights are those of another network.
    """
    network = parser.get_parsed_content(key).eval()
    state = torch.load(weights, map_location=device, weights_only=True)
    state = next((state[name] for name in STATES if name in state), state)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights must fit the {key} of the bundle, got {weights}") from error
    return network


def resolved(parser: ConfigParser, key: str) -> Any:
    """Return what a key of a config stands for, objects built.

    Raises:
        ValueError: as the object's own class puts it. MONAI wraps errors of what a config builds,
            and the sentence that names the argument would be lost.
        FileNotFoundError: likewise.
    """
    try:
        return parser.get_parsed_content(key)
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ValueError | FileNotFoundError):
                raise cause from None
            cause = cause.__cause__
        raise
