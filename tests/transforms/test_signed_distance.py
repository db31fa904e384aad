"""Distances known by hand: half a voxel at the surface, in the unit of the spacing."""

import numpy as np

from tools.transforms.signed_distance import signed_distance


def test_slices_know_nothing_of_each_other() -> None:
    mask = np.zeros((12, 5, 3), bool)
    mask[:6, :, 1] = True
    field = signed_distance(mask, (1.0, 1.0, 120.0), (0.0, 0.0, 0.0))
    assert field[:, 2, 1].tolist() == [
        5.5,
        4.5,
        3.5,
        2.5,
        1.5,
        0.5,
        -0.5,
        *(-0.5 - np.arange(1, 6)),
    ]
    assert (field[..., [0, 2]] < -100).all()


def test_blur_moves_no_straight_outline() -> None:
    mask = np.zeros((12, 6, 6), bool)
    mask[:6] = True
    sharp, smooth = (signed_distance(mask, (2.0,) * 3, blur) for blur in (0.0, 0.5))
    assert np.array_equal(sharp > 0, smooth > 0)
    assert np.abs(sharp - smooth)[2:-2].max() < 1e-6
