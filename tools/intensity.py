"""Scales: the intensities of a scan to [-1, 1] and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

__all__ = ["HuWindow", "Percentiles", "scaled_window", "tissue_levels"]

Values = TypeVar("Values", np.ndarray, Tensor)


class HuWindow(NamedTuple):
    """The intensities that -1 and 1 stand for, ``low`` below ``high``."""

    low: float
    high: float

    def scaled(self, values: Values) -> Values:
        """Return intensities mapped to [-1, 1]; what lies beyond is clipped.

        Example:
            >>> HuWindow(-1000, 400).scaled(np.array([-300.0, 4000.0])).tolist()
            [0.0, 1.0]
        """
        low, high = self
        result: Any = (values - low) * (2 / (high - low)) - 1
        return result.clip(-1, 1)

    def unscaled(self, values: Values) -> Values:
        """Return values in [-1, 1] in the scan's units."""
        low, high = self
        return (values + 1) * ((high - low) / 2) + low

    def of(self, image: Any) -> HuWindow:
        """Return the scale of an image: the same for all, see :meth:`Percentiles.of`."""
        return self


@dataclass(frozen=True)
class Percentiles:
    """The scale of images without units, such as MRI: two percentiles of each become -1 and 1.

    One bright voxel changes nothing, unlike with minimum and maximum: ``(0, 100)``.

    Args:
        percentiles: two numbers in 0..100.
        empty_value: voxels of exactly this value are no signal and do not count; None: all count.
    """

    percentiles: Sequence[float] = (0.5, 99.5)
    empty_value: float | None = None

    def __post_init__(self) -> None:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(
                f"percentiles must be two numbers in order in 0..100, got {self.percentiles}"
            )

    def of(self, image: np.ndarray) -> HuWindow:
        """Return the intensities of an image that -1 and 1 stand for, the second above the first.

        Raises:
            ValueError: if there is no signal.

        Example:
            >>> Percentiles((0, 100), empty_value=0).of(np.array([0.0, 1.0, 3.0]))
            HuWindow(low=1.0, high=3.0)
        """
        counted = image if self.empty_value is None else image[image != self.empty_value]
        if not counted.size:
            raise ValueError(f"image must hold a signal, got {self.empty_value} only")
        low, high = (float(value) for value in np.percentile(counted, self.percentiles))
        return HuWindow(low, max(high, low + 1e-6))


def tissue_levels(
    image: np.ndarray,
    label: np.ndarray,
    wall: Sequence[int] = (2,),
    cavity: Sequence[int] = (1,),
) -> tuple[float, float]:
    """Return the median intensities of healthy wall and of blood.

    Medians of whole masks: without their outermost voxels they differ by 0.02 to 0.03 of the range
    [-1, 1] only, on both sides of a comparison, and small masks have nothing but outermost voxels.

    Voxels of lesions must not be among the labels of the wall; papillary muscles in the cavity do
    not move a median.

    Raises:
        ValueError: if the shapes differ, or the label map holds no wall or no cavity.

    Example:
        >>> tissue_levels(np.array([3.0, 5, 9, 4, 1]), np.array([2, 2, 1, 2, 0]))
        (4.0, 9.0)
    """
    values, classes = np.asarray(image), np.asarray(label)
    if values.shape != classes.shape:
        raise ValueError(f"label must have the shape of image {values.shape}, got {classes.shape}")
    levels = []
    for name, wanted in (("wall", wall), ("cavity", cavity)):
        inside = np.isin(classes, list(wanted))
        if not inside.any():
            held = np.unique(classes).tolist()
            raise ValueError(f"{name} must be labels that the label map holds {held}, got {wanted}")
        levels.append(float(np.median(values[inside])))
    return levels[0], levels[1]


def scaled_window(
    window_hu: Sequence[float], intensity_range: Sequence[float] = (-1000.0, 1000.0)
) -> list[float]:
    """Return the ends of a window of intensities where ``intensity_range`` became [0, 1].

    Example:
        >>> scaled_window([-1000, 400])
        [0.0, 0.7]
    """
    if not (window_hu[0] < window_hu[1] and intensity_range[0] < intensity_range[1]):
        raise ValueError(
            "window_hu and intensity_range must be two numbers, lowest first, got "
            f"{list(window_hu)} and {list(intensity_range)}"
        )
    low, high = intensity_range
    return [(value - low) / (high - low) for value in window_hu]
