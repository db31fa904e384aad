"""MAISI's published autoencoder to the state dict that the bundles load.

The released file is the state dict of MONAI's ``AutoencoderKlMaisi`` itself, 130 tensors, bare or
under ``unet_state_dict`` (as later releases wrap it). So nothing is renamed; what conversion adds
is the proof that the file is that network and whole, and the arguments to build it with.

``num_splits``, ``save_mem`` and ``norm_float16`` say how the network computes, not what it is, and
are left to the config that loads the result.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from torch import Tensor

from tools.convert.lefusion import read_checkpoint
from tools.files import new_file

__all__ = ["MAISI_AUTOENCODER", "convert"]

MAISI_AUTOENCODER: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 4,
    "num_channels": [64, 128, 256],
    "num_res_blocks": [2, 2, 2],
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "attention_levels": [False, False, False],
    "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": False,
    "use_checkpointing": False,
    "use_convtranspose": False,
}
WRAPPER = "unet_state_dict"
PARALLEL = "module."
SHOWN = 3


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    definition: Mapping[str, Any] = MAISI_AUTOENCODER,
) -> dict[str, Any]:
    """Write ``{"network_def": arguments, "model": state dict}``, all or nothing.

    Args:
        src: released ``.pt`` file.
        dst: file to write; its folder is made if need be.
        definition: arguments of the ``AutoencoderKlMaisi`` that the file must be the weights of.

    Returns:
        The arguments, ``network_def``.

    Raises:
        FileNotFoundError: if there is no file at ``src``.
        ValueError: if the file holds anything but tensors, or a tensor is missing, unknown,
            misshapen or not finite.

    Example:
        >>> convert("absent.pt", "converted.pt")
        Traceback (most recent call last):
        FileNotFoundError: checkpoint must be an existing file, got absent.pt
    """
    state = _state(read_checkpoint(str(src)), src)
    with torch.device("meta"):  # names and shapes are all that is needed
        expected = AutoencoderKlMaisi(
            **definition, norm_float16=False, num_splits=1, save_mem=False
        ).state_dict()
    _check(state, expected)
    target, arguments = Path(dst), dict(definition)
    with new_file(target) as partial:
        torch.save({"network_def": arguments, "model": state}, partial)
    return arguments


def _state(content: dict[str, Any], src: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the state dict in a file, without wrapper and prefix of parallel training."""
    state = content.get(WRAPPER, content)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        keys = sorted(map(str, content))[:SHOWN]
        raise ValueError(
            f"checkpoint must be a state dict, bare or under {WRAPPER!r}, got keys {keys} in {src}"
        )
    if state and all(name.startswith(PARALLEL) for name in state):
        return {name.removeprefix(PARALLEL): value for name, value in state.items()}
    return dict(state)


def _check(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the weights are those of the network, every one, and finite."""
    for rule, names in (
        ("have every tensor of the autoencoder, missing", expected.keys() - state.keys()),
        ("have no other tensors than the autoencoder's, unknown", state.keys() - expected.keys()),
        ("hold finite numbers, got others in", _not_finite(state)),
    ):
        if names:
            shown = ", ".join(sorted(names)[:SHOWN])
            raise ValueError(f"checkpoint must {rule} {len(names)}: {shown}")
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            wanted, got = tuple(tensor.shape), tuple(state[name].shape)
            raise ValueError(f"{name} must have shape {wanted}, got {got}")


def _not_finite(state: Mapping[str, Tensor]) -> set[str]:
    return {name for name, value in state.items() if not bool(value.isfinite().all())}
