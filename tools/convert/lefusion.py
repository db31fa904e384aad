"""Released LeFusion and DiffMask checkpoints to :class:`FactorisedUNet` and its mask variant.

``model`` and ``ema`` of a released file are state dicts of the whole diffusion process, the part of
the network under ``denoise_fn.`` or, trained on several GPUs, ``denoise_fn.module.``. Names and
shapes agree with ours: conversion is a prefix filter with strict checks. Only the rotary
frequencies, which are constants, go. DiffMask (two inputs, one output, no condition) becomes
:class:`SphereEncodedUNet`; how its training encoded the sphere is not in the file: an argument.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tools.convert.sphere_encoding import choose_sphere_outside
from tools.convert.weights import read_checkpoint, require_weights_of, write_converted
from tools.networks.factorised_unet import FactorisedUNet
from tools.networks.sphere_encoded_unet import SphereEncodedUNet

__all__ = ["convert", "load_network"]

PREFIXES = ("denoise_fn.module.", "denoise_fn.")
ROTARY = ".rotary_emb.freqs"
AUTO = "auto"
# 2 * sphere - 1 on bytes, as the released code computes it
SPHERE = {"sphere_inside": 1.0, "sphere_outside": 255.0}
NUM_TRAIN_TIMESTEPS = 300


def load_network(
    path: str, weights: str = "model", sphere_outside: float | str | None = None
) -> FactorisedUNet:
    """Return the network of a released or converted checkpoint, in eval mode.

    Widths, channels and condition size are read from the shapes of the tensors. A converted file
    holds one set of weights, and says its ``sphere_outside`` (taken for None). Options are those of
    :func:`convert`.

    Raises:
        FileNotFoundError: if there is no file at ``path``.
        ValueError: if the file is no such checkpoint, a tensor is missing, unknown or misshapen, or
            ``sphere_outside`` does not fit.
    """
    return _load(path, weights, sphere_outside)[1]


def convert(
    src: str, dst: str, weights: str = "model", sphere_outside: float | str | None = None
) -> dict[str, Any]:
    """Write ``{"network_def": arguments, "model": state dict}``; return the arguments.

    They are those of :class:`SphereEncodedUNet` if ``sphere_outside`` is among them, and of
    :class:`FactorisedUNet` otherwise.

    Args:
        src: released ``.pt`` file.
        dst: file to write.
        weights: ``"model"``, which the published sampler uses, or ``"ema"``.
        sphere_outside: only for DiffMask: the value outside the control sphere that the weights
            were trained with. None means 255, as the released code trains; -1 is what its authors
            meant; ``"auto"`` is the choice of
            :func:`tools.convert.sphere_encoding.choose_sphere_outside`.
    """
    definition, network = _load(src, weights, sphere_outside)
    write_converted(dst, definition, network.state_dict())
    return definition


def _load(
    path: str, weights: str, sphere_outside: float | str | None
) -> tuple[dict[str, Any], FactorisedUNet]:
    if weights not in ("model", "ema"):
        raise ValueError(f'weights must be "model" or "ema", got {weights!r}')
    content = read_checkpoint(path)
    num_train_timesteps = NUM_TRAIN_TIMESTEPS
    if isinstance(content.get("network_def"), dict):
        definition, state = dict(content["network_def"]), content.get("model")
        if not isinstance(state, dict):
            raise ValueError(f"checkpoint must hold a state dict under 'model', got {path}")
    else:
        state = _network_state(content, weights, path)
        definition = _definition(state)
        if (betas := content[weights].get("betas")) is not None:
            num_train_timesteps = len(betas)
    _encode(definition, sphere_outside)
    build = SphereEncodedUNet if "sphere_outside" in definition else FactorisedUNet
    network = build(**definition)
    require_weights_of(network.state_dict(), state)
    network.load_state_dict(state)
    network.eval()
    if sphere_outside == AUTO and isinstance(network, SphereEncodedUNet):
        chosen = choose_sphere_outside(network, num_train_timesteps)
        definition["sphere_outside"] = network.sphere_outside = chosen
    return definition, network


def _encode(definition: dict[str, Any], sphere_outside: float | str | None) -> None:
    """Put the encoding that was asked for into a definition; ``"auto"`` is settled later."""
    if sphere_outside is None:
        return
    if "sphere_outside" not in definition:
        channels = f"{definition.get('in_channels')} to {definition.get('out_channels')} channels"
        raise ValueError(f"sphere_outside needs a DiffMask checkpoint, got a network of {channels}")
    if sphere_outside == AUTO:
        return
    if isinstance(sphere_outside, bool) or not isinstance(sphere_outside, int | float):
        raise ValueError(f'sphere_outside must be a number or "auto", got {sphere_outside!r}')
    definition["sphere_outside"] = float(sphere_outside)


def _network_state(content: dict[str, Any], weights: str, path: str) -> dict[str, Tensor]:
    """Return the network's tensors under our names, rotary copies checked and dropped."""
    whole = content.get(weights)
    if not isinstance(whole, dict):
        keys = sorted(map(str, content))[:6]
        raise ValueError(f"checkpoint must hold a state dict under {weights!r}, got keys {keys}")
    for prefix in PREFIXES:
        state = {k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)}
        if state:
            break
    else:
        raise ValueError(f"checkpoint must hold keys 'denoise_fn.*' under {weights!r}, got {path}")
    for name in [name for name in state if name.endswith(ROTARY)]:
        frequencies = state.pop(name).double()
        steps = torch.arange(len(frequencies), dtype=torch.float64) / len(frequencies)
        if not torch.allclose(frequencies, 10000.0**-steps, rtol=1e-5, atol=0):
            raise ValueError(f"{name} must be the constants 10000^(-i/n), got others")
    return state


def _definition(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of the network that the shapes of the tensors imply."""
    try:
        base, in_channels = state["init_conv.weight"].shape[:2]
        heads = state["time_rel_pos_bias.relative_attention_bias.weight"].shape[1]
        hidden = state["init_temporal_attn.fn.fn.fn.to_out.weight"].shape[1]
        out_channels = state["final_conv.1.weight"].shape[0]
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"checkpoint must be a factorised U-Net, got none: {error}") from error
    widths: list[int] = []
    while (key := f"downs.{len(widths)}.0.block1.proj.weight") in state:
        widths.append(state[key].shape[0])
    null = state.get("null_cond_emb")
    definition = {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "base_channels": base,
        "channel_multipliers": [width // base for width in widths],
        "condition_size": None if null is None else null.shape[-1],
        "attention_heads": heads,
        "attention_head_size": hidden // heads,
    }
    if null is None and (in_channels, out_channels) == (2, 1):
        del definition["condition_size"]
        definition.update(SPHERE)
    return definition
