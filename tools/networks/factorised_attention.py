r"""Attention of the factorised 3-D U-Net: along depth, within slices, and linear within slices.

Features travel as tokens ``(B, D, H, W, C)``, channels last: the same memory is a batch of slices for a
2-D convolution, rows for a matrix product and sequences for attention, so that nothing is rearranged.
On a processor each attention works through a few thousand tokens at a time, whose intermediates then
stay in cache. Sub-modules carry the names of the published weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["DepthAttention", "DepthEncoding", "LinearAttention", "RelativePositionBias", "SliceAttention"]

# tokens whose queries, keys and values are held at once: 3 MB on a processor, 800 MB on a GPU
CPU_TOKENS, GPU_TOKENS = 1024, 2**18


class DepthEncoding(NamedTuple):
    """Where a slice is: what attention along depth knows of positions.

    Attributes:
        rotation: unit complex numbers ``(D, 1, head_size / 2)`` that turn queries and keys.
        bias: added to the scores, ``(heads, D, D)``.
    """

    rotation: Tensor
    bias: Tensor


class RelativePositionBias(nn.Module):
    """One learned number per head and bucket of slice distance; near distances have a bucket each.

    Half the buckets are for each sign; the first half of these are single distances, the rest grow
    logarithmically up to ``max_distance`` (T5, Raffel et al., JMLR 2020).

    Args:
        heads: attention heads.
        buckets: number of buckets.
        max_distance: distance in slices from which all share the last bucket.
    """

    def __init__(self, heads: int, buckets: int = 32, max_distance: int = 32) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.relative_attention_bias = nn.Embedding(buckets, heads)

    def forward(self, depth: int) -> Tensor:
        """Return ``(heads, depth, depth)``, query slice first."""
        table = self.relative_attention_bias
        half = table.num_embeddings // 2
        exact = half // 2
        position = torch.arange(depth, device=table.weight.device)
        offset = position[None, :] - position[:, None]
        distance = offset.abs()
        ratio = torch.log(distance.clamp(min=1) / exact) / math.log(self.max_distance / exact)
        far = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
        bucket = torch.where(distance < exact, distance, far) + half * (offset > 0)
        return table(bucket).permute(2, 0, 1)


def rotary_table(depth: int, size: int, device: torch.device) -> Tensor:
    r"""Return :math:`e^{i d \theta_f}`, :math:`\theta_f = 10000^{-2f/size}`, shape ``(depth, 1, size / 2)``.

    Computed where it is needed, always in float32: as a buffer it would be rounded with the weights when
    a network is cast to bfloat16, and distant slices would turn by wrong angles.
    """
    frequency = 10000.0 ** (-torch.arange(0, size, 2, device=device).float() / size)
    angle = torch.arange(depth, device=device).float()[:, None, None] * frequency
    return torch.polar(torch.ones_like(angle), angle)


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
    """Return the query, key, value matrix with the scale ``head_size ** -0.5`` in its query rows."""
    query, rest = weight.tensor_split([heads * head_size])
    return torch.cat([query * head_size**-0.5, rest])


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return softmax(query key^T + bias) value; all ``(N, heads, L, size)``, queries already scaled.

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
        channels: width of the tokens.
        heads: attention heads.
        head_size: width of a head, even and at most 32 (all of it is rotated).
        layers: innermost module of the branch, with ``to_qkv`` and ``to_out``.
        nesting: how many modules named ``fn`` the published code wraps round ``layers``.
    """

    def __init__(
        self, channels: int, heads: int, head_size: int, layers: dict[str, nn.Module], nesting: int
    ) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size
        inner = nn.ModuleDict(layers)
        for _ in range(nesting):
            inner = nn.ModuleDict({"fn": inner})
        self.fn = nn.ModuleDict({"fn": inner, "norm": ChannelNorm(channels)})
        # plain attributes through a tuple, so that the parameters are registered under one name only
        self._parts = (self.fn["norm"], layers["to_qkv"], layers["to_out"])
