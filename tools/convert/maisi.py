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
from typing import Any

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

from tools.convert.weights import (
    plain_state_dict,
    read_checkpoint,
    require_finite,
    require_weights_of,
    write_converted,
)

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
    content = read_checkpoint(src)
    state = plain_state_dict(content.get(WRAPPER, content), f"(bare or under {WRAPPER!r}) in {src}")
    with torch.device("meta"):  # names and shapes are all that is needed
        expected = AutoencoderKlMaisi(
            **definition, norm_float16=False, num_splits=1, save_mem=False
        ).state_dict()
    require_weights_of(expected, state)
    require_finite(state)
    write_converted(dst, definition, state)
    return dict(definition)
