"""Whether a lesion has the histogram and mean asked for, and whether the edit stayed near it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from tools.histograms import jensen_shannon_divergence
from tools.intensity import HuWindow
from tools.metrics.per_case import CaseMetric


class HistogramDivergence(CaseMetric):
    """Jensen-Shannon divergence of achieved and requested histograms in nats, ``(B, bins)``.

    The median over lesions is robust against the few of a handful of voxels, whose histograms
    cannot be met better than by chance.

    Example:
        >>> metric = HistogramDivergence()
        >>> _ = metric(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.5, 0.5]]))
        >>> metric.aggregate().item()
        0.0
    """

    reference = "the requested histograms"

    def _measure(self, y_pred: Tensor, y: Tensor) -> Tensor:
        return jensen_shannon_divergence(y_pred.flatten(1), y.flatten(1))[:, None]


def wasserstein_distance_hu(p: Tensor, q: Tensor, window_hu: Sequence[float]) -> Tensor:
    r"""Return the Wasserstein-1 distance of two histograms: the mean HU by which voxels must move.

    :math:`W_1 = w \sum_k |P_k - Q_k|` with cumulative sums P and Q and bins of width w. Unlike the
    Jensen-Shannon divergence it tells a small miss from a large one where no bin is shared. Weights
    ``(..., bins)`` are normalised first, ``window_hu`` are the outer edges of the bins; ``(...)``,
    NaN where a row has no weight at all.

    Example:
        >>> p, q = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
        >>> wasserstein_distance_hu(p, q, (0, 300))
        tensor(200.)
    """
    width = (float(window_hu[1]) - float(window_hu[0])) / p.shape[-1]
    p, q = (x.float() / x.float().sum(-1, keepdim=True) for x in (p, q))
    return (p.cumsum(-1) - q.cumsum(-1)).abs().sum(-1) * width


class HistogramDistance(CaseMetric):
    """Wasserstein-1 distance of achieved and requested histograms in HU; the median over lesions.

    ``window_hu`` are the outer edges of the bins.

    Example:
        >>> metric = HistogramDistance((0, 100))
        >>> _ = metric(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
        >>> metric.aggregate().item()
        50.0
    """

    reference = "the requested histograms"

    def __init__(self, window_hu: Sequence[float]) -> None:
        super().__init__()
        self.window_hu = tuple(window_hu)

    def _measure(self, y_pred: Tensor, y: Tensor) -> Tensor:
        return wasserstein_distance_hu(y_pred.flatten(1), y.flatten(1), self.window_hu)[:, None]


def lesion_means(image: Tensor, lesion_mask: Tensor) -> Tensor:
    """Return the mean of each channel inside the mask, ``(B, C)``, NaN where the mask is empty.

    Of an image ``(B, C, ...)`` and a mask ``(B, 1, ...)``.

    Example:
        >>> lesion_means(torch.tensor([[[1.0, 3.0, 8.0]]]), torch.tensor([[[1, 1, 0]]]))
        tensor([[2.]])
    """
    inside = (lesion_mask > 0).flatten(2).float()
    return (image.flatten(2).float() * inside).sum(2) / inside.sum(2)


class LesionMean(CaseMetric):
    """Mean intensity inside the lesion in HU; ``aggregate`` is the median over cases.

    ``window_hu`` are the intensities that -1 and 1 stand for.

    Example:
        >>> metric = LesionMean((-1000, 400))
        >>> _ = metric(torch.zeros(1, 1, 4), torch.ones(1, 1, 4))
        >>> metric.aggregate().item()
        -300.0
    """

    def __init__(self, window_hu: Sequence[float]) -> None:
        super().__init__()
        self.scale = HuWindow(float(window_hu[0]), float(window_hu[1]))

    def _measure(self, y_pred: Tensor, y: Tensor) -> Tensor:
        return self.scale.unscaled(lesion_means(y_pred, y))


class RisingMeans(CaseMetric):
    """Share of cases whose mean intensity rises strictly from channel to channel.

    Channels are answers to requests of rising density (ground-glass, part-solid, solid).

    Example:
        >>> metric, mask = RisingMeans(), torch.ones(1, 1, 2)
        >>> _ = metric(torch.tensor([[[0.0, 0.0], [0.1, 0.1]]]), mask)
        >>> _ = metric(torch.tensor([[[0.2, 0.2], [0.1, 0.1]]]), mask)
        >>> metric.aggregate().item()
        0.5
    """

    reduction = "mean"

    def _measure(self, y_pred: Tensor, y: Tensor) -> Tensor:
        means = lesion_means(y_pred, y)
        rising = (means.diff(dim=1) > 0).all(1, keepdim=True).float()
        return rising.masked_fill(means.isnan().any(1, keepdim=True), float("nan"))


class ChangedBeyondMargin(CaseMetric):
    """Number of voxels that differ from the image at ``margin_mm`` of the lesion and farther.

    Called with the synthetic image and, as ``y``, image and lesion mask as two channels: what the
    inferer was given. ``aggregate`` is the sum over samples, which must be 0. ``margin_mm`` is the
    width of the blend (0: nothing but the mask may change), ``spacing_mm`` the voxel size, a number
    or one for each axis.

    Example:
        >>> metric = ChangedBeyondMargin(margin_mm=2)
        >>> inputs = torch.zeros(1, 2, 1, 1, 5)
        >>> inputs[0, 1, 0, 0, 0] = 1
        >>> _ = metric(inputs[:, :1] + 0.1, inputs)
        >>> metric.aggregate().item()
        3.0
    """

    reference = "the image and the lesion mask as channels"
    reduction = "sum"

    def __init__(self, margin_mm: float = 3.0, spacing_mm: float | Sequence[float] = 1.0) -> None:
        super().__init__()
        self.margin_mm = float(margin_mm)
        self.spacing_mm = np.broadcast_to(np.asarray(spacing_mm, float), 3)

    def _measure(self, y_pred: Tensor, y: Tensor) -> Tensor:
        if y.shape[1] < 2:
            raise ValueError(f"y must hold {self.reference}, got no mask")
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
