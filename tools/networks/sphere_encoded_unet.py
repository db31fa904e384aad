"""The published network of lesion masks: a sphere in a further channel says where one goes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tools.networks.factorised_unet import FactorisedUNet

__all__ = ["SphereEncodedUNet"]


class SphereEncodedUNet(FactorisedUNet):
    """Predict the noise of a lesion mask from the noised mask and its control sphere (DiffMask).

    A region of 1 (inside) and 0 (outside) is rewritten into the two values that the network was
    trained on. LeFusion means 1 and -1. Its released code computes ``2 * sphere - 1`` on bytes,
    where 0 becomes 255, so weights that this code trained expect 1 and 255; the file itself does
    not tell. Weights see the other encoding as nonsense:
    :func:`tools.convert.lefusion.sphere_encoding_losses` measures which. The values are
    arguments and not parameters, so that names and shapes stay those of the published checkpoints.

    Deviation: the published sampler knows no boundary. Here the region is the sphere as far as it
    lies within the boundary, and the sampler leaves everything beyond it without lesion.

    ``out_channels`` are the lesion classes, whose noised masks lead ``x``; the other
    ``in_channels`` are regions. Further arguments are those of :class:`FactorisedUNet`. No channel
    for the sphere, or two equal values, is a ``ValueError``.

    References:
        LeFusion, Zhang et al., ICLR 2025, section 3.3. https://arxiv.org/abs/2403.14066
    """

    def __init__(
        self,
        in_channels: int = 2,
        out_channels: int = 1,
        base_channels: int = 64,
        channel_multipliers: Sequence[int] = (1, 2, 4, 8),
        attention_heads: int = 8,
        attention_head_size: int = 32,
        sphere_inside: float = 1.0,
        sphere_outside: float = 255.0,
    ) -> None:
        if in_channels <= out_channels:
            raise ValueError(
                f"in_channels must be above out_channels ({out_channels}) to hold the sphere, "
                f"got {in_channels}"
            )
        if sphere_inside == sphere_outside:
            raise ValueError(f"sphere_outside must differ from sphere_inside, got {sphere_outside}")
        super().__init__(
            in_channels,
            out_channels,
            base_channels,
            channel_multipliers,
            condition_size=None,
            attention_heads=attention_heads,
            attention_head_size=attention_head_size,
        )
        self.out_channels = out_channels
        self.sphere_inside, self.sphere_outside = float(sphere_inside), float(sphere_outside)

    def forward(
        self, x: Tensor, timesteps: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Return the predicted noise, ``(B, out_channels, H, W, D)``, in the dtype of ``x``.

        A region of zeros means no sphere; the condition is ignored: the published network has none.
        """
        noised, region = x[:, : self.out_channels], x[:, self.out_channels :]
        sphere = self.sphere_outside + (self.sphere_inside - self.sphere_outside) * region
        return super().forward(torch.cat([noised, sphere], 1), timesteps)
