"""What stands for a large array gives what the array itself would."""

from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tools.scans.changed import Changed, Converted, PackedMask, packed

SHAPE = (5, 4, 6)
RNG = np.random.default_rng(0)
BASE = np.asfortranarray(RNG.integers(-99, 99, SHAPE).astype(np.int16))
MASK = RNG.random(SHAPE) > 0.5
INDEX = np.argwhere(RNG.random(SHAPE) > 0.7)
WHOLE = BASE.copy()
WHOLE[tuple(INDEX.T)] = np.arange(len(INDEX))
CHANGED = Changed(BASE, INDEX, np.arange(len(INDEX), dtype=np.int16))
PAIRS: list[tuple[Any, np.ndarray]] = [
    (Converted(BASE, lambda part: part * np.float32(0.5)), BASE * np.float32(0.5)),
    (CHANGED, WHOLE),
    (PackedMask(SHAPE, (MASK[..., k] for k in range(6))), MASK),
    (packed(np.asfortranarray(MASK)), MASK),
]


@pytest.mark.parametrize("key", [np.s_[..., 2], np.s_[1:4, 2, :], np.s_[::2, 1:, 3:9:2], (0, 1, 2)])
@pytest.mark.parametrize("pair", PAIRS, ids=["converted", "changed", "packed", "packed too"])
def test_a_part_is_that_of_the_array(pair: tuple[Any, np.ndarray], key: Any) -> None:
    made, array = pair
    assert (made.shape, made.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(made[key], array[key])
    np.testing.assert_array_equal(np.asarray(made), array)


@pytest.mark.parametrize("axes", ["LPS", "SRA", "AIL"])
def test_changes_turn_with_the_array(axes: str) -> None:
    turn = nib.orientations.axcodes2ornt(tuple(axes))
    expected = nib.apply_orientation(WHOLE, turn)
    np.testing.assert_array_equal(np.asarray(CHANGED.oriented(turn)), expected)


def test_a_mask_picks_voxels_and_is_empty_or_not() -> None:
    mask = packed(MASK)
    np.testing.assert_array_equal(BASE[mask], BASE[MASK])
    assert mask.any()
    assert mask.sum() == MASK.sum()
    assert not packed(MASK & False).any()
    assert packed(None) is None
