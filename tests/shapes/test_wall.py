"""Lesions of two classes in a wall: the inner lies in the outer, on whatever grid they are read."""

import numpy as np
import pytest

from tools.shapes import LabelShape, Place
from tools.shapes.wall import settle

AFFINE = np.diag([-1.5, -1.5, 10.0, 1.0])


def lesion() -> np.ndarray:
    """A core that touches its lesion by a corner, and a piece of core apart."""
    label = np.zeros((9, 5, 3), np.uint8)
    label[1:3, 1, 1], label[3, 2, 2], label[6, 1, 1] = 3, 4, 4
    return label


def test_a_core_without_a_lesion_round_it_becomes_lesion() -> None:
    label = lesion()
    settled = settle(label, (3, 4))
    assert settled[3, 2, 2] == 4
    assert settled[6, 1, 1] == 3
    assert np.array_equal(settled > 0, label > 0)
    alone = np.where(label > 0, 4, 0)
    assert np.array_equal(settle(alone, (3, 4)), alone)


def test_nothing_is_no_lesion() -> None:
    label = np.zeros((9, 5, 3), np.uint8)
    with pytest.raises(ValueError, match="mask must hold a lesion"):
        LabelShape.measure(label, Place(None, AFFINE, label == 0, None, (3, 4)), "nothing")


@pytest.mark.parametrize("values", [(3, 4), (4, 3)])
def test_masks_are_one_per_class_on_any_grid(values: tuple[int, int]) -> None:
    label = lesion()
    shape = LabelShape(label, AFFINE, values, "mine", 10.0)
    masks, box = shape.masks(AFFINE, label.shape)
    assert np.array_equal(masks, [label == value for value in values])
    assert np.array_equal(label[box], label)
    # turned, half the spacing in one axis, and less of it: the nearest voxel counts
    turned = AFFINE[:, [1, 0, 2, 3]] @ np.diag([1, 0.5, 1, 1])
    turned[:3, 3] = AFFINE[:3, :3] @ [0.75, 1, 1]
    masks, _ = shape.masks(turned, (4, 12, 2))
    wanted = np.repeat(label[1:7, 1:5, 1:3], 2, axis=0).transpose(1, 0, 2)
    assert np.array_equal(masks, [wanted == value for value in values])
