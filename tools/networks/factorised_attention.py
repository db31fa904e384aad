"""Attention of the factorised 3-D U-Net: along depth, within slices, and linear within slices.

Features travel as tokens ``(B, D, H, W, C)``, channels last: the same memory is a batch of slices,
rows for a matrix product and sequences for attention. A processor works through some hundred tokens
at a time, which stay in cache. Sub-modules carry the names of the published weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "DepthAttention",
    "DepthEncoding",
    "LinearAttention",
    "RelativePositionBias",
    "SliceAttention",
    "rotary_table",
]

# tokens whose queries, keys and values are held at once: 1.6 MB on a processor, 800 MB on a GPU
CPU_TOKENS, GPU_TOKENS = 512, 2**18
BUCKETS, MAX_DISTANCE = 32, 32  # of slice distances; all from the largest on share a bucket


class DepthEncoding(NamedTuple):
    """What attention along depth knows of the positions of slices."""

    rotation: Tensor  # unit complex numbers (D, 1, head_size / 2) that turn queries and keys
    bias: Tensor  # added to the scores, (heads, D, D)


class RelativePositionBias(nn.Module):
    """One learned number per head and bucket of slice distance (T5, Raffel et al., JMLR 2020).

    Half the buckets are for each sign; the first half of these are single distances, the rest grow
    logarithmically.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(BUCKETS, heads)

    def forward(self, depth: int) -> Tensor:
        """Return ``(heads, depth, depth)``, query slice first."""
        table = self.relative_attention_bias
        half = BUCKETS // 2
        exact = half // 2
        position = torch.arange(depth, device=table.weight.device)
        offset = position[None, :] - position[:, None]
        distance = offset.abs()
        ratio = torch.log(distance.clamp(min=1) / exact) / math.log(MAX_DISTANCE / exact)
        far = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
        bucket = torch.where(distance < exact, distance, far) + half * (offset > 0)
        return table(bucket).permute(2, 0, 1).contiguous()


def rotary_table(depth: int, size: int, device: torch.device) -> Tensor:
    r"""Return :math:`e^{i d \theta_f}`, shape ``(depth, 1, size / 2)``; position d, frequency f.

    :math:`\theta_f = 10000^{-2f/size}` (RoFormer, Su et al., 2021). Computed where it is needed, in
    float32: a buffer would be rounded when a network is cast to bfloat16, and distant slices would
    turn by wrong angles.
    """
    frequency = 10000.0 ** (-torch.arange(0, size, 2, device=device).float() / size)
    angle = torch.arange(depth, device=device).float()[:, None, None] * frequency
    return torch.polar(torch.ones_like(angle), angle)


class ChannelNorm(nn.Module):
    """Normalise each token ``(..., C)`` over its channels; a gain, no offset."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        gain = self.gamma.flatten().to(tokens.dtype)
        return functional.layer_norm(tokens, gain.shape, gain)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return softmax(query key^T + bias) value; all ``(N, heads, L, size)``, queries scaled before.

    For short sequences two matrix products take half the time of the fused kernel on a processor
    (measured, 32 tokens); elsewhere the fused kernel saves the memory of the scores.
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

    ``branch`` treats those entries independently; ``overwrite`` lets ``x`` itself receive the
    result where no gradient is recorded.
    """
    if torch.is_grad_enabled():
        return x + torch.cat([branch(part) for part in x.split(size, dim)], dim)
    result = x if overwrite else x.clone()
    for source, target in zip(x.split(size, dim), result.split(size, dim), strict=True):
        target.add_(branch(source))
    return result


def token_budget(x: Tensor) -> int:
    return CPU_TOKENS if x.device.type == "cpu" else GPU_TOKENS


class Attention(nn.Module):
    """What the three attentions share: a residual branch that starts with :class:`ChannelNorm`."""

    nesting = 2  # containers named ``fn`` that the published code wraps round the projections

    def __init__(self, channels: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size
        layers = self._projections(channels, heads * head_size)
        for _ in range(self.nesting):
            layers = nn.ModuleDict({"fn": layers})
        self.fn = nn.ModuleDict({"norm": ChannelNorm(channels), "fn": layers["fn"]})

    def _projections(self, channels: int, hidden: int) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "to_qkv": nn.Linear(channels, 3 * hidden, bias=False),
                "to_out": nn.Linear(hidden, channels, bias=False),
            }
        )

    @property
    def norm(self) -> Any:
        return self.fn["norm"]

    @property
    def layers(self) -> Any:
        inner: Any = self.fn
        for _ in range(self.nesting):
            inner = inner["fn"]
        return inner

    def _scaled_projection(self) -> Tensor:
        """Return the query, key, value matrix, its query rows scaled by ``head_size ** -0.5``."""
        weight = self.layers["to_qkv"].weight
        query, rest = weight.tensor_split([self.heads * self.head_size])
        return torch.cat([query * self.head_size**-0.5, rest])


class DepthAttention(Attention):
    """Each pixel column attends along depth; the only place where slices exchange information.

    Queries and keys are rotated by the position of their slice, and a bias by relative distance is
    added to the scores; ``head_size`` is even.
    """

    def forward(self, x: Tensor, encoding: DepthEncoding, overwrite: bool = True) -> Tensor:
        """Return tokens ``(B, D, H, W, C)``; ``overwrite``: see :func:`add_in_chunks`."""
        weight = self._scaled_projection()
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
    """Each pixel attends to all pixels of its slice, without positions; at the coarsest level."""

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens ``(B, D, H, W, C)``."""
        weight = self._scaled_projection()
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
    """

    nesting = 1

    def _projections(self, channels: int, hidden: int) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "to_qkv": nn.Conv2d(channels, 3 * hidden, 1, bias=False),
                "to_out": nn.Conv2d(hidden, channels, 1),
            }
        )

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
