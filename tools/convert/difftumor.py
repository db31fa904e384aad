"""Released DiffTumor checkpoints to :class:`VqAutoencoder` and :class:`FactorisedUNet`.

The autoencoder's file is a Lightning checkpoint: beside the state dict it holds the training's
configuration, whose classes are neither needed nor run. A file of a diffusion model, one for each
organ and range of sizes, holds the U-Net twice (as trained, and averaged, which is taken), its
noise schedule, and a copy of the whole autoencoder, which must be that of the other file. Names and
shapes agree with ours, but for the codebook's; what only training needs is left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tools.convert.lefusion import definition_of, network_state
from tools.convert.weights import (
    named,
    plain_state_dict,
    read_checkpoint,
    require_finite,
    require_weights_of,
    write_converted,
)
from tools.networks.factorised_unet import FactorisedUNet
from tools.networks.vq_autoencoder import VqAutoencoder
from tools.schedules import cosine_float64_beta

__all__ = ["Converted", "convert"]

PACKAGES = ("omegaconf", "pytorch_lightning", "typing", "collections", "builtins")
CODEBOOK = {"embeddings": "embedding.weight", "N": "ema_cluster_size", "z_avg": "ema_w"}
TRAINING_ONLY = ("image_discriminator.", "video_discriminator.", "perceptual_model.")
AVERAGED, DENOISER, AUTOENCODER = "ema", "denoise_fn.", "vqgan."
SCHEDULE = {
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
}


class Converted(NamedTuple):
    """What a file held: arguments of its network, and steps of its schedule if that denoises."""

    network_def: dict[str, Any]
    num_train_timesteps: int | None = None


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    autoencoder: str | os.PathLike[str] | None = None,
) -> Converted:
    """Write ``{"network_def": arguments, "model": state dict}``; return what it was.

    ``autoencoder``, released or converted, is what the copy inside a diffusion model must equal: a
    denoiser draws latents that no other autoencoder understands.

    Raises:
        FileNotFoundError: if there is no file at ``src`` or ``autoencoder``.
        ValueError: if the file is neither, its tensors are not those of the network (missing,
            unknown, misshapen, not finite), its schedule is not the cosine one, or its copy of the
            autoencoder is another.
    """
    content = read_checkpoint(src, PACKAGES)
    if "state_dict" in content:
        if autoencoder:
            raise ValueError(f"autoencoder must be left out for an autoencoder, got {autoencoder}")
        definition, state = _autoencoder(content["state_dict"], src)
        converted = Converted(definition)
    else:
        converted, state, copy = _denoiser(content, src)
        if autoencoder:
            _require_equal(copy, autoencoder)
    write_converted(dst, converted.network_def, state)
    return converted


def _autoencoder(
    content: Any, src: str | os.PathLike[str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and weights of the autoencoder in a released state dict."""
    state = {}
    for name, value in plain_state_dict(content, f"of an autoencoder, in {src}").items():
        part, _, rest = name.partition(".")
        if part == "codebook":
            name = f"codebook.{CODEBOOK.get(rest, rest)}"
        if not name.startswith(TRAINING_ONLY):
            state[name] = value
    try:
        base, inputs = state["encoder.conv_first.conv.weight"].shape[:2]
        count, size = state["codebook.embedding.weight"].shape
    except (KeyError, ValueError) as error:
        raise ValueError(f"checkpoint must be DiffTumor's, got no autoencoder in {src}") from error
    definition = {
        "in_channels": inputs,
        "base_channels": base,
        "num_embeddings": count,
        "embedding_dim": size,
    }
    with torch.device("meta"):  # names and shapes are all that is needed
        expected = VqAutoencoder(**definition).state_dict()
    require_weights_of(expected, state)
    require_finite(state)
    return definition, state


def _denoiser(
    content: dict[str, Any], src: str | os.PathLike[str]
) -> tuple[Converted, dict[str, Tensor], dict[str, Tensor]]:
    """Return what a diffusion model is, its denoiser's weights, and those of its autoencoder."""
    state = network_state(content, AVERAGED, str(src))
    whole: dict[str, Tensor] = content[AVERAGED]
    definition = definition_of(state)
    inputs, outputs = definition["in_channels"], definition["out_channels"]
    if inputs != 2 * outputs + 1:  # noisy latents, those of the masked image, mask
        raise ValueError(
            "checkpoint must be of a network with 2 n + 1 inputs and n outputs, got "
            f"{inputs} and {outputs} in {src}"
        )
    others = {name for name in whole if not name.startswith((DENOISER, AUTOENCODER))}
    if others != SCHEDULE:
        wrong = named(others ^ SCHEDULE)
        raise ValueError(f"checkpoint must have the 12 tensors of a schedule, wrong are {wrong}")
    steps = len(whole["betas"])
    if not torch.allclose(whole["betas"].float(), cosine_float64_beta(steps), rtol=1e-4, atol=1e-8):
        raise ValueError(f"betas must be those of the cosine schedule of {steps} steps, got others")
    with torch.device("meta"):
        expected = FactorisedUNet(**definition).state_dict()
    require_weights_of(expected, state)
    require_finite(state)
    copy = {
        name.removeprefix(AUTOENCODER): value
        for name, value in whole.items()
        if name.startswith(AUTOENCODER)
    }
    return Converted(definition, steps), state, _autoencoder(copy, src)[1]


def _require_equal(copy: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Raise ValueError unless an autoencoder's file, released or converted, has these weights."""
    content = read_checkpoint(path, PACKAGES)
    if "state_dict" in content:
        wanted = _autoencoder(content["state_dict"], path)[1]
    else:
        wanted = plain_state_dict(content.get("model"), f"under 'model' in {path}")
    require_weights_of(wanted, copy)
    if other := [name for name, value in wanted.items() if not torch.equal(value, copy[name])]:
        raise ValueError(
            f"autoencoder must be the one that the diffusion model was trained with, got {path}, "
            f"which differs in {named(other)}"
        )
