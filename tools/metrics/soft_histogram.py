"""Histograms that gradients pass through, and the divergence between two of them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["soft_divergence", "soft_histogram"]

_TINY = 1e-8


def soft_histogram(
    values: Tensor,
    ranges: Tensor,
    bins: int = 40,
    weight: Tensor | None = None,
    dense: bool = False,
) -> Tensor:
    r"""Return normalised histograms in which each value is shared by its two nearest bins.

    :math:`h_k = \frac{1}{|S|} \sum_{i \in S} \mathrm{ReLU}(1 - |f_i - \mu_k| / w)`, HR-LDM Eq. 7,
    with bin centres :math:`\mu_k` from the first to the last number of the range and w their
    distance. Values beyond the range count in the end bins and get no gradient. It is computed in
    float32 whatever comes in.

    Deviation from the paper: the range is an argument, not that of the values at hand, so that two
    histograms can be compared and a prediction cannot move its own ruler.

    Args:
        values: shape ``(B, C, N)``.
        ranges: centres of the first and last bin of each channel, shape ``(C, 2)`` or ``(1, 2)``.
        bins: B, at least 2.
        weight: share with which a value counts, 0 or more, shape ``(B, 1 or C, N)``; None: 1.
        dense: build the table of values and bins instead of adding up with ``scatter_add``: bins
            times the memory, but the same bits in every run on a GPU too.

    Returns:
        Tensor ``(B, C, bins)``; rows sum to 1, or to 0 where nothing counts (an empty mask).

    Raises:
        ValueError: if ``bins`` is below 2 or the ranges are no intervals.

    References:
        Kannan et al., HR-LDM, 2026. https://arxiv.org/abs/2605.30631
        Ustinova and Lempitsky, NIPS 2016. https://arxiv.org/abs/1611.00822

    Example:
        >>> values, ranges = torch.tensor([[[0.0, 0.25, 9.0]]]), torch.tensor([[0.0, 1.0]])
        >>> soft_histogram(values, ranges, bins=3)
        tensor([[[0.5000, 0.1667, 0.3333]]])
    """
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    low, high = ranges.to(values.device, torch.float32)[None].unbind(-1)
    if not bool((low < high).all()):
        raise ValueError(f"ranges must hold intervals, lowest first, got {ranges.tolist()}")
    position = (values.float() - low[..., None]) / (high - low)[..., None] * (bins - 1)
    position = position.clamp(0, bins - 1)
    share = torch.ones_like(position) if weight is None else weight.float().expand_as(position)
    if dense:
        centres = torch.arange(bins, device=values.device, dtype=position.dtype)
        near = (1 - (position[..., None] - centres).abs()).relu()
        counts = (near * share[..., None]).sum(2)
    else:
        lower = position.detach().floor().clamp(max=bins - 2)
        upper_part, index = position - lower, lower.long()
        counts = position.new_zeros(*position.shape[:2], bins)
        counts = counts.scatter_add(2, index, share * (1 - upper_part))
        counts = counts.scatter_add(2, index + 1, share * upper_part)
    return counts / counts.sum(-1, keepdim=True).clamp(min=_TINY)


def soft_divergence(p: Tensor, q: Tensor) -> Tensor:
    r"""Return the Jensen-Shannon divergence of two histograms in nats, with finite gradients.

    :math:`\tfrac12 KL(p \| a) + \tfrac12 KL(q \| a)`, :math:`a = (p + q) / 2`, HR-LDM Eq. 8; 0 for
    equal rows, ln 2 where no bin is in both. **Of two histograms that share no bin the gradient is
    0**: bins must be wide enough for prediction and target to meet.

    :func:`tools.metrics.jensen_shannon_divergence` is the same number for evaluation; its gradient
    is infinite at empty bins.

    Args:
        p: shape ``(..., bins)``, rows sum to 1.
        q: likewise.

    Returns:
        Divergence of shape ``(...)``; 0 where both rows are empty.

    Example:
        >>> soft_divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor(0.6931)
    """
    middle = ((p + q) / 2).clamp(min=_TINY)
    terms = [torch.xlogy(x, x.clamp(min=_TINY)) - torch.xlogy(x, middle) for x in (p, q)]
    return (terms[0] + terms[1]).sum(-1) / 2
