"""The published 3-D U-Net with factorised space and depth, rewritten for speed at equal output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tools.networks.factorised_attention import (
    DepthAttention,
    DepthEncoding,
    LinearAttention,
    RelativePositionBias,
    SliceAttention,
    rotary_table,
)
from tools.networks.factorised_blocks import (
    FactorisedResidualBlock,
    SliceConvolution,
    convolve_slices,
)
from tools.networks.traced_denoiser import TracedDenoiser

__all__ = ["FactorisedUNet"]

# of the layers that halve and double the in-plane size
HALVING: dict[str, Any] = {"kernel_size": (1, 4, 4), "stride": (1, 2, 2), "padding": (0, 1, 1)}


class SinusoidalEmbedding(nn.Module):
    """Sines, then cosines, of a timestep at frequencies from 1 to 1/10000; ``size`` is even."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, timesteps: Tensor) -> Tensor:
        half = self.size // 2
        exponent = torch.arange(half, device=timesteps.device).float() / (half - 1)
        angle = timesteps.float()[:, None] * torch.exp(-math.log(10000.0) * exponent)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class FactorisedUNet(nn.Module):
    """Predict noise with in-plane convolutions and attention along depth, as LeFusion publishes it.

    Depth, the last axis, is the axial direction: it is never reduced, so it may have any size; its
    slices exchange information only through attention (rotary and relative positions) and group
    statistics. The histogram joins the time embedding, which scales and shifts each residual block.

    Parameters have the names and shapes of the published checkpoints, and the output equals the
    published one up to rounding. Deviation: ``condition=None`` means the learned null vector here,
    where the released code inserts a histogram with all voxels in the brightest of 16 bins.

    ``base_channels`` is divisible by 8; level i has ``channel_multipliers[i]`` times as many, and
    the in-plane size halves from one to the next. ``condition_size`` of None means no condition,
    ``attention_head_size`` is even and at most 32. Widths that break this are a ``ValueError``.

    References:
        LeFusion, Zhang et al., ICLR 2025. https://arxiv.org/abs/2403.14066

    Example:
        >>> network = FactorisedUNet(1, 1, base_channels=8, condition_size=16).eval()
        >>> x, histogram = torch.zeros(1, 1, 16, 16, 5), torch.full((1, 16), 1 / 16)
        >>> network(x, torch.tensor([3]), histogram).shape
        torch.Size([1, 1, 16, 16, 5])
    """

    downs: Any
    ups: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        base_channels: int = 64,
        channel_multipliers: Sequence[int] = (1, 2, 4, 8),
        condition_size: int | None = 16,
        attention_heads: int = 8,
        attention_head_size: int = 32,
    ) -> None:
        super().__init__()
        if base_channels < 8 or base_channels % 8:
            raise ValueError(f"base_channels must be divisible by 8, got {base_channels}")
        if attention_head_size % 2 or not 0 < attention_head_size <= 32:
            raise ValueError(
                f"attention_head_size must be even and at most 32, got {attention_head_size}"
            )
        self.in_channels, self.condition_size = in_channels, condition_size
        self.attention = (attention_heads, attention_head_size)
        self.factor = 2 ** (len(channel_multipliers) - 1)
        self.time_rel_pos_bias = RelativePositionBias(attention_heads)
        self.init_conv = SliceConvolution(in_channels, base_channels, 7)
        self.init_temporal_attn = DepthAttention(base_channels, *self.attention)
        width = 4 * base_channels
        self.time_mlp = nn.Sequential(
            SinusoidalEmbedding(base_channels),
            nn.Linear(base_channels, width),
            nn.GELU(),
            nn.Linear(width, width),
        )
        if condition_size is not None:
            self.null_cond_emb = nn.Parameter(torch.randn(1, condition_size))
        widths = [base_channels, *(base_channels * m for m in channel_multipliers)]
        self._build_levels(widths, width + (condition_size or 0))
        self.final_conv = nn.Sequential(
            FactorisedResidualBlock(2 * base_channels, base_channels, None),
            SliceConvolution(base_channels, out_channels, 1),
        )

    def _build_levels(self, widths: list[int], embedding_size: int) -> None:
        """Make ``downs``, the middle and ``ups``; ``widths`` starts with that of ``init_conv``."""

        def level(first: int, second: int, change: nn.Module) -> nn.ModuleList:
            layers: list[nn.Module] = [
                FactorisedResidualBlock(first, second, embedding_size),
                FactorisedResidualBlock(second, second, embedding_size),
                LinearAttention(second, *self.attention),
                DepthAttention(second, *self.attention),
                change,
            ]
            return nn.ModuleList(layers)

        steps = list(pairwise(widths))
        self.downs = nn.ModuleList(
            level(above, below, nn.Conv3d(below, below, **HALVING)) for above, below in steps[:-1]
        )
        self.downs.append(level(*steps[-1], nn.Identity()))
        self.ups = nn.ModuleList(
            level(2 * below, above, nn.ConvTranspose3d(above, above, **HALVING))
            for above, below in reversed(steps[1:])
        )
        above, below = steps[0]
        self.ups.append(level(2 * below, above, nn.Identity()))
        middle = widths[-1]
        self.mid_block1 = FactorisedResidualBlock(middle, middle, embedding_size)
        self.mid_spatial_attn = SliceAttention(middle, *self.attention)
        self.mid_temporal_attn = DepthAttention(middle, *self.attention)
        self.mid_block2 = FactorisedResidualBlock(middle, middle, embedding_size)

    def forward(
        self, x: Tensor, timesteps: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Return the predicted noise, ``(B, out_channels, H, W, D)``, in the dtype of ``x``.

        ``x`` is the noised image (and mask), ``(B, in_channels, H, W, D)``, H and W divisible by 8
        for four levels, any D. Timesteps of None, for programs that give a network one tensor, are
        step 0. A condition ``(B, condition_size)`` of None, or a row of negative
        numbers throughout, selects the learned null vector. Other shapes are a ``ValueError``.
        """
        self._check(x, condition)
        if timesteps is None:
            timesteps = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        dtype = self.init_conv.weight.dtype
        embedding = self._embed(timesteps, condition, dtype)
        rotation = rotary_table(x.shape[-1], self.attention[1], x.device)
        encoding = DepthEncoding(rotation, self.time_rel_pos_bias(x.shape[-1]))
        tokens = self.init_conv(x.to(dtype).permute(0, 4, 2, 3, 1).contiguous())
        hidden = self.init_temporal_attn(tokens, encoding, overwrite=False)
        hidden = self._levels(hidden, embedding, encoding)
        output = self.final_conv[1](self.final_conv[0]((hidden, tokens)))
        return output.permute(0, 4, 2, 3, 1).to(x.dtype).contiguous()

    def __prepare_scriptable__(self) -> nn.Module:  # lists of layers of several kinds do not script
        return TracedDenoiser(self, self.in_channels, self.condition_size, 3 * self.factor)

    def _levels(self, hidden: Tensor, embedding: Tensor, encoding: DepthEncoding) -> Tensor:
        skips = []
        for first, second, within, along, change in self.downs:
            hidden = second((first((hidden,), embedding),), embedding)
            hidden = along(within(hidden), encoding)
            skips.append(hidden)
            hidden = convolve_slices(hidden, change)
        hidden = self.mid_spatial_attn(self.mid_block1((hidden,), embedding))
        hidden = self.mid_block2((self.mid_temporal_attn(hidden, encoding),), embedding)
        for first, second, within, along, change in self.ups:
            hidden = second((first((hidden, skips.pop()), embedding),), embedding)
            hidden = convolve_slices(along(within(hidden), encoding), change)
        return hidden

    def _embed(self, timesteps: Tensor, condition: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return the time embedding, followed by the condition where the network has one."""
        embedding = self.time_mlp[1:](self.time_mlp[0](timesteps).to(dtype))
        if self.condition_size is None:
            return embedding
        null = self.null_cond_emb.to(embedding.dtype).expand(len(timesteps), -1)
        if condition is None:
            return torch.cat([embedding, null], dim=1)
        free = (condition < 0).all(dim=1, keepdim=True)
        return torch.cat([embedding, torch.where(free, null, condition.to(embedding))], dim=1)

    def _check(self, x: Tensor, condition: Tensor | None) -> None:
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ValueError(f"x must be (B, {self.in_channels}, H, W, D), got {tuple(x.shape)}")
        if any(size % self.factor for size in x.shape[2:4]):
            sizes = tuple(x.shape[2:4])
            raise ValueError(f"x must have H and W divisible by {self.factor}, got {sizes}")
        if condition is None:
            return
        shape, expected = tuple(condition.shape), (len(x), self.condition_size)
        if self.condition_size is None:
            raise ValueError(f"condition must be None for a network without one, got {shape}")
        if shape != expected:
            raise ValueError(f"condition must have shape {expected}, got {shape}")
