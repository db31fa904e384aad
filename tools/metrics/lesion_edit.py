"""How far a histogram was missed in HU, and whether an edit stayed near its lesion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric
from scipy import ndimage
from torch import Tensor

__all__ = ["ChangedBeyondMargin", "HistogramDistance", "wasserstein_distance_hu"]


def wasserstein_distance_hu(p: Tensor, q: Tensor, window_hu: Sequence[float]) -> Tensor:
    r"""Return the Wasserstein-1 distance of two histograms: the mean HU by which voxels must move.

    :math:`W_1 = w \sum_k |P_k - Q_k|` with cumulative sums P and Q and bins of width w. Unlike the
    Jensen-Shannon divergence it tells a small miss from a large one where no bin is shared.

    Args:
        p: non-negative weights, shape ``(..., bins)``; rows are normalised first.
        q: likewise.
        window_hu: outer edges of the bins.

    Returns:
        Distance of shape ``(...)``; NaN where a row has no weight at all.

    Example:
        >>> p, q = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
        >>> wasserstein_distance_hu(p, q, (0, 300))
        tensor(200.)
    """
    width = (float(window_hu[1]) - float(window_hu[0])) / p.shape[-1]
    p, q = (x.float() / x.float().sum(-1, keepdim=True) for x in (p, q))
    return (p.cumsum(-1) - q.cumsum(-1)).abs().sum(-1) * width


class HistogramDistance(CumulativeIterationMetric):
    """Wasserstein-1 distance of achieved and requested histograms in HU; the median over lesions.

    Args:
        window_hu: outer edges of the bins.

    Example:
        >>> metric = HistogramDistance((0, 100))
        >>> _ = metric(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
        >>> metric.aggregate().item()
        50.0
    """

    def __init__(self, window_hu: Sequence[float]) -> None:
        super().__init__()
        self.window_hu = tuple(window_hu)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **_: object) -> Tensor:
        if y is None:
            raise ValueError("y must hold the requested histograms, got None")
        return wasserstein_distance_hu(y_pred.flatten(1), y.flatten(1), self.window_hu)[:, None]

    def aggregate(self) -> Tensor:
        """Return one number over all samples seen since ``reset``."""
        return _buffer(self).nanmedian()


class ChangedBeyondMargin(CumulativeIterationMetric):
    """Number of voxels that differ from the image at ``margin_mm`` of the lesion and farther.

    Called with the synthetic image and, as ``y``, image and lesion mask as two channels: what the
    inferer was given. ``aggregate`` is the sum over samples, which must be 0.

    Args:
        margin_mm: width of the blend; 0: nothing but the mask may change.
        spacing_mm: voxel size, a number or one for each axis.

    Example:
        >>> metric = ChangedBeyondMargin(margin_mm=2)
        >>> inputs = torch.zeros(1, 2, 1, 1, 5)
        >>> inputs[0, 1, 0, 0, 0] = 1
        >>> _ = metric(inputs[:, :1] + 0.1, inputs)
        >>> metric.aggregate().item()
        3.0
    """

    def __init__(self, margin_mm: float = 3.0, spacing_mm: float | Sequence[float] = 1.0) -> None:
        super().__init__()
        self.margin_mm = float(margin_mm)
        self.spacing_mm = np.broadcast_to(np.asarray(spacing_mm, float), 3)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **_: object) -> Tensor:
        if y is None or y.shape[1] < 2:
            raise ValueError("y must hold the image and the lesion mask as channels, got no mask")
        counts = []
        for drawn, given in zip(y_pred, y, strict=True):
            outside = ~(given[1:] > 0).any(0).cpu().numpy()
            far = outside
            if self.margin_mm and not outside.all():
                distance = ndimage.distance_transform_edt(outside, sampling=self.spacing_mm)
                far = distance >= self.margin_mm
            changed = (drawn[0] != given[0]).cpu().numpy()
            counts.append(float((changed & far).sum()))
        return torch.tensor(counts)[:, None]

    def aggregate(self) -> Tensor:
        """Return the voxels of all samples seen since ``reset``."""
        return _buffer(self).sum()


def _buffer(metric: CumulativeIterationMetric) -> Tensor:
    values = metric.get_buffer()
    if not isinstance(values, Tensor):
        raise ValueError("aggregate needs at least one sample, got none")
    return values
