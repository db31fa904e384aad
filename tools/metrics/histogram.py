"""Intensity histograms of lesions, and the divergence between two of them."""

from __future__ import annotations

import torch
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

__all__ = ["HistogramDivergence", "intensity_histogram", "jensen_shannon_divergence"]


def intensity_histogram(
    image: Tensor,
    lesion_mask: Tensor,
    bins: int = 16,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> Tensor:
    """Return the normalised intensity histogram of each sample inside its lesion mask.

    Bins are of equal width; values beyond ``value_range`` count in the outermost bins, as they do
    after an intensity window is applied. An empty mask gives a row of zeros (LeFusion, section 3.2:
    an absent lesion class has no histogram).

    Args:
        image: intensities, shape ``(B, ...)``.
        lesion_mask: 1 inside the lesion, same shape as ``image``.
        bins: number of bins.
        value_range: lower edge of the first and upper edge of the last bin.

    Returns:
        Histogram of shape ``(B, bins)``; each row sums to 1, or to 0 for an empty mask.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> image = torch.tensor([[-0.9, 0.9, 0.9]])
        >>> intensity_histogram(image, torch.tensor([[1, 1, 0]]), bins=2)
        tensor([[0.5000, 0.5000]])
    """
    if image.shape != lesion_mask.shape:
        raise ValueError(
            f"lesion_mask must have the shape of image, got {tuple(lesion_mask.shape)} "
            f"and {tuple(image.shape)}"
        )
    low, high = value_range
    inside = (lesion_mask > 0).flatten(1)
    position = (image.flatten(1).float() - low) * (bins / (high - low))
    index = position.floor().clamp_(0, bins - 1).long()
    counts = torch.zeros(image.shape[0], bins, device=image.device)
    counts.scatter_add_(1, index, inside.float())
    return counts / inside.sum(1, keepdim=True).clamp(min=1)


def jensen_shannon_divergence(p: Tensor, q: Tensor) -> Tensor:
    r"""Return the Jensen-Shannon divergence of two histograms, in nats.

    :math:`D(p, q) = \tfrac12 KL(p \| m) + \tfrac12 KL(q \| m)` with :math:`m = (p + q) / 2`; it
    lies in :math:`[0, \ln 2]` (Lin, IEEE Trans. Inf. Theory 1991). Rows are normalised first.

    Args:
        p: non-negative weights, shape ``(..., bins)``.
        q: non-negative weights, shape ``(..., bins)``.

    Returns:
        Divergence of shape ``(...)``; NaN where a row has no weight at all.

    Example:
        >>> jensen_shannon_divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor(0.6931)
    """
    p = p.float() / p.float().sum(-1, keepdim=True)
    q = q.float() / q.float().sum(-1, keepdim=True)
    middle = (p + q) / 2
    # xlogy is 0 where its first argument is 0, so empty bins need no epsilon
    entropy = torch.special.xlogy(middle, middle)
    terms = (torch.special.xlogy(p, p) + torch.special.xlogy(q, q)) / 2 - entropy
    return terms.sum(-1).clamp(min=0)


class HistogramDivergence(CumulativeIterationMetric):
    """Jensen-Shannon divergence of achieved and requested lesion histograms, as a MONAI metric.

    ``aggregate`` returns the median over samples that have a lesion (robust against the few lesions
    of a handful of voxels, whose histograms cannot be met better than by chance).

    Args:
        reduction: ``"median"`` or ``"mean"``.

    Example:
        >>> metric = HistogramDivergence()
        >>> _ = metric(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.5, 0.5]]))
        >>> metric.aggregate().item()
        0.0
    """

    def __init__(self, reduction: str = "median") -> None:
        super().__init__()
        if reduction not in ("median", "mean"):
            raise ValueError(f'reduction must be "median" or "mean", got {reduction!r}')
        self.reduction = reduction

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **_: object) -> Tensor:
        if y is None:
            raise ValueError("y must hold the requested histograms, got None")
        return jensen_shannon_divergence(y_pred.flatten(1), y.flatten(1))[:, None]

    def aggregate(self) -> Tensor:
        """Return one number over all samples seen since ``reset``."""
        values = self.get_buffer()
        if not isinstance(values, Tensor):
            raise ValueError("aggregate needs at least one sample, got none")
        return values.nanmedian() if self.reduction == "median" else values.nanmean()
