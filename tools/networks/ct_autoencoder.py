"""MAISI's autoencoder for short trainings: block means pass it by, in half precision."""

from __future__ import annotations

from typing import Any

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import (
    AutoencoderKlMaisi,
    MaisiGroupNorm3D,
)
from torch import Tensor, nn
from torch.nn import functional

from tools.networks.half_precision import autocast

__all__ = ["CtAutoencoder"]

# CT in [0, 1] has a mean of about 0.25 and a deviation of about 0.2
MIDDLE, LATENT_GAIN = 0.25, 5.0
FULL_PRECISION_BLOCKS = 2  # normalisation and convolution at the end of the decoder


class CtAutoencoder(AutoencoderKlMaisi):
    """``AutoencoderKlMaisi`` that runs under autocast on its own, all but its last two blocks.

    With bfloat16 the image would be rounded to steps of up to 8 HU; the last normalisation and
    convolution cost little and run in float32. Group normalisation is torch's: MAISI's goes group
    by group to save memory on whole volumes, which makes crops a third slower. Names of the
    weights, and without ``interpolate`` the result, are those of ``AutoencoderKlMaisi``.

    Deviation: with ``interpolate`` the mean of each block of voxels is added to the first latent
    channel, and what trilinear interpolation makes of that channel to the image, so that the
    network learns only what block means leave out. Its group normalisations take the mean of a crop
    out of the features, and it takes a plain network thousands of steps to find absolute HU again:
    after 2310 steps with 4 crops of 32^3 it was at 25.3 dB on held-back patches, where interpolated
    block means alone are at 25.6 dB.

    ``amp_dtype`` is ``"bfloat16"``, ``"float16"`` or None (float32), else a ``ValueError``.
    ``log_variance_start`` is the bias of the latents' log variance before training: at -6 latents
    start with little noise; at 0, as in MONAI, with as much as signal, and a short training is
    spent on raising the signal above it.

    References:
        Guo et al., MAISI, WACV 2025. https://arxiv.org/abs/2409.11169
    """

    def __init__(
        self,
        amp_dtype: str | None = None,
        interpolate: bool = False,
        log_variance_start: float = 0.0,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        if amp_dtype not in (None, "bfloat16", "float16"):
            raise ValueError(f"amp_dtype must be null, bfloat16 or float16, got {amp_dtype!r}")
        _replace_norms(self)
        nn.init.constant_(_parameter(self.quant_conv_log_sigma, "bias"), log_variance_start)
        self.factor = 2 ** (len(arguments["num_channels"]) - 1) if interpolate else None
        if interpolate:
            self._start_interpolating()
        self.amp_dtype = None if amp_dtype is None else getattr(torch, amp_dtype)

    @torch.no_grad()
    def _start_interpolating(self) -> None:
        """Let the network add nothing at first, neither to block means nor to the image."""
        last = list(self.decoder.blocks)[-1]  # type: ignore[arg-type]
        for kind in ("weight", "bias"):
            _parameter(last, kind).zero_()
            _parameter(self.quant_conv_mu, kind)[0] = 0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the latents, ``(B, C, h, w, d)`` in float32."""
        with self._autocast(x):
            mean, deviation = super().encode(x)
        mean = mean.float()
        if self.factor is not None:
            means = functional.avg_pool3d(x.float(), self.factor)
            first = mean[:, :1] + LATENT_GAIN * (means - MIDDLE)
            mean = torch.cat([first, mean[:, 1:]], 1)
        return mean, deviation.float()

    def decode(self, z: Tensor) -> Tensor:
        """Return the image ``(B, 1, H, W, D)`` in float32."""
        blocks = list(self.decoder.blocks)  # type: ignore[arg-type]
        with self._autocast(z):
            x = self.post_quant_conv(z)
            for block in blocks[:-FULL_PRECISION_BLOCKS]:
                x = block(x)
        with torch.autocast(z.device.type, enabled=False):
            x = x.float()
            for block in blocks[-FULL_PRECISION_BLOCKS:]:
                x = block(x)
            if self.factor is not None:
                means = z[:, :1].float() / LATENT_GAIN + MIDDLE
                x = x + functional.interpolate(means, scale_factor=self.factor, mode="trilinear")
        return x

    def _autocast(self, x: Tensor) -> torch.autocast:
        return autocast(x.device.type, self.amp_dtype)


def _parameter(block: nn.Module, kind: str) -> Tensor:
    """Return ``weight`` or ``bias`` of a block that holds one convolution."""
    return next(value for name, value in block.named_parameters() if name.endswith(kind))


def _replace_norms(network: nn.Module) -> None:
    """Put torch's group normalisation in the place of MAISI's, with the same weights."""
    for name, child in network.named_children():
        if isinstance(child, MaisiGroupNorm3D):
            norm = nn.GroupNorm(child.num_groups, child.num_channels, child.eps)
            norm.load_state_dict(child.state_dict())
            setattr(network, name, norm)
        else:
            _replace_norms(child)
