"""Distances of sets whose distance is known, and the band of halves."""

import numpy as np
import pytest
import torch
from monai.metrics import FIDMetric

from tools.metrics.fidelity import (
    distances_of_halves,
    frechet_distance,
    kernel_distance,
    mean_discrepancy,
    plain_frechet_distance,
    precision_recall,
    sliced_wasserstein,
    standardized,
)

ROWS = np.random.default_rng(0).normal(0, 1, (400, 3))


def test_frechet_distance_of_normal_distributions() -> None:
    # |m|^2 + sum (s1 - s2)^2
    assert frechet_distance(ROWS, ROWS * 2) == pytest.approx(3 * ROWS.var() * 1, rel=0.1)
    assert frechet_distance(ROWS, ROWS + np.array([0, 3, 4])) == pytest.approx(25, rel=1e-3)


def test_frechet_distance_of_pictures_is_that_of_monai() -> None:
    features = [torch.from_numpy(rows) for rows in (ROWS, ROWS[:50] * 2 + 1)]
    expected = FIDMetric()(*features).item()
    assert plain_frechet_distance(ROWS, ROWS[:50] * 2 + 1) == pytest.approx(expected, rel=1e-4)


def test_kernel_distances_are_unbiased() -> None:
    rng = np.random.default_rng(1)
    for distance, far in ((kernel_distance, 1.0), (mean_discrepancy, 0.1)):
        same = [distance(*rng.normal(size=(2, 30, 3))) for _ in range(200)]
        assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(200)
        assert min(same) < 0  # a biased one never is
        assert distance(ROWS, ROWS + 2) > far
    assert np.isnan(kernel_distance(ROWS[:1], ROWS))


def test_kernel_distance_by_hand() -> None:
    a, b = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    # pairs (x y + 1)^3: within a 1, within b 343, across mean (1 + 1 + 27 + 64) / 4
    assert kernel_distance(a, b) == pytest.approx(1 + 343 - 2 * 93 / 4)


def test_sliced_wasserstein_of_a_shift_is_the_mean_of_its_projections() -> None:
    shift = np.array([3.0, 0, 0])
    # the mean of |cos| over directions in 3-D is one half
    assert sliced_wasserstein(ROWS, ROWS + shift, 2000) == pytest.approx(1.5, rel=0.05)


@pytest.mark.parametrize(
    ("synthetic", "precision", "recall"),
    [
        (ROWS[200:], (0.7, 1), (0.7, 1)),
        (ROWS[200:] * 0.01, (0.9, 1), (0, 0.2)),
        (ROWS + 50, (0, 0), (0, 0)),
    ],
)
def test_precision_and_recall(
    synthetic: np.ndarray, precision: tuple[float, float], recall: tuple[float, float]
) -> None:
    found = precision_recall(ROWS[:200], synthetic)
    for value, (low, high) in zip(found, (precision, recall), strict=True):
        assert low <= value <= high


def test_halves_never_share_a_patient() -> None:
    patients = np.repeat(np.arange(50), 8)
    seen = []

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        seen.append(set(a[:, 0]) & set(b[:, 0]))
        return float(len(a) + len(b))

    rows = patients[:, None].astype(float)
    assert distances_of_halves(rows, patients, distance, 5).tolist() == [400.0] * 5
    assert seen == [set()] * 5
    with pytest.raises(ValueError, match="at least 2 patients, got 1"):
        distances_of_halves(rows, ["p"] * 400, distance)


def test_features_are_scaled_by_the_real_ones() -> None:
    real = np.c_[ROWS[:, 0] * 100 + 7, np.ones(400), ROWS[:, 1]]
    other = np.full((2, 3), np.nan)
    one, two = standardized(real, other)
    assert one.shape[1] == 2  # a feature that all share tells nothing
    assert np.abs(np.median(one, axis=0)).max() < 1e-9
    assert np.allclose(one.std(0), 1, atol=0.1)
    assert two.tolist() == [[0, 0], [0, 0]]
