"""Checkpoints as LeFusion and DiffMask are released, of tiny networks."""

from pathlib import Path
from typing import Any

import torch

from tools.networks.factorised_unet import FactorisedUNet

ARGUMENTS: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 2,
    "base_channels": 8,
    "channel_multipliers": [1, 3],
    "condition_size": None,
    "attention_heads": 2,
    "attention_head_size": 16,
}
DIFFMASK = {**ARGUMENTS, "out_channels": 1}


def write_released(
    path: Path, prefix: str = "denoise_fn.", arguments: dict[str, Any] = ARGUMENTS
) -> FactorisedUNet:
    """Write a checkpoint with three training timesteps; return its network."""
    network = FactorisedUNet(**arguments)
    state = {prefix + name: value for name, value in network.state_dict().items()}
    torch.save({"step": 1, "model": {"betas": torch.zeros(3), **state}, "scaler": {}}, path)
    return network
