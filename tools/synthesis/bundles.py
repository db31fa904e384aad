"""Bundles as people name them: found, read, their networks and samplers built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

__all__ = [
    "bundle_folders",
    "choose_device",
    "find_bundle",
    "load_network",
    "read_bundle",
    "resolved",
]


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


def bundle_folders() -> list[Path]:
    """Return where bundles lie: ``./bundles``, in an installed package, beside ``tools``."""
    tools = Path(__file__).resolve().parents[1]
    return [Path("bundles"), tools / "_bundles", tools.parent / "bundles"]


def find_bundle(name_or_path: str) -> Path:
    """Return the folder of a bundle: a path, or the name of one in :func:`bundle_folders`.

    Raises:
        FileNotFoundError: if there is none; the message lists those there are.
    """
    for folder in (Path(), *bundle_folders()):
        if (folder / name_or_path / "configs" / "inference.json").is_file():
            return folder / name_or_path
    found = [path for folder in bundle_folders() for path in folder.glob("*/configs")]
    known = sorted({path.parent.name for path in found})
    raise FileNotFoundError(
        f"bundle must be a bundle folder or one of {known}, got {name_or_path!r}"
    )


def read_bundle(
    bundle: str,
    device: torch.device,
    required: str | Sequence[str],
    overlays: Sequence[str] = (),
    weights: str | Path | None = None,
) -> tuple[Path, ConfigParser]:
    """Return the weights of a bundle and its ``inference.json``, ready for a device.

    Args:
        bundle: name or folder.
        device: of the network.
        required: keys of the config, one of which the bundle must have to fit the purpose.
        overlays: configs of the bundle on top of ``inference.json``.
        weights: others than those that the config names.

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
    weights = Path(weights or parser.get_parsed_content("ckpt_path"))
    if not weights.is_file():
        raise FileNotFoundError(f"bundle must have trained weights, got none at {weights}")
    return weights, parser


def load_network(parser: ConfigParser, weights: Path, device: torch.device) -> torch.nn.Module:
    """Return the network of a bundle with its weights, for inference."""
    network = parser.get_parsed_content("network").eval()
    state = torch.load(weights, map_location=device, weights_only=True)
    # a checkpoint of the training holds the averaged weights as well
    network.load_state_dict(state.get("ema", state.get("model", state)))
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
