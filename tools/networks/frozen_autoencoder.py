"""The autoencoder of a latent diffusion model: loaded once, never trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import AutoencoderKL
from torch import Tensor, nn
from tqdm.auto import tqdm

from tools.bundle import load_weights

__all__ = ["decode_latents", "encode_latents", "frozen_autoencoder", "latent_scale"]

logger = logging.getLogger(__name__)


def frozen_autoencoder(
    network: nn.Module, path: str | Path | None, device: str | torch.device = "cpu"
) -> nn.Module:
    """Return an autoencoder with its weights, in evaluation mode, gradients off.

    A file that does not exist is a ``FileNotFoundError``, for others see
    :func:`tools.bundle.load_weights`. A path of None or "" leaves the weights random, which only a
    test has a use for, and says so in the log.
    """
    if path is None or path == "":
        logger.warning("autoencoder_path is empty: the autoencoder keeps its random weights")
    elif not Path(path).is_file():
        raise FileNotFoundError(f"autoencoder_path must be an existing file, got {path}")
    else:
        load_weights(network, path)
    return network.to(device).eval().requires_grad_(False)


def encode_latents(autoencoder: nn.Module, image: Tensor, scale_factor: float = 1.0) -> Tensor:
    """Return the latents of an image in [0, 1] that a second stage sees, times ``scale_factor``.

    That is what ``encode_stage_2_inputs`` gives, but for MONAI's ``AutoencoderKL``, which draws a
    sample there: the background would change from call to call, so the mean is taken.
    """
    if isinstance(autoencoder, AutoencoderKL):
        latents = autoencoder.encode(image)[0]
    else:
        latents = autoencoder.encode_stage_2_inputs(image)  # type: ignore[operator]
    return latents.float() * scale_factor


def decode_latents(autoencoder: nn.Module, latents: Tensor, scale_factor: float = 1.0) -> Tensor:
    """Return the image of scaled latents, shape ``(B, 1, H, W, D)``."""
    return autoencoder.decode_stage_2_outputs(latents / scale_factor).float()  # type: ignore[operator]


def latent_scale(
    dataset: Sequence[Mapping[str, Any]], scale_factor: float = 1.0, count: int = 256
) -> float:
    """Return the ``scale_factor`` that gives the latents of a dataset a standard deviation of 1.

    The noise of a diffusion model has standard deviation 1; latents must be of the same size for
    its schedule to fit (Rombach et al., CVPR 2022). ``scale_factor`` is what the samples'
    ``latents`` are multiplied by already; ``count`` samples are looked at, evenly spread. Latents
    that do not vary are a ``ValueError``.

    Example:
        >>> latent_scale([{"latents": torch.tensor([-4.0, 4.0])}], scale_factor=2.0)
        0.5
    """
    step = max(1, len(dataset) // count)
    numbers = tqdm(range(0, len(dataset), step), desc="scale of latents")
    latents = [torch.as_tensor(dataset[i]["latents"]).flatten() for i in numbers]
    deviation = float(torch.cat(latents).double().std(correction=0))
    if not deviation > 0:
        raise ValueError("latents of dataset must vary, got a standard deviation of 0")
    return scale_factor / deviation
