"""What every converter does: read a file safely, compare its tensors with a network's, write."""

from __future__ import annotations

import os
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tools.files import new_file

__all__ = [
    "named",
    "plain_state_dict",
    "read_checkpoint",
    "require_finite",
    "require_weights_of",
    "write_converted",
]

PARALLEL = "module."  # prefix of a training on several GPUs
SHOWN = 3


class _Placeholder:
    """Stands for an object of a class that is not wanted: takes anything, does nothing."""

    def __new__(cls, *_: Any) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def read_checkpoint(
    path: str | os.PathLike[str], placeheld: Collection[str] = ()
) -> dict[str, Any]:
    """Return the dictionary in a file; nothing but plain tensors and containers is unpickled.

    Objects of the packages ``placeheld``, such as a training's configuration, become empty
    placeholders: their code is neither needed nor run.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint must be an existing file, got {path}")
    try:
        others = torch.serialization.get_unsafe_globals_in_checkpoint(path) if placeheld else []
        inert: list[Any] = [
            (_Placeholder, name) for name in others if name.split(".")[0] in placeheld
        ]
        with torch.serialization.safe_globals(inert):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(
            f"checkpoint must be a PyTorch file of plain tensors, got {path}"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"checkpoint must hold a dict, got {type(content).__name__} in {path}")
    return content


def plain_state_dict(content: Any, rule: str) -> dict[str, Tensor]:
    """Return a state dict without the prefix of parallel training; a refusal says the rule."""
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        got = f"keys {sorted(map(str, content))[:6]}" if isinstance(content, dict) else content
        raise ValueError(f"checkpoint must be a state dict {rule}, got {got}")
    if all(name.startswith(PARALLEL) for name in content):
        return {name.removeprefix(PARALLEL): value for name, value in content.items()}
    return dict(content)


def require_weights_of(expected: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Raise ValueError unless a state dict has the names and shapes of a network's own."""
    for rule, names in (
        ("have every tensor of the network, missing", expected.keys() - state.keys()),
        ("have tensors of the network only, unknown", state.keys() - expected.keys()),
    ):
        if names:
            raise ValueError(f"checkpoint must {rule} {named(names)}")
    for name, tensor in expected.items():
        got = tuple(getattr(state[name], "shape", ()))
        if got != tuple(tensor.shape):
            raise ValueError(f"{name} must have shape {tuple(tensor.shape)}, got {got}")


def require_finite(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a tensor holds anything but finite numbers."""
    broken = [name for name, value in state.items() if not bool(value.isfinite().all())]
    if broken:
        raise ValueError(f"checkpoint must hold finite numbers, got others in {named(broken)}")


def named(names: Collection[str]) -> str:
    """Return how many tensors there are, and the names of the first: ``4: a, b, c``."""
    return f"{len(names)}: {', '.join(sorted(names)[:SHOWN])}"


def write_converted(
    dst: str | os.PathLike[str], definition: Mapping[str, Any], state: Mapping[str, Tensor]
) -> None:
    """Write ``{"network_def": arguments, "model": state dict}``, all or nothing."""
    with new_file(Path(dst)) as partial:
        torch.save({"network_def": dict(definition), "model": dict(state)}, partial)
