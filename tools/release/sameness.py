"""What must be the same in the files of a bundle, and in the bundles of the collection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.release.config_rules import Config, is_overlay

__all__ = ["bundle_differences", "differences", "skeleton", "with_shared_settings"]

# what a network was trained with must not change between the files of a bundle
SAME_IN_ALL = re.compile(
    r"network_def|scheduler|num_train_timesteps|background|mask_input|scale_factor"
    r"|prediction_type|autoencoder_def|intensity_range|histogram_range|mask_detail|mask_channels"
    r"|(\w+_)?window(_\w+)?|(\w+_)?spacing_mm"
)
# train_X.json trains a network that train.json takes as it is, under X_def, with crops of its own
SAME_IN_STAGES = re.compile(r"\w+_def|intensity_range")
STAGE = re.compile(r"train_\w+\.json")
SOURCE = "train.json"
# X.json on top of training goes with X_inference.json on top of inference
FOR_USE = "_inference.json"
SAME_FILES = ("LICENSE", "configs/logging.conf")
HANDLERS = (("train", "handlers"), ("validate", "handlers"))


def _shared_keys(config: Config, name: str = SOURCE) -> list[str]:
    keys = [key for key in config if SAME_IN_ALL.fullmatch(key)]
    return [key for key in keys if not STAGE.fullmatch(name) or SAME_IN_STAGES.fullmatch(key)]


def differences(configs: Mapping[str, Config]) -> list[str]:
    """Find settings that differ between the files that stand alone; overlays may change them.

    What an overlay ``X.json`` was trained with must stand in ``X_inference.json`` as well. A
    ``train_X.json`` for an earlier stage shares the definition of its network only.

    Args:
        configs: parsed files by name. ``train.json`` is what the others are compared with; where
            it lacks a key, the first file that has it is.

    Example:
        >>> train = {"bundle_root": ".", "window_hu": [-1000, 400]}
        >>> differences({"train.json": train, "inference.json": train | {"window_hu": [0, 1]}})
        ['window_hu differs between train.json and inference.json']
    """
    seen: dict[str, tuple[str, Any]] = {}
    faults = []
    for name in sorted(configs, key=lambda name: name != SOURCE):
        config = configs[name]
        for key in () if is_overlay(config) else _shared_keys(config, name):
            first, value = seen.setdefault(key, (name, config[key]))
            if value != config[key]:
                faults.append(f"{key} differs between {first} and {name}")
    for first, name in _pairs(configs):
        trained, used = configs[first], configs[name]
        for key in _shared_keys(trained):
            if used.get(key, trained[key]) != trained[key]:
                faults.append(f"{key} differs between {first} and {name}")
    return faults


def _pairs(configs: Mapping[str, Config]) -> list[tuple[str, str]]:
    """Return the overlays that belong together, that for training first."""
    names = [(name.replace(FOR_USE, ".json"), name) for name in configs if name.endswith(FOR_USE)]
    return [(first, name) for first, name in names if first in configs]


def with_shared_settings(configs: Mapping[str, Config]) -> dict[str, Config]:
    """Return the configs with the shared settings of ``train.json`` in all that stand alone.

    Those of an overlay ``X.json`` go to ``X_inference.json``. Keys keep their places, and a file
    gains no key that it did not have.
    """
    sources = {name: SOURCE for name, config in configs.items() if not is_overlay(config)}
    sources |= {name: first for first, name in _pairs(configs)}
    result = {}
    for name, config in configs.items():
        source = configs.get(sources.get(name, name), {})
        shared = {key: source[key] for key in _shared_keys(source, name)}
        result[name] = {key: shared.get(key, value) for key, value in config.items()}
    return result


def skeleton(train: Config) -> dict[str, list[str]]:
    """Return the targets of the handlers of a ``train.json``, in order, by block."""
    found = {}
    for block, key in HANDLERS:
        handlers = train.get(block, {}).get(key, [])
        found[f"{block}#{key}"] = [str(item.get("_target_")) for item in handlers]
    return found


def bundle_differences(
    folder: Path, train: Config, other_folder: Path, other_train: Config
) -> list[str]:
    """Find differences between two bundles in licence, logging and the order of handlers.

    Args:
        folder: of the bundle in question.
        train: its ``train.json``.
        other_folder: of the bundle to compare with.
        other_train: the ``train.json`` of that one.
    """
    other = other_folder.name
    faults = [
        f"{name} differs from that of {other}"
        for name in SAME_FILES
        if (folder / name).is_file()
        and (other_folder / name).is_file()
        and (folder / name).read_bytes() != (other_folder / name).read_bytes()
    ]
    theirs = skeleton(other_train)
    for key, targets in skeleton(train).items():
        if targets != theirs[key]:
            faults.append(f"configs/{SOURCE}: {key} is {targets}, that of {other} is {theirs[key]}")
    return faults
