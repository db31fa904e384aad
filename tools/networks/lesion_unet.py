"""A compact 3-D U-Net with histogram control: the default network, usable without a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import Tensor, nn
from torch.nn import functional

from tools.networks.histogram_condition import HistogramEmbedding, HistogramTokens
from tools.networks.traced_denoiser import TracedDenoiser

__all__ = ["LesionUNet"]


class ResidualBlock(nn.Module):
    """Two convolutions with group normalisation; the embedding scales and shifts the second."""

    def __init__(self, in_channels: int, out_channels: int, embedding_size: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, in_channels)
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(embedding_size, 2 * out_channels)
        self.norm2 = nn.GroupNorm(8, out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        for parameter in self.conv2.parameters():  # starts as the identity, which trains faster
            nn.init.zeros_(parameter)
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None, None].chunk(2, dim=1)
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = functional.silu(self.norm2(hidden) * (1 + scale) + shift)
        return self.conv2(hidden) + self.skip(x)  # in this order less is held at once


class VoxelAttention(nn.Module):
    """Self-attention at the coarsest level, cross-attention to tokens ``(B, bins, token_size)``."""

    heads = 4

    def __init__(self, channels: int, token_size: int | None) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.cross = None
        if token_size is not None:
            self.cross = nn.MultiheadAttention(
                channels, self.heads, kdim=token_size, vdim=token_size, batch_first=True
            )

    def forward(self, x: Tensor, tokens: Tensor | None) -> Tensor:
        hidden = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(hidden).chunk(3, dim=-1)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        result = self.out(attended.transpose(1, 2).flatten(2))
        if self.cross is not None and tokens is not None:
            result = result + self.cross(hidden, tokens, tokens, need_weights=False)[0]
        return x + result.transpose(1, 2).unflatten(2, x.shape[2:])


class LesionUNet(nn.Module):
    """Predict noise from a partly noised window, the lesion mask and a requested histogram.

    A plain residual U-Net: own design, not a published one. It is sized so that lesions train and
    sample in seconds on two processor cores; full 3-D convolutions mix depth, which the published
    factorised network leaves to attention (see ``FactorisedUNet``).

    ``channels`` are the widths of the levels, divisible by 8; each level halves the grid.
    ``condition_size`` is the number of bins (times classes), None for a network without control.
    ``conditioning`` of ``"time"`` adds the histogram's embedding to the time embedding (as the
    released LeFusion code does), ``"cross_attention"`` attends to one token per bin (as its paper
    says); anything else is a ``ValueError``.

    Example:
        >>> network = LesionUNet(channels=(8, 16), condition_size=4)
        >>> network(torch.zeros(1, 2, 8, 8, 8), torch.tensor([3]), torch.full((1, 4), 0.25)).shape
        torch.Size([1, 1, 8, 8, 8])
    """

    def __init__(
        self,
        in_channels: int = 2,
        out_channels: int = 1,
        channels: Sequence[int] = (32, 64, 128),
        num_res_blocks: int = 1,
        condition_size: int | None = 16,
        conditioning: str = "time",
    ) -> None:
        super().__init__()
        if conditioning not in ("time", "cross_attention"):
            raise ValueError(
                f'conditioning must be "time" or "cross_attention", got {conditioning!r}'
            )
        self.channels, self.condition_size = tuple(channels), condition_size
        width = 4 * channels[0]
        self.time_mlp = nn.Sequential(
            nn.Linear(channels[0], width), nn.SiLU(), nn.Linear(width, width)
        )
        self.histogram_mlp, self.histogram_tokens = None, None
        if condition_size is not None and conditioning == "time":
            self.histogram_mlp = HistogramEmbedding(condition_size, width)
        if condition_size is not None and conditioning == "cross_attention":
            self.histogram_tokens = HistogramTokens(condition_size, width)
        self.input = nn.Conv3d(in_channels, channels[0], 3, padding=1)
        self._build_levels(num_res_blocks, width, width if self.histogram_tokens else None)
        self.output = nn.Sequential(
            nn.GroupNorm(8, channels[0]),
            nn.SiLU(),
            nn.Conv3d(channels[0], out_channels, 3, padding=1),
        )

    def _build_levels(self, num_res_blocks: int, width: int, token_size: int | None) -> None:
        channels = self.channels
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, size in enumerate(channels):
            blocks = [ResidualBlock(size, size, width) for _ in range(num_res_blocks)]
            self.down.append(nn.ModuleList(blocks))
            first = ResidualBlock(2 * size, size, width)
            rest = [ResidualBlock(size, size, width) for _ in range(num_res_blocks - 1)]
            self.up.append(nn.ModuleList([first, *rest]))
            if level + 1 < len(channels):
                below = channels[level + 1]
                self.shrink.append(nn.Conv3d(size, below, 2, stride=2))
                # narrowing before enlarging costs an eighth of the reverse order
                self.grow.append(
                    nn.Sequential(nn.Conv3d(below, size, 1), nn.Upsample(scale_factor=2))
                )
        bottom = channels[-1]
        self.middle = nn.ModuleList([ResidualBlock(bottom, bottom, width) for _ in range(2)])
        self.attention = VoxelAttention(bottom, token_size)

    def forward(
        self, x: Tensor, timesteps: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        """Return the predicted noise of a noised image and mask, ``(B, in_channels, H, W, D)``.

        Each size must be divisible by ``2 ** (levels - 1)``. Timesteps of None, for programs that
        give a network one tensor, are step 0; a condition of None, or a row of -1, means no
        control.
        """
        factor = 2 ** (len(self.channels) - 1)
        if any(size % factor for size in x.shape[2:]):
            raise ValueError(
                f"spatial sizes must be divisible by {factor}, got {tuple(x.shape[2:])}"
            )
        if timesteps is None:
            timesteps = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        embedding = self.time_mlp(get_timestep_embedding(timesteps, self.channels[0]).to(x.dtype))
        if condition is None and self.condition_size is not None:
            condition = x.new_full((len(x), self.condition_size), -1.0)
        if self.histogram_mlp is not None:
            embedding = embedding + self.histogram_mlp(condition)
        tokens = None if self.histogram_tokens is None else self.histogram_tokens(condition)
        embedding = functional.silu(embedding)
        return self._levels(x.contiguous(memory_format=torch.channels_last_3d), embedding, tokens)

    def __prepare_scriptable__(self) -> nn.Module:  # loops over levels by index do not script
        size = 2 ** (len(self.channels) - 1)
        # twice the smallest window: a grid of one voxel at the bottom could be traced as such
        return TracedDenoiser(self, self.input.in_channels, self.condition_size or 1, 2 * size)

    def _levels(self, x: Tensor, embedding: Tensor, tokens: Tensor | None) -> Tensor:
        hidden = self.input(x)
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks:  # type: ignore[attr-defined]
                hidden = block(hidden, embedding)
            skips.append(hidden)
            if level < len(self.shrink):
                hidden = self.shrink[level](hidden)
        hidden = self.middle[0](hidden, embedding)
        hidden = self.middle[1](self.attention(hidden, tokens), embedding)
        for level in reversed(range(len(self.up))):
            hidden = torch.cat([hidden, skips.pop()], 1)
            for block in self.up[level]:  # type: ignore[attr-defined]
                hidden = block(hidden, embedding)
            if level:
                hidden = self.grow[level - 1](hidden)
        # near pure noise x_0 is the small difference of large terms: bfloat16 would drown it
        with torch.autocast(hidden.device.type, enabled=False):
            return self.output(hidden.float())
