"""The autoencoder of a latent diffusion model: loaded once, never trained."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["decode_latents", "encode_latents", "frozen_autoencoder"]

logger = logging.getLogger(__name__)


def frozen_autoencoder(
    network: nn.Module, path: str | Path | None, device: str | torch.device = "cpu"
) -> nn.Module:
    """Return an autoencoder with its weights, in evaluation mode, gradients off.

    Args:
        network: such as ``AutoencoderKlMaisi``; the weights are loaded into it.
        path: state dict, bare or under ``model``; None leaves the weights random, which only a
            test has a use for, and says so in the log.
        device: where it goes.

    Raises:
        FileNotFoundError: if there is no file at ``path``; nothing replaces it.

    Example:
        >>> frozen_autoencoder(nn.Conv3d(1, 1, 1), None).training
        False
    """
    if path is None:
        logger.warning("autoencoder_path is null: the autoencoder keeps its random weights")
    elif not Path(path).is_file():
        raise FileNotFoundError(f"autoencoder_path must be an existing file, got {path}")
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state.get("model", state))
    return network.to(device).eval().requires_grad_(False)


def encode_latents(autoencoder: nn.Module, image: Tensor, scale_factor: float = 1.0) -> Tensor:
    """Return the mean of the latent distribution, scaled: the same for the same image.

    ``encode_stage_2_inputs`` of MONAI draws a sample, which would change the background from call
    to call.

    Args:
        autoencoder: with ``encode``, which returns mean and deviation.
        image: shape ``(B, 1, H, W, D)``, in [0, 1].
        scale_factor: latents are multiplied by it.
    """
    return autoencoder.encode(image)[0].float() * scale_factor  # type: ignore[operator]


def decode_latents(autoencoder: nn.Module, latents: Tensor, scale_factor: float = 1.0) -> Tensor:
    """Return the image of scaled latents, shape ``(B, 1, H, W, D)``."""
    return autoencoder.decode(latents / scale_factor).float()  # type: ignore[operator]
