"""Values to stored numbers and back, as odd headers state it."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tools.dicom.storage import SliceStorage


def header(**values: object) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ({"BitsAllocated": 16, "BitsStored": 12, "PixelRepresentation": 0}, 0, 4095),
        ({"BitsAllocated": 16, "BitsStored": 12, "PixelRepresentation": 1}, -2048, 2047),
        ({"BitsAllocated": 8, "PixelRepresentation": 0}, 0, 255),
        ({"BitsAllocated": 16, "BitsStored": 16}, 0, 65535),
    ],
)
def test_values_end_at_the_range_of_the_bits(
    values: dict[str, object], low: int, high: int
) -> None:
    storage = SliceStorage.of(header(**values))
    assert (storage.slope, storage.intercept, storage.padding) == (1.0, 0.0, None)
    assert storage.to_stored(np.array([-1e6, 1e6])).tolist() == [low, high]


@pytest.mark.parametrize("slope", [0.25, 0.37, 1.0, -0.37, 12.5])
def test_stored_numbers_survive_the_way_to_values_of_a_float_image(slope: float) -> None:
    storage = SliceStorage(slope, -1000.3, 0, 65535)
    stored = np.arange(0, 65536, 7)
    values = storage.to_values(stored).astype(np.float32)
    np.testing.assert_array_equal(storage.to_stored(values), stored)


@pytest.mark.parametrize(
    ("slope", "intercept", "whole"),
    [(1, -1024, True), (1.0000001, -1024, True), (3, 0, True), (0.5, 0, False), (1, 0.3, False)],
)
def test_whole_numbers_but_for_decimal_strings(slope: float, intercept: float, whole: bool) -> None:
    assert SliceStorage(slope, intercept).whole == whole


def test_wide_steps_are_settled_after_one_round() -> None:
    storage = SliceStorage(2.5, -1000.0)
    values = np.arange(-1000, 400)
    once = storage.to_values(storage.to_stored(values))
    assert np.abs(once - values).max() <= 1.5  # half a step and the rounding
    np.testing.assert_array_equal(storage.to_values(storage.to_stored(once)), once)


@pytest.mark.parametrize(
    ("values", "given", "expected"),
    [
        ({"PixelPaddingValue": 0}, [0, 1], [1, 1]),
        ({"PixelPaddingValue": 10, "PixelPaddingRangeLimit": 0}, [0, 4, 10, 11], [11, 11, 11, 11]),
        ({"PixelPaddingValue": 4095}, [4095, 9000], [4094, 4094]),
        ({"PixelPaddingValue": ""}, [0], [0]),
    ],
)
def test_a_lesion_is_never_padding(
    values: dict[str, object], given: list[int], expected: list[int]
) -> None:
    storage = SliceStorage.of(header(BitsStored=12, PixelRepresentation=0, **values))
    assert storage.to_stored(np.array(given)).tolist() == expected


def test_padding_that_lost_its_sign() -> None:
    signed = header(BitsAllocated=16, BitsStored=16, PixelRepresentation=1)
    signed.PixelPaddingValue = 63536
    assert SliceStorage.of(signed).padding == (-2000, -2000)


def test_slope_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="RescaleSlope must not be 0, got 0"):
        SliceStorage.of(header(RescaleSlope=0))
