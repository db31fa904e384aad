"""What the metrics share: a number per case, and one number of all of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from monai.metrics import CumulativeIterationMetric
from torch import Tensor

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "median": Tensor.nanmedian,
    "mean": Tensor.nanmean,
    "sum": Tensor.nansum,
}


class CaseMetric(CumulativeIterationMetric):
    """A number per case, measured against ``y``; NaN where there is none, which does not count."""

    reference = "the lesion masks"  # what y must hold
    reduction = "median"
    of_masks = False  # y_pred and y must be masks of one shape

    @abstractmethod
    def _measure(self, y_pred: Tensor, y: Tensor) -> Tensor:
        """Return the numbers of a batch, ``(B, ...)``."""

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **_: object) -> Tensor:
        if y is None:
            raise ValueError(f"y must hold {self.reference}, got None")
        if self.of_masks and (y_pred.shape != y.shape or y.ndim != 5 or y.shape[1] != 1):
            raise ValueError(
                f"y_pred and y must be masks of equal shape (B, 1, H, W, D), got "
                f"{tuple(y_pred.shape)} and {tuple(y.shape)}"
            )
        return self._measure(y_pred, y)

    def measured(self) -> Tensor:
        """Return the numbers of all cases since ``reset``."""
        values = self.get_buffer()
        if not isinstance(values, Tensor):
            raise ValueError("aggregate needs at least one sample, got none")
        return values

    def aggregate(self) -> Tensor:
        """Return one number over all cases since ``reset``."""
        return REDUCTIONS[self.reduction](self.measured())
