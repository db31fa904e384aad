"""Radiomic features against values derived by hand, and against what must not change them."""

import numpy as np
import pytest

from tools.metrics.radiomics import (
    centred_cube,
    cooccurrence,
    isotropic,
    radiomic_features,
    run_lengths,
)

# in a plane there are neighbours in 4 of the 13 directions
LEVELS = np.array([[1, 1, 2], [1, 2, 2]]).reshape(2, 3, 1)


def test_neighbours_of_a_plane_by_hand() -> None:
    # rows 11 12 | 12 22; columns 11 12 22; one diagonal 12 12, the other 11 22
    wanted = np.array([[2 * 3, 5], [5, 2 * 3]]) / 2 / 11
    assert np.allclose(cooccurrence(LEVELS), wanted)


def test_runs_of_a_plane_by_hand() -> None:
    # two equal voxels in a row, in a column, on a diagonal, of either level; else single ones
    single = 3 * 13 - 2 * 3
    assert run_lengths(LEVELS).tolist() == [[single, 3, 0], [single, 3, 0]]


def test_a_ball_is_round_and_an_even_one_has_no_texture() -> None:
    grid = np.indices((41, 41, 41)) - 20
    ball = (grid**2).sum(0) <= 15**2
    found = radiomic_features(np.full(ball.shape, 40.0), ball)
    assert found["shape_sphericity"] == pytest.approx(0.92, abs=0.02)  # of its facets
    assert found["shape_elongation"] == pytest.approx(1, abs=0.01)
    assert found["shape_volume_mm3"] == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.02)
    assert (found["sd"], found["entropy"], found["glcm_contrast"]) == (0, 0, 0)
    assert found["glcm_correlation"] == found["glcm_homogeneity"] == 1


def test_an_empty_mask_has_no_feature() -> None:
    found = radiomic_features(np.zeros((5, 5, 5)), np.zeros((5, 5, 5), bool))
    assert np.isnan(list(found.values())).all()


def test_features_are_those_of_the_body_not_of_its_voxels() -> None:
    grid = (np.indices((24, 24, 48)) - np.reshape([11.5, 11.5, 23.5], (3, 1, 1, 1))) * np.reshape(
        [1, 1, 0.5], (3, 1, 1, 1)
    )
    ball = (grid**2).sum(0) <= 8**2
    image = 50 + 3 * grid[0]
    fine = radiomic_features(image, ball, (1, 1, 0.5))
    coarse = radiomic_features(image[..., ::2], ball[..., ::2], (1, 1, 1))
    for name in ("mean", "sd", "shape_volume_mm3", "shape_sphericity"):
        assert fine[name] == pytest.approx(coarse[name], rel=0.06, abs=1), name
    values, inside = isotropic(image, ball, (1, 1, 0.5))
    assert values.shape == inside.shape == (24, 24, 24)


def test_the_middle_of_the_lesion_is_that_of_the_cube() -> None:
    image = np.zeros((20, 20, 5))
    image[14, 3, 2] = 1
    values, inside = centred_cube(image, image > 0, (1, 1, 4), 8)
    # four voxels of 1 mm along the last axis, whose middle is rounded to an even number
    assert np.argwhere(inside)[:, :2].tolist() == [[4, 4]] * 4
    assert values.shape == inside.shape == (8, 8, 8)
