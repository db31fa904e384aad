"""Contrasts, border and distances of distributions on cases worked out by hand."""

import numpy as np
import pytest

from tools.evaluation.heart_contrast import border_jump, compare_values, heart_contrasts


def heart() -> tuple[np.ndarray, np.ndarray]:
    """A slice: blood 0.6, myocardium -0.4 (unit 1), infarct 0.8 (contrast 1.2), core 0.1 (0.5)."""
    tissue = np.zeros((6, 6, 2), int)
    tissue[0, :, 0], tissue[1, :, 0] = 1, 2
    tissue[2:6, :, 0] = 3
    tissue[3:5, 2:4, 0] = 4
    image = np.choose(tissue, [-1.0, 0.6, -0.4, 0.8, 0.1])
    return image, tissue


def test_contrast_is_zero_at_myocardium_and_one_at_blood() -> None:
    image, tissue = heart()
    found = heart_contrasts(image, tissue)
    assert found["infarct"] == pytest.approx(1.2)
    assert found["no_reflow"] == pytest.approx(0.5)
    assert found["ratio"] == pytest.approx(0.5 / 1.2)


def test_contrast_does_not_hang_on_the_scale_of_the_scan() -> None:
    image, tissue = heart()
    assert heart_contrasts(0.3 * image + 0.1, tissue) == pytest.approx(
        heart_contrasts(image, tissue)
    )


def test_absent_class_and_blood_without_contrast_are_undefined() -> None:
    image, tissue = heart()
    without_core = np.where(tissue == 4, 3, tissue)
    assert heart_contrasts(image, without_core)["no_reflow"] is None
    assert heart_contrasts(image, without_core)["ratio"] is None
    flat = np.where(tissue == 1, -0.4, image)
    assert set(heart_contrasts(flat, tissue).values()) == {None}
    assert border_jump(flat, tissue) is None


def test_border_counts_the_neighbours_within_the_slice() -> None:
    image, tissue = heart()
    # a core of 2 x 2 voxels has 8 sides; the next slice holds infarct below it and must not count
    tissue[3:5, 2:4, 1] = 3
    image[3:5, 2:4, 1] = -1
    assert border_jump(image, tissue) == {
        "fall": pytest.approx(0.7),
        "step": pytest.approx(0.7),
        "pairs": 8,
    }


def test_step_sees_roughness_that_the_mean_fall_hides() -> None:
    image, tissue = heart()
    image[3, 2:4, 0], image[4, 2:4, 0] = 0.8 + 0.5, 0.8 - 0.5
    jump = border_jump(image, tissue)
    assert jump is not None
    assert jump["fall"] == pytest.approx(0.0)
    assert jump["step"] == pytest.approx(0.5)


def test_no_border_without_contact() -> None:
    image, tissue = heart()
    tissue[2:6, :, 0] = 3
    tissue[4, 3, 1] = 4  # infarct above it, none beside it
    assert border_jump(image, tissue) is None


def test_shift_is_the_distance_and_hearts_count_alike() -> None:
    # hearts 1 and 3; twins of the first shifted by 0.5, of the second drawn thrice
    found = compare_values([1.0, 3.0], [[1.5], [3.5, 3.5, 3.5]])
    assert found is not None
    assert found["wasserstein"] == pytest.approx(0.5)
    assert found["error"] == pytest.approx(0.5)
    assert found["hearts"] == 2


def test_swapped_twins_have_no_distance_but_an_error() -> None:
    found = compare_values([1.0, 3.0, None], [[3.0], [1.0], [7.0]])
    assert found is not None
    assert found["wasserstein"] == pytest.approx(0.0)
    assert found["error"] == pytest.approx(2.0)
    assert compare_values([None], [[1.0]]) is None
