"""Whether a lesion has the histogram that was asked for."""

from __future__ import annotations

from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from tools.histograms import jensen_shannon_divergence

__all__ = ["HistogramDivergence"]


class HistogramDivergence(CumulativeIterationMetric):
    """Jensen-Shannon divergence of achieved and requested lesion histograms, as a MONAI metric.

    ``aggregate`` returns the median over samples that have a lesion (robust against the few lesions
    of a handful of voxels, whose histograms cannot be met better than by chance).

    Args:
        reduction: ``"median"`` or ``"mean"``.

    Example:
        >>> import torch
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
