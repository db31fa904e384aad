"""Copies are near, whatever their level, contrast and side; others are not."""

import numpy as np
import pytest
from scipy import ndimage

from tools.metrics.copies import (
    aligned_cube,
    like_sized,
    nearest,
    nearness_limits,
    picture_distances,
)

RNG = np.random.default_rng(0)
LIBRARY = RNG.normal(size=(6, 12, 12, 12))
BALL = ((np.indices((12, 12, 12)) - 6.0) ** 2).sum(0) < 16
MASKS = np.broadcast_to(BALL, LIBRARY.shape)


@pytest.mark.parametrize("axes", [(), (0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 2.5)])
def test_a_copy_is_found_mirrored_brighter_and_with_another_scan_round_it(
    axes: tuple[int, ...], spacing: tuple[float, float, float]
) -> None:
    images = ndimage.gaussian_filter(RNG.normal(size=(6, 21, 22, 23)), (0, 1, 1, 1))
    mask = np.zeros(images[0].shape, bool)
    mask[7:14, 6:14, 9:13] = True  # its middle lies between voxels
    library = np.stack([aligned_cube(image, mask, spacing)[0] for image in images])
    wide = ndimage.binary_dilation(mask, iterations=2)
    copy = np.flip(np.where(wide, images[3] * 40 - 300, 0), axes)
    values, inside = aligned_cube(copy, np.flip(mask, axes), spacing)
    apart = picture_distances(values[None], inside[None], library)[0]
    assert apart[3] == pytest.approx(0, abs=1e-5)
    assert apart[:3].min() > 0.2


def test_lesions_of_one_patient_are_no_copies() -> None:
    apart = picture_distances(LIBRARY, MASKS, LIBRARY)
    own = [str(n) for n in range(6)]
    assert nearest(apart)[0] == pytest.approx(0, abs=1e-6)
    assert nearest(apart)[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert (nearest(apart, own, own)[0] > 0.5).all()
    assert np.isnan(nearest(apart, ["p"] * 6, ["p"] * 6)[0]).all()


def test_what_has_no_texture_has_no_nearest() -> None:
    even = np.zeros((1, 12, 12, 12))
    assert np.isnan(picture_distances(even, BALL[None], LIBRARY)).all()
    assert np.isnan(picture_distances(LIBRARY[:1], BALL[None] & False, LIBRARY)).all()


def test_small_lesions_are_measured_by_small_ones() -> None:
    # 40 real lesions of 5 mm lie 0.1 to 0.139 apart, 40 of 20 mm lie 0.5 to 0.539 apart
    real = np.concatenate([start + np.arange(40) / 1000 for start in (0.1, 0.5)])
    sizes = np.repeat([5.0, 20.0], 40)
    assert nearness_limits([4.0, 5.0, 30.0], real, sizes) == pytest.approx([0.101, 0.101, 0.501])
    # of three lesions none lies below what 5 % do: the nearest is the limit
    assert nearness_limits([5.0], np.array([0.3, np.nan, 0.2]), [5, 5, 9]).tolist() == [0.2]
    assert np.isnan(nearness_limits([5.0], np.array([np.nan]), [5]))
    assert like_sized([5.0, 19.0], sizes)[1].min() == 40
