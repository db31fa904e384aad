"""Released LeFusion and DiffMask checkpoints to :class:`FactorisedUNet` and its mask variant.

``model`` and ``ema`` of a released file are state dicts of the whole diffusion process, the part of
the network under ``denoise_fn.`` or, trained on several GPUs, ``denoise_fn.module.``. Names and
shapes agree with ours: conversion is a prefix filter with strict checks. Only the rotary
frequencies, which are constants, go. DiffMask (two inputs, one output, no condition) becomes
:class:`SphereEncodedUNet`; how its training encoded the sphere is not in the file: an argument.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from tools.convert.weights import read_checkpoint, require_weights_of, write_converted
from tools.networks.factorised_unet import FactorisedUNet
from tools.networks.sphere_encoded_unet import SphereEncodedUNet
from tools.schedules import cosine_scheduler

__all__ = [
    "choose_sphere_outside",
    "convert",
    "definition_of",
    "load_network",
    "network_state",
    "sphere_encoding_losses",
]

PREFIXES = ("denoise_fn.module.", "denoise_fn.")
ROTARY = ".rotary_emb.freqs"
AUTO = "auto"
# 2 * sphere - 1 on bytes, as the released code computes it
SPHERE = {"sphere_inside": 1.0, "sphere_outside": 255.0}
NUM_TRAIN_TIMESTEPS = 300

# trials of the two encodings of the sphere
ENCODINGS = (255.0, -1.0)
# parts of the noise schedule: from a lesion in plain sight to one that only the sphere shows
NOISE_LEVELS = (0.1, 0.3, 0.5, 0.7)
LESIONS = 2
LONGEST_VOXELS = (4, 10)
ROUNDNESS = (0.6, 1.0)
# mean |noise| of a standard normal is what predicting no noise at all costs
NO_PREDICTION = math.sqrt(2 / math.pi)
DENOISES = 0.5 * NO_PREDICTION


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
            meant; ``"auto"`` is what
            :func:`choose_sphere_outside` finds.
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
        state = network_state(content, weights, path)
        definition = definition_of(state)
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


def network_state(content: dict[str, Any], weights: str, path: str) -> dict[str, Tensor]:
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


def definition_of(state: dict[str, Tensor]) -> dict[str, Any]:
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


def choose_sphere_outside(
    network: SphereEncodedUNet,
    num_train_timesteps: int = NUM_TRAIN_TIMESTEPS,
    window_size: Sequence[int] = (64, 64, 32),
) -> float:
    """Return the encoding under which a network denoises better, and print both losses.

    Raises:
        ValueError: if the network denoises under neither encoding: the comparison would be chance.
    """
    losses = sphere_encoding_losses(network, num_train_timesteps, window_size)
    shown = ", ".join(f"{loss:.4f} with {outside:g}" for outside, loss in losses.items())
    print(f"denoising loss by sphere_outside: {shown} (predicting no noise: {NO_PREDICTION:.2f})")
    best = min(losses, key=lambda outside: losses[outside])
    if losses[best] > DENOISES:
        raise ValueError(
            f"sphere_outside must be a number for a network that denoises with neither, got {shown}"
        )
    return best


@torch.no_grad()
def sphere_encoding_losses(
    network: SphereEncodedUNet,
    num_train_timesteps: int = NUM_TRAIN_TIMESTEPS,
    window_size: Sequence[int] = (64, 64, 32),
) -> dict[float, float]:
    """Return the mean absolute error of the predicted noise under each encoding of the sphere.

    Ellipsoids in {-1, 1}, each with the sphere round it, are noised at four points of the cosine
    schedule. Every encoding sees the same lesions and the same noise, so that the losses differ by
    the encoding alone. This is one network call per lesion, noise level and encoding, no sampling.
    The network is left as it was. From 24 voxels per axis of the window no lesion is cut off.

    Example:
        >>> network = SphereEncodedUNet(base_channels=8, channel_multipliers=(1, 2)).eval()
        >>> sorted(sphere_encoding_losses(network, window_size=(8, 8, 4)))
        [-1.0, 255.0]
    """
    parameter = next(network.parameters())
    scheduler = cosine_scheduler(num_train_timesteps)
    rng = np.random.default_rng(0)
    cases: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for _ in range(LESIONS):
        lesion, region = (torch.from_numpy(array) for array in _lesion(window_size, rng))
        for level in NOISE_LEVELS:
            timesteps = torch.tensor([round(level * (num_train_timesteps - 1))])
            noise = torch.from_numpy(rng.standard_normal(lesion.shape, np.float32))
            x_t = scheduler.add_noise(original_samples=lesion, noise=noise, timesteps=timesteps)
            cases.append((x_t, region, timesteps, noise))
    before, losses = network.sphere_outside, {}
    progress = tqdm(total=len(ENCODINGS) * len(cases), desc="comparing sphere encodings")
    try:
        for outside in ENCODINGS:
            network.sphere_outside, total = outside, 0.0
            for x_t, region, timesteps, noise in cases:
                x = torch.cat([x_t, region], 1).to(parameter.device)
                predicted = network(x, timesteps.to(parameter.device)).float().cpu()
                total += float((predicted - noise).abs().mean())
                progress.update()
            # overflow under the wrong encoding is as bad as it gets, and must not win as NaN
            losses[outside] = total / len(cases) if math.isfinite(total) else math.inf
    finally:
        network.sphere_outside = before
        progress.close()
    return losses


def _lesion(shape: Sequence[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return an ellipsoid in {-1, 1} and the sphere round it in {0, 1}, ``(1, 1, H, W, D)``."""
    longest = min(int(rng.integers(LONGEST_VOXELS[0], LONGEST_VOXELS[1] + 1)), max(shape) // 2 - 1)
    semi_axes = rng.permutation([longest, *(longest * rng.uniform(*ROUNDNESS, 2))])
    centre = np.array(shape) // 2 + rng.integers(-1, 2, 3)
    offsets = np.moveaxis(np.indices(shape), 0, -1) - centre
    lesion = ((offsets / semi_axes) ** 2).sum(-1) <= 1
    region = (offsets**2).sum(-1) <= longest**2
    return (
        np.where(lesion, 1.0, -1.0).astype(np.float32)[None, None],
        region.astype(np.float32)[None, None],
    )
