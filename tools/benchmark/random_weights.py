"""A bundle whose weights are not there yet, with random ones: speed does not depend on them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch
from monai.bundle import ConfigParser

__all__ = ["with_weights"]

logger = logging.getLogger(__name__)

# key of the file in inference.json -> key of the network it holds
NETWORKS = {"ckpt_path": "network_def", "autoencoder_path": "autoencoder_def"}


def with_weights(bundle: Path, folder: Path) -> Path:
    """Return the bundle, or where weights are missing a copy of it with random ones.

    Args:
        bundle: folder of a bundle.
        folder: an existing one that takes the copy, under the bundle's name.

    Raises:
        FileNotFoundError: if the bundle has no ``inference.json``.
    """
    path = bundle / "configs" / "inference.json"
    if not path.is_file():
        raise FileNotFoundError(f"bundle must have configs/inference.json, got none in {bundle}")
    if not _missing(bundle):
        return bundle
    copy = folder / bundle.resolve().name
    for name in ("configs", "models"):
        if (bundle / name).is_dir():
            shutil.copytree(bundle / name, copy / name)
    for key in _missing(copy):
        parser = _parser(copy)
        target = Path(parser.get_parsed_content(key))
        logger.warning("%s is not there: random weights are measured", target.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save(parser.get_parsed_content(NETWORKS[key]).state_dict(), target)
    return copy


def _parser(bundle: Path) -> ConfigParser:
    parser = ConfigParser(ConfigParser.load_config_file(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    return parser


def _missing(bundle: Path) -> list[str]:
    """Return the keys of the weights that are not there."""
    parser = _parser(bundle)
    keys = [key for key in NETWORKS if parser.get(key)]
    return [key for key in keys if not Path(parser.get_parsed_content(key)).is_file()]
