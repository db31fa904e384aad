"""MAISI's published autoencoder to the state dict that the bundles load.

The released file is the state dict of MONAI's ``AutoencoderKlMaisi`` itself, 130 tensors. Nothing
is renamed: conversion adds the proof that it is that network, whole, and the arguments to build it.
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

# ``num_splits``, ``save_mem`` and ``norm_float16`` say how it computes: the loading config's choice
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
WRAPPER = "unet_state_dict"  # of later releases


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    definition: Mapping[str, Any] = MAISI_AUTOENCODER,
) -> dict[str, Any]:
    """Write ``{"network_def": arguments, "model": state dict}``; return the arguments.

    Raises:
        ValueError: if the file holds anything but tensors, or a tensor is missing, unknown,
            misshapen or not finite.
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
