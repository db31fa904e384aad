"""One network per lesion class behind the interface of a joint one: the variants -S and -H."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tools.networks.lesion_unet import LesionUNet

__all__ = ["PerClassUNet"]


class PerClassUNet(nn.Module):
    """Give every lesion class a :class:`LesionUNet` that sees its own channel and mask only.

    No weight is shared and the loss is a sum over classes, so training all of them at once is the
    same as training each for itself, and the sampler that serves a joint model serves them too.
    ``condition_size`` is that of one class; other arguments are those of :class:`LesionUNet`.

    References:
        LeFusion-S and LeFusion-H, Zhang et al., ICLR 2025. https://arxiv.org/abs/2403.14066
    """

    def __init__(
        self,
        classes: int = 2,
        channels: Sequence[int] = (32, 64, 128),
        num_res_blocks: int = 1,
        condition_size: int | None = 16,
        conditioning: str = "time",
    ) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes must be at least 1, got {classes}")
        self.networks = nn.ModuleList(
            LesionUNet(2, 1, channels, num_res_blocks, condition_size, conditioning)
            for _ in range(classes)
        )

    def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the noise predicted for each class, ``(B, K, H, W, D)``.

        ``x`` has one noised image channel per class, then one mask per class; the condition holds
        the histograms of the classes side by side, ``(B, K * bins)``; None, or a row of -1: no
        control.
        """
        count = len(self.networks)
        if x.shape[1] != 2 * count:
            raise ValueError(
                f"x must have {count} image and {count} mask channels, got {x.shape[1]} channels"
            )
        pairs = x.unflatten(1, (2, count)).unbind(2)
        blocks = [None] * count if condition is None else condition.chunk(count, 1)
        parts = zip(self.networks, pairs, blocks, strict=True)
        return torch.cat([network(pair, timesteps, block) for network, pair, block in parts], 1)
