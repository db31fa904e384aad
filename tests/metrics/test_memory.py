"""Distances to training lesions: of other patients, mirror images alike, by hand."""

import numpy as np
import pytest

from tools.metrics.memory import (
    feature_distances,
    lesion_picture,
    nearest_training,
    picture_distances,
)


def test_nearest_real_lesions_are_of_other_patients() -> None:
    rows = np.array([[0.0, 0.0], [0.1, 0.1], [3.0, 4.0], [3.0, 4.2]])
    apart = feature_distances(rows, rows)
    assert apart[0, 2] == pytest.approx(5 / np.sqrt(2))
    found = nearest_training(apart[[2]] + 1, apart, ["a", "a", "b", "b"])
    assert (found.distance[0], found.nearest[0]) == (1, 2)
    assert found.real[0] == pytest.approx(5 / np.sqrt(2))
    assert found.real[3] == apart[3, 1]
    with pytest.raises(ValueError, match="at least 2 patients"):
        nearest_training(apart, apart, ["a"] * 4)
    with pytest.raises(ValueError, match="must be of 4 training lesions"):
        nearest_training(apart[:, :2], apart, ["a", "a", "b", "b"])


@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (0, 1, 2)])
def test_a_mirrored_lesion_is_the_same_lesion(axes: tuple[int, ...]) -> None:
    # odd sides, so that the middle stays where it is
    places = np.moveaxis(np.indices((39, 39, 39)), 0, -1)
    mask = (((places - 19) / [4, 6, 7]) ** 2).sum(-1) < 1
    mask &= places[..., 0] < 22
    values = np.random.default_rng(0).integers(-300, 100, mask.shape)
    shifted = np.roll(values, 3, 1)
    pictures = [
        lesion_picture(*(np.flip(each, flips) for each in pair), (1, 1, 1), (-1000, 400))[None]
        for pair, flips in (((values, mask), ()), ((values, mask), axes), ((shifted, mask), ()))
    ]
    assert picture_distances(pictures[0], pictures[1], -1000)[0, 0] == pytest.approx(0, abs=1e-3)
    assert picture_distances(pictures[0], pictures[2], -1000)[0, 0] > 50


def test_pictures_are_compared_on_the_pixels_of_either() -> None:
    # a cube of 2 x 2 x 2 voxels in one of 4 x 4 x 4, both of 0: 4 of 16 pixels are alike
    small, large = (np.zeros((9, 9, 9), bool) for _ in range(2))
    small[4:6, 4:6, 4:6], large[3:7, 3:7, 3:7] = True, True
    image = np.zeros((9, 9, 9))
    one, other = (lesion_picture(image, m, (1, 1, 1), (-100, 100))[None] for m in (small, large))
    assert np.isfinite(one).sum() == 12
    assert picture_distances(one, other, -100)[0, 0] == pytest.approx(100 * np.sqrt(0.75))
