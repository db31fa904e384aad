r"""Attention of the factorised 3-D U-Net: along depth, within slices, and linear within slices.

Features travel as tokens ``(B, D, H, W, C)``, channels last: the same memory is a batch of slices
for a 2-D convolution, rows for a matrix product and sequences for attention, so that nothing is
rearranged. On a processor each attention works through some hundred tokens at a time, whose
intermediates then stay in cache. Sub-modules carry the names of the published weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.networks.depth_encoding import DepthEncoding

__all__ = ["DepthAttention", "LinearAttention", "SliceAttention"]

# tokens whose queries, keys and values are held at once: 1.6 MB on a processor, 800 MB on a GPU
CPU_TOKENS, GPU_TOKENS = 512, 2**18


class ChannelNorm(nn.Module):
    """Normalise each token over its channels; a gain, no offset."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of the same shape, ``(..., C)``."""
        gain = self.gamma.flatten().to(tokens.dtype)
        return functional.layer_norm(tokens, gain.shape, gain)


def scaled_projection(weight: Tensor, heads: int, head_size: int) -> Tensor:
    """Return the query, key, value matrix, its query rows scaled by ``head_size ** -0.5``."""
    query, rest = weight.tensor_split([heads * head_size])
    return torch.cat([query * head_size**-0.5, rest])


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return softmax(query key^T + bias) value; all ``(N, heads, L, size)``, queries scaled before.

    For the short sequences met here two matrix products take half the time of the fused kernel on a
    processor (measured, 32 tokens); elsewhere the fused kernel saves the memory of the scores.
    """
    bias = None if bias is None else bias.to(query.dtype)
    if query.device.type != "cpu" or query.shape[2] > 128:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
    scores = query @ key.transpose(-1, -2)
    if bias is not None:
        scores = scores.add_(bias)
    return scores.softmax(-1).to(value.dtype) @ value


def add_in_chunks(
    x: Tensor, branch: Callable[[Tensor], Tensor], dim: int, size: int, overwrite: bool
) -> Tensor:
    """Return ``x + branch(x)``, evaluated on ``size`` entries of axis ``dim`` at a time.

    Args:
        x: features, any shape.
        branch: function of a part of ``x`` that returns the same shape.
        dim: axis along which ``branch`` treats entries independently.
        size: entries per call, at least 1.
        overwrite: whether ``x`` itself may receive the result where no gradient is recorded.
    """
    if torch.is_grad_enabled():
        return x + torch.cat([branch(part) for part in x.split(size, dim)], dim)
    result = x if overwrite else x.clone()
    for source, target in zip(x.split(size, dim), result.split(size, dim), strict=True):
        target.add_(branch(source))
    return result


def token_budget(x: Tensor) -> int:
    """Return how many tokens an attention may treat at once on the device of ``x``."""
    return CPU_TOKENS if x.device.type == "cpu" else GPU_TOKENS


class Attention(nn.Module):
    """What the three attentions share: a residual branch that starts with :class:`ChannelNorm`.

    Args:
        heads: attention heads.
        head_size: width of a head.
        norm: first step of the branch.
        layers: the innermost module of the branch, with ``to_qkv`` and ``to_out``.
        nesting: how many containers named ``fn`` the published code wraps round ``layers``.
    """

    def __init__(
        self, heads: int, head_size: int, norm: ChannelNorm, layers: nn.ModuleDict, nesting: int
    ) -> None:
        super().__init__()
        self.heads, self.head_size, self.nesting = heads, head_size, nesting
        for _ in range(nesting):
            layers = nn.ModuleDict({"fn": layers})
        self.fn = nn.ModuleDict({"norm": norm, "fn": layers["fn"]})

    @property
    def norm(self) -> Any:
        """The normalisation before the branch."""
        return self.fn["norm"]

    @property
    def layers(self) -> Any:
        """The projections ``to_qkv`` and ``to_out``."""
        inner: Any = self.fn
        for _ in range(self.nesting):
            inner = inner["fn"]
        return inner


def linear_layers(channels: int, hidden: int) -> nn.ModuleDict:
    """Return the projections of the two softmax attentions: linear, without offsets."""
    return nn.ModuleDict(
        {
            "to_qkv": nn.Linear(channels, 3 * hidden, bias=False),
            "to_out": nn.Linear(hidden, channels, bias=False),
        }
    )


class DepthAttention(Attention):
    """Each pixel column attends along depth; the only place where slices exchange information.

    Queries and keys are rotated by the position of their slice, and a bias by relative distance is
    added to the scores.

    Args:
        channels: width of the tokens.
        heads: attention heads.
        head_size: width of a head, even.
    """

    def __init__(self, channels: int, heads: int, head_size: int) -> None:
        layers = linear_layers(channels, heads * head_size)
        super().__init__(heads, head_size, ChannelNorm(channels), layers, nesting=2)

    def forward(self, x: Tensor, encoding: DepthEncoding, overwrite: bool = True) -> Tensor:
        """Return tokens ``(B, D, H, W, C)``; ``overwrite``: see :func:`add_in_chunks`."""
        weight = scaled_projection(self.layers["to_qkv"].weight, self.heads, self.head_size)
        out = self.layers["to_out"].weight

        def branch(columns: Tensor) -> Tensor:
            B, D, pixels, C = columns.shape
            sequences = self.norm(columns.transpose(1, 2).reshape(B * pixels, D, C))
            query, key, value = self._project(sequences, weight, encoding.rotation)
            attended = attend(query, key, value, encoding.bias)
            result = functional.linear(attended.transpose(1, 2).flatten(2), out)
            return result.view(B, pixels, D, C).transpose(1, 2)

        pixels = max(1, token_budget(x) // (x.shape[0] * x.shape[1]))
        return add_in_chunks(x.flatten(2, 3), branch, 2, pixels, overwrite).view(x.shape)

    def _project(self, sequences: Tensor, weight: Tensor, rotation: Tensor) -> tuple[Tensor, ...]:
        """Return rotated query and key, and value, each ``(N, heads, D, head_size)``."""
        both = 2 * self.heads
        projected = functional.linear(sequences, weight)
        turned, value = projected.split([both * self.head_size, self.heads * self.head_size], -1)
        # complex numbers exist in float32 and float64 only; neighbouring channels make a pair
        wide = turned.to(torch.promote_types(turned.dtype, torch.float32))
        pairs = torch.view_as_complex(wide.unflatten(-1, (both, self.head_size // 2, 2)))
        pairs = pairs * rotation if torch.is_grad_enabled() else pairs.mul_(rotation)
        turned = torch.view_as_real(pairs).flatten(-2).to(value.dtype)
        query, key = turned.transpose(1, 2).chunk(2, dim=1)
        return query, key, value.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)


class SliceAttention(Attention):
    """Each pixel attends to all pixels of its slice, without positions; used at the coarsest level.

    Args:
        channels: width of the tokens.
        heads: attention heads.
        head_size: width of a head.
    """

    def __init__(self, channels: int, heads: int, head_size: int) -> None:
        layers = linear_layers(channels, heads * head_size)
        super().__init__(heads, head_size, ChannelNorm(channels), layers, nesting=2)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens ``(B, D, H, W, C)``."""
        weight = scaled_projection(self.layers["to_qkv"].weight, self.heads, self.head_size)
        out = self.layers["to_out"].weight

        def branch(slices: Tensor) -> Tensor:
            projected = functional.linear(self.norm(slices), weight)
            parts = projected.unflatten(-1, (3, self.heads, self.head_size))
            query, key, value = parts.permute(2, 0, 3, 1, 4)
            return functional.linear(attend(query, key, value).transpose(1, 2).flatten(2), out)

        slices = x.flatten(2, 3).flatten(0, 1)
        size = max(1, token_budget(x) // slices.shape[1])
        return add_in_chunks(slices, branch, 0, size, overwrite=True).view(x.shape)


class LinearAttention(Attention):
    r"""Attention within slices at a cost linear in pixels.

    q is a softmax over channels, k a softmax over pixels. With normalised tokens :math:`x`, a head
    gives :math:`y = s\, q\, ((k^T x W_v^T) W_o^T)`: bracketed this way the values are never formed,
    and the output projection meets a ``head_size x head_size`` matrix instead of every pixel. Equal
    to the published order of products up to rounding.

    Args:
        channels: width of the tokens.
        heads: attention heads.
        head_size: width of a head.
    """

    def __init__(self, channels: int, heads: int, head_size: int) -> None:
        hidden = heads * head_size
        layers = nn.ModuleDict(
            {
                "to_qkv": nn.Conv2d(channels, 3 * hidden, 1, bias=False),
                "to_out": nn.Conv2d(hidden, channels, 1),
            }
        )
        super().__init__(heads, head_size, ChannelNorm(channels), layers, nesting=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens ``(B, D, H, W, C)``."""
        slices = x.flatten(2, 3).flatten(0, 1)
        size = max(1, 2 * token_budget(x) // slices.shape[1])
        return add_in_chunks(slices, self._branch, 0, size, overwrite=True).view(x.shape)

    def _branch(self, slices: Tensor) -> Tensor:
        heads, size, hidden = self.heads, self.head_size, self.heads * self.head_size
        weight = self.layers["to_qkv"].weight.flatten(1)
        out = self.layers["to_out"]
        tokens = self.norm(slices)
        query, key = functional.linear(tokens, weight[: 2 * hidden]).split(hidden, -1)
        query = query.unflatten(-1, (heads, size)).softmax(-1).flatten(-2)
        gathered = torch.bmm(key.softmax(1).transpose(1, 2).to(tokens.dtype), tokens)
        value = weight[2 * hidden :].view(heads, size, -1)
        context = gathered.unflatten(1, (heads, size)) @ value.transpose(1, 2)
        mixing = context @ (out.weight.flatten(1).t() * size**-0.5).view(heads, size, -1)
        result = torch.bmm(query.to(mixing.dtype), mixing.flatten(1, 2))
        return result + out.bias.to(result.dtype)
