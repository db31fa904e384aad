"""Mean intensity of a lesion, and whether it rises from one request to the next."""

from __future__ import annotations

from collections.abc import Sequence

from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from tools.intensity import HuWindow

__all__ = ["LesionMean", "RisingMeans", "lesion_means"]


def lesion_means(image: Tensor, lesion_mask: Tensor) -> Tensor:
    """Return the mean of each channel inside the mask, NaN where the mask is empty.

    Args:
        image: intensities, shape ``(B, C, ...)``.
        lesion_mask: 1 inside the lesion, shape ``(B, 1, ...)``.

    Returns:
        Tensor ``(B, C)``.

    Example:
        >>> import torch
        >>> lesion_means(torch.tensor([[[1.0, 3.0, 8.0]]]), torch.tensor([[[1, 1, 0]]]))
        tensor([[2.]])
    """
    inside = (lesion_mask > 0).flatten(2).float()
    return (image.flatten(2).float() * inside).sum(2) / inside.sum(2)


class LesionMean(CumulativeIterationMetric):
    """Mean intensity inside the lesion in HU; ``aggregate`` is the median over cases.

    Args:
        window_hu: intensities that -1 and 1 stand for.

    Example:
        >>> import torch
        >>> metric = LesionMean((-1000, 400))
        >>> _ = metric(torch.zeros(1, 1, 4), torch.ones(1, 1, 4))
        >>> metric.aggregate().item()
        -300.0
    """

    def __init__(self, window_hu: Sequence[float]) -> None:
        super().__init__()
        self.scale = HuWindow(float(window_hu[0]), float(window_hu[1]))

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **_: object) -> Tensor:
        if y is None:
            raise ValueError("y must hold the lesion masks, got None")
        return self.scale.unscaled(lesion_means(y_pred, y))

    def aggregate(self) -> Tensor:
        """Return one number over all samples seen since ``reset``."""
        return _buffer(self).nanmedian()


class RisingMeans(CumulativeIterationMetric):
    """Share of cases whose mean intensity rises strictly from channel to channel.

    Channels are answers to requests of rising density (ground-glass, part-solid, solid).

    Example:
        >>> import torch
        >>> metric, mask = RisingMeans(), torch.ones(1, 1, 2)
        >>> _ = metric(torch.tensor([[[0.0, 0.0], [0.1, 0.1]]]), mask)
        >>> _ = metric(torch.tensor([[[0.2, 0.2], [0.1, 0.1]]]), mask)
        >>> metric.aggregate().item()
        0.5
    """

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **_: object) -> Tensor:
        if y is None:
            raise ValueError("y must hold the lesion masks, got None")
        means = lesion_means(y_pred, y)
        rising = (means.diff(dim=1) > 0).all(1, keepdim=True).float()
        # an empty mask has no means: it counts neither way
        return rising.masked_fill(means.isnan().any(1, keepdim=True), float("nan"))

    def aggregate(self) -> Tensor:
        """Return one number over all samples seen since ``reset``."""
        return _buffer(self).nanmean()


def _buffer(metric: CumulativeIterationMetric) -> Tensor:
    values = metric.get_buffer()
    if not isinstance(values, Tensor):
        raise ValueError("aggregate needs at least one sample, got none")
    return values
