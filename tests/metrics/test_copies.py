"""Copies are near, whatever their level, contrast and side; others are not."""

import numpy as np
import pytest
from scipy import ndimage

from tools.metrics.copies import aligned_cube, centred_cube, nearest_features, nearest_pictures

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
    assert nearest_pictures(values[None], inside[None], library)[0] == pytest.approx(0, abs=1e-5)
    assert nearest_pictures(values[None], inside[None], library[:3])[0] > 0.2


def test_lesions_of_one_patient_are_no_copies() -> None:
    own = [str(n) for n in range(6)]
    assert (nearest_pictures(LIBRARY, MASKS, LIBRARY, own, own) > 0.5).all()
    rows = np.arange(6.0)[:, None]
    assert nearest_features(rows, rows, own, own).tolist() == [1.0] * 6
    assert nearest_features(rows, rows).tolist() == [0.0] * 6
    assert np.isnan(nearest_features(rows, rows, ["p"] * 6, ["p"] * 6)).all()
    assert np.isnan(nearest_pictures(LIBRARY, MASKS, LIBRARY, ["p"] * 6, ["p"] * 6)).all()


def test_what_has_no_texture_has_no_nearest() -> None:
    even = np.zeros((1, 12, 12, 12))
    assert np.isnan(nearest_pictures(even, BALL[None], LIBRARY)[0])
    assert np.isnan(nearest_pictures(LIBRARY[:1], BALL[None] & False, LIBRARY)[0])


def test_the_middle_of_the_lesion_is_that_of_the_cube() -> None:
    image = np.zeros((20, 20, 5))
    image[14, 3, 2] = 1
    values, inside = centred_cube(image, image > 0, (1, 1, 4), 8)
    # four voxels of 1 mm along the last axis, whose middle is rounded to an even number
    assert np.argwhere(inside)[:, :2].tolist() == [[4, 4]] * 4
    assert values.shape == inside.shape == (8, 8, 8)
