"""Residual blocks and in-plane convolutions of the factorised 3-D U-Net, on channels-last tokens.

Weights keep their published shapes ``(out, in, 1, k, k)``; the convolutions run as two-dimensional
ones over a batch of slices. Without gradients a block works through a few slices at a time, whose
activation, convolution and statistics lie in cache; large temporaries are not made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["FactorisedResidualBlock", "SliceConvolution", "convolve_slices"]

GROUPS = 8
CHUNK_BYTES = 2**22

Part = tuple[slice, slice]
"""Which samples and which slices of tokens ``(B, D, H, W, C)``."""


def convolve_slices(tokens: Tensor, layer: nn.Module) -> Tensor:
    """Apply a convolution one slice deep (``nn.Identity``: none) to tokens ``(B, D, H, W, C)``."""
    if isinstance(layer, nn.Identity):
        return tokens
    if not isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
        raise TypeError(f"layer must be a 3-D convolution, got {type(layer).__name__}")
    function = functional.conv_transpose2d if layer.transposed else functional.conv2d
    images = tokens.flatten(0, 1).permute(0, 3, 1, 2)
    stride, padding = list(layer.stride[1:]), [int(pad) for pad in layer.padding[1:]]
    result = function(images, layer.weight.squeeze(2), layer.bias, stride=stride, padding=padding)
    # contiguous() only acts where one channel leaves the memory order ambiguous
    return result.permute(0, 2, 3, 1).contiguous().unflatten(0, tokens.shape[:2])


class SliceConvolution(nn.Conv3d):
    """Convolution within slices, size kept, of tokens ``(B, D, H, W, C)``."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        pad = kernel_size // 2
        super().__init__(
            in_channels, out_channels, (1, kernel_size, kernel_size), padding=(0, pad, pad)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens ``(B, D, H, W, out_channels)``."""
        if self.kernel_size == (1, 1, 1):
            return functional.linear(tokens, self.weight.flatten(1), self.bias)
        return convolve_slices(tokens, self)


class Affine(NamedTuple):
    """Group normalisation and time modulation as one gain and offset, each ``(B, 1, 1, 1, C)``."""

    gain: Tensor
    offset: Tensor

    def activate(self, tokens: Tensor, samples: slice = slice(None)) -> Tensor:
        """Return SiLU(gain * tokens + offset)."""
        gain, offset = (part[samples].to(tokens.dtype) for part in self)
        inplace = not torch.is_grad_enabled()
        return functional.silu(torch.addcmul(offset, tokens, gain), inplace=inplace)


class Block(nn.Module):
    """Convolution and group normalisation, and how they act on parts."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = SliceConvolution(in_channels, out_channels, 3)
        self.norm = nn.GroupNorm(GROUPS, out_channels)

    def forward(
        self,
        read: Callable[[Part], Tensor],
        parts: list[Part],
        shape: torch.Size,
        modulation: Tensor | None = None,
        result: Tensor | None = None,
    ) -> tuple[Tensor, Affine]:
        """Return the convolution of all parts, and the affine map still to be applied to it.

        ``read`` gives the input of a part; ``shape`` is ``(B, D, H, W)``, ``modulation`` scale and
        shift per channel, ``(B, 2 * out_channels)``; ``result`` is where to write, or None.
        """
        sums: list[tuple[Tensor, Tensor]] = []
        for part in parts:
            hidden = self.proj(read(part))
            flat = hidden.flatten(1, 3)
            exact = torch.promote_types(flat.dtype, torch.float32)
            sums.append((flat.sum(1, dtype=exact), (flat * flat).sum(1, dtype=exact)))
            if len(parts) == 1:
                result = hidden
                continue
            if result is None:
                result = hidden.new_empty((*shape, hidden.shape[-1]))
            result[part] = hidden
        assert result is not None  # parts is never empty
        total, squares = (
            torch.cat(each).unflatten(0, (shape[0], -1)).sum(1) for each in zip(*sums, strict=True)
        )
        return result, self._affine(total, squares, shape[1:].numel(), modulation)

    def _affine(
        self, total: Tensor, squares: Tensor, voxels: int, modulation: Tensor | None
    ) -> Affine:
        """Return the affine map from sums and sums of squares per channel, ``(B, C)``."""
        members = total.shape[1] // GROUPS
        mean, square = (
            each.unflatten(1, (GROUPS, members)).sum(2) / (voxels * members)
            for each in (total, squares)
        )
        inverse = torch.rsqrt((square - mean**2).clamp(min=0) + self.norm.eps)
        mean, inverse = (each.repeat_interleave(members, dim=1) for each in (mean, inverse))
        gain = inverse * self.norm.weight
        offset = self.norm.bias - mean * gain
        if modulation is not None:
            scale, shift = modulation.to(gain).chunk(2, dim=1)
            gain, offset = gain * (scale + 1), offset * (scale + 1) + shift
        return Affine(gain[:, None, None, None], offset[:, None, None, None])


class FactorisedResidualBlock(nn.Module):
    """Two in-plane convolutions with group normalisation; the embedding modulates the first.

    ``in_channels`` is the width of all sources together, ``out_channels`` divisible by 8;
    ``embedding_size`` is None for a block without embedding.
    """

    def __init__(self, in_channels: int, out_channels: int, embedding_size: int | None) -> None:
        super().__init__()
        self.mlp = None
        if embedding_size is not None:
            self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(embedding_size, 2 * out_channels))
        self.block1 = Block(in_channels, out_channels)
        self.block2 = Block(out_channels, out_channels)
        same = in_channels == out_channels
        self.res_conv = nn.Identity() if same else SliceConvolution(in_channels, out_channels, 1)

    def forward(self, sources: tuple[Tensor, ...], embedding: Tensor | None = None) -> Tensor:
        """Return tokens ``(B, D, H, W, out_channels)``.

        The sources are joined along channels part by part, never as a whole.
        """
        shape = sources[0].shape[:4]
        modulation = None if self.mlp is None else self.mlp(embedding)

        def join(part: Part) -> Tensor:
            pieces = [source[part] for source in sources]
            return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)

        parts = partition(sources[0], self.block1.proj.out_channels)
        first, affine1 = self.block1(join, parts, shape, modulation)
        second, affine2 = self.block2(
            lambda part: affine1.activate(first[part], part[0]), parts, shape, result=first
        )
        if torch.is_grad_enabled():
            return affine2.activate(second) + self.res_conv(join(parts[0]))
        for part in parts:
            second[part] = affine2.activate(second[part], part[0]).add_(self.res_conv(join(part)))
        return second


def partition(tokens: Tensor, channels: int) -> list[Part]:
    """Return parts of about 4 MB of one sample each; a single part on a GPU or with gradients."""
    B, D, H, W, _ = tokens.shape
    if torch.is_grad_enabled() or tokens.device.type != "cpu":
        return [(slice(None), slice(None))]
    deep = max(1, CHUNK_BYTES // (H * W * channels * tokens.element_size()))
    starts = range(0, D, deep)
    return [(slice(b, b + 1), slice(d, d + deep)) for b in range(B) for d in starts]
