"""The first blocks of a frozen decoder: a cheap stand-in for the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tools.networks.half_precision import autocast

__all__ = ["TruncatedDecoder"]


class TruncatedDecoder(nn.Module):
    r"""Map latents to features, :math:`\hat F = D_{trunc}(\hat z_0)` (HR-LDM, section 3.2.3).

    Weights are frozen and shared with the autoencoder; gradients pass to the latents.

    The paper cuts at "the penultimate residual block", which in its autoencoder is block 7
    (``cut=8``): full resolution and 86 % of the cost of a full decode. ``cut=6`` ends before the
    last upsampling: half resolution, 38 %. The numbers are the same in every ``AutoencoderKlMaisi``
    of three levels with two residual blocks each. None runs all blocks and gives the image.

    Latents were multiplied by ``scale_factor`` for diffusion; ``amp_dtype`` (``"bfloat16"``,
    ``"float16"``) runs under autocast. A cut that is not there is a ``ValueError``.
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        cut: int | None = 6,
        scale_factor: float = 1.0,
        amp_dtype: str | None = None,
    ) -> None:
        super().__init__()
        blocks = list(autoencoder.decoder.blocks)  # type: ignore[union-attr, arg-type]
        self.blocks: nn.Module
        if cut is None:
            self.blocks = _Decoder(autoencoder)
        elif 1 <= cut <= len(blocks):
            self.blocks = nn.Sequential(autoencoder.post_quant_conv, *blocks[:cut])  # type: ignore[arg-type]
        else:
            raise ValueError(f"cut must be in 1..{len(blocks)} or null, got {cut}")
        self.blocks.requires_grad_(False).eval()
        self.scale_factor = scale_factor
        self.amp_dtype = None if amp_dtype is None else getattr(torch, amp_dtype)

    def train(self, mode: bool = True) -> TruncatedDecoder:
        """Stay in evaluation mode, whatever the engine asks for."""
        return super().train(False)

    def forward(self, latents: Tensor) -> Tensor:
        """Return features ``(B, F, H', W', D')`` of latents ``(B, C, H, W, D)``, in float32.

        H' is a multiple of H: 1, 2 or 4 times, by the upsamplings before the cut.
        """
        with autocast(latents.device.type, self.amp_dtype):
            return self.blocks(latents / self.scale_factor).float()


class _Decoder(nn.Module):
    """An autoencoder's own way from latents to the image, which may be more than its blocks."""

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)  # type: ignore[operator]
