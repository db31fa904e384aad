"""How attention along depth knows where a slice is: rotary angles and a relative bias."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["DepthEncoding", "RelativePositionBias", "rotary_table"]


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
        return table(bucket).permute(2, 0, 1).contiguous()


def rotary_table(depth: int, size: int, device: torch.device) -> Tensor:
    r"""Return :math:`e^{i d \theta_f}`, shape ``(depth, 1, size / 2)``; position d, frequency f.

    :math:`\theta_f = 10000^{-2f/size}` (RoFormer, Su et al., 2021). Computed where it is needed, in
    float32: as a buffer it would be rounded with the weights when a network is cast to bfloat16,
    and distant slices would turn by wrong angles.
    """
    frequency = 10000.0 ** (-torch.arange(0, size, 2, device=device).float() / size)
    angle = torch.arange(depth, device=device).float()[:, None, None] * frequency
    return torch.polar(torch.ones_like(angle), angle)
