"""How a DICOM slice stores its values: rescaling, range of the bits, padding; both ways."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from pydicom.dataset import Dataset

__all__ = ["STORAGE_TAGS", "SliceStorage"]

STORAGE_TAGS = [
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingRangeLimit",
    "PixelPaddingValue",
    "RescaleIntercept",
    "RescaleSlope",
]


class SliceStorage(NamedTuple):
    """What turns stored values into values (HU for CT) and back.

    ``value = slope * stored + intercept``.

    Attributes:
        slope: RescaleSlope, not 0; 1 where the slice has none, as most MR slices.
        intercept: RescaleIntercept; 0 where the slice has none.
        low: smallest number that BitsStored and PixelRepresentation can hold.
        high: largest one.
        padding: first and last stored number that mean "no picture here"; None if none does.
        signless: whether numbers from 32768 on are negative ones whose sign was lost: in CT, whose
            values end below, some scanners write 63536 for the -2000 beyond the field of view.

    Example:
        >>> twelve_bits = SliceStorage(1.0, -1024.0, 0, 4095, None)
        >>> twelve_bits.to_stored(np.array([-2000, -1024, 35, 9000])).tolist()
        [0, 0, 1059, 4095]
        >>> twelve_bits.to_values(np.array([0, 1059]), np.int16).tolist()
        [-1024, 35]
    """

    slope: float = 1.0
    intercept: float = 0.0
    low: int = -32768
    high: int = 32767
    padding: tuple[int, int] | None = None
    signless: bool = False

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers, but for the rounding of decimal strings."""
        whole = round(self.slope)
        drift = abs(self.slope - whole) * max(abs(self.low), abs(self.high))
        return whole != 0 and drift < 0.05 and abs(self.intercept - round(self.intercept)) < 1e-3

    @classmethod
    def of(cls, header: Dataset) -> SliceStorage:
        """Return the storage that the header of a slice states.

        Args:
            header: may lack any of ``STORAGE_TAGS``.

        Raises:
            ValueError: if the slope is 0, or what should be one number is none or several.

        Example:
            >>> header = Dataset()
            >>> header.BitsAllocated, header.BitsStored, header.PixelRepresentation = 16, 12, 0
            >>> header.RescaleIntercept = -1024
            >>> SliceStorage.of(header)
            SliceStorage(slope=1.0, intercept=-1024.0, low=0, high=4095, ...)
        """
        slope = _number(header, "RescaleSlope", 1)
        if slope == 0:
            raise ValueError("RescaleSlope must not be 0, got 0")
        allocated = _number(header, "BitsAllocated", 16)
        bits = int(_number(header, "BitsStored", allocated))
        if not 1 <= bits <= 32:
            raise ValueError(f"BitsStored must be from 1 to 32, got {bits}")
        signed = _number(header, "PixelRepresentation", 0) == 1
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        signless = header.get("Modality") == "CT" and allocated == 16 and not signed and slope == 1
        high = min(high, 2**15 - 1) if signless else high
        intercept = _number(header, "RescaleIntercept", 0)
        return cls(slope, intercept, low, high, _padding(header), signless)

    def to_values(self, stored: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
        """Return rescaled values.

        Args:
            stored: as pydicom decodes them, any shape.
            dtype: of the result; whole numbers are rounded to.
        """
        numbers = stored.astype(np.float64)
        if self.signless:
            numbers[numbers >= 2**15] -= 2**16
        values = numbers * self.slope + self.intercept
        return (values.round() if np.dtype(dtype).kind in "iu" else values).astype(dtype)

    def to_stored(self, values: np.ndarray) -> np.ndarray:
        """Return the stored numbers nearest to values, int64; never out of range, never padding.

        Args:
            values: rescaled values, any shape; what lies beyond the range becomes its end.
        """
        stored = np.rint((np.asarray(values, np.float64) - self.intercept) / self.slope)
        stored = np.clip(stored, self.low, self.high).astype(np.int64)
        if self.padding is None:
            return stored
        first, last = self.padding
        # a lesion must stay a part of the picture
        outside = last + 1 if last < self.high else first - 1
        return np.where((stored >= first) & (stored <= last), outside, stored)


def _number(header: Dataset, name: str, default: float) -> float:
    value = header.get(name)
    try:
        number = float(default if value in (None, "") else value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"{name} must be one number, got {value}")
    return number


def _padding(header: Dataset) -> tuple[int, int] | None:
    if header.get("PixelPaddingValue") in (None, ""):
        return None
    value = _number(header, "PixelPaddingValue", 0)
    ends = [int(value), int(_number(header, "PixelPaddingRangeLimit", value))]
    if _number(header, "PixelRepresentation", 0) == 1:  # written as US by some: 63536 for -2000
        size = 2 ** int(_number(header, "BitsAllocated", 16))
        ends = [end - size if end >= size // 2 else end for end in ends]
    return min(ends), max(ends)
