"""How a histogram enters a network: beside the time embedding, or as one token per bin."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["HistogramEmbedding", "HistogramTokens"]


def _no_control(condition: Tensor) -> Tensor:
    """Return a boolean ``(B, 1)``: rows that are negative throughout carry no histogram."""
    return (condition < 0).all(dim=1, keepdim=True)


class HistogramEmbedding(nn.Module):
    """Map a histogram to a vector that is added to the time embedding (as released).

    The square root of each bin goes in beside the bin itself, so that small bins are seen too.
    """

    def __init__(self, bins: int, embedding_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * bins, embedding_size),
            nn.SiLU(),
            nn.Linear(embedding_size, embedding_size),
        )
        self.no_control = nn.Parameter(torch.zeros(embedding_size))

    def forward(self, condition: Tensor) -> Tensor:
        """Return ``(B, embedding_size)``; a row of -1 gives the learned "no control" vector."""
        positive = condition.clamp(min=0)
        embedded = self.mlp(torch.cat([positive, positive.sqrt()], 1))
        return torch.where(_no_control(condition), self.no_control.to(embedded.dtype), embedded)


class HistogramTokens(nn.Module):
    r"""Map a histogram to one token per bin, for cross-attention (as the LeFusion paper says).

    A single token would make the softmax constant, and the condition a mere bias; with one token
    per bin the attention can choose. Token i is :math:`e_i + h_i u_i + \sqrt{h_i} v_i` with learned
    e, u, v.
    """

    def __init__(self, bins: int, token_size: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(bins, token_size) * 0.5)
        self.weight = nn.Parameter(torch.randn(2, bins, token_size) * 0.5)
        self.no_control = nn.Parameter(torch.zeros(bins, token_size))

    def forward(self, condition: Tensor) -> Tensor:
        """Return ``(B, bins, token_size)``; a row of -1 gives the learned "no control" tokens."""
        positive = condition.clamp(min=0)
        tokens = self.position + positive[..., None] * self.weight[0]
        tokens = tokens + positive.sqrt()[..., None] * self.weight[1]
        return torch.where(_no_control(condition)[..., None], self.no_control, tokens)
