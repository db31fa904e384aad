"""The border of lesions whose edge, noise and contrast are known."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from tools.metrics.border import BorderFeatures, border_features, border_profile, noise_level

SPACING = (1.0, 1.0, 1.0)
GRID = np.indices((40, 40, 40)) - 19.5
BALL = np.sqrt((GRID**2).sum(0)) < 10


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("blur", "low", "high"), [(0.5, 0.9, 2.2), (1.5, 3.0, 4.6)])
def test_the_edge_is_as_wide_as_the_blur(sign: int, blur: float, low: float, high: float) -> None:
    # 10 to 90 % of a blurred step: 2.56 standard deviations, and the rings are 1 mm wide
    image = sign * (ndimage.gaussian_filter(BALL * 900.0, blur) - 850)
    found = border_features(image, BALL, SPACING)
    assert low < found["edge_mm"] < high
    assert found["core"] == pytest.approx(sign * 50, abs=5)
    assert found["around"] == pytest.approx(sign * -850, abs=5)
    assert sign * found["step"] > 0
    assert found["bright_share"] > 0.8


def test_a_step_lies_between_the_rings() -> None:
    profile = border_profile(np.where(BALL, 100.0, 0.0), BALL, SPACING)
    assert profile.tolist() == [100] * 6 + [0] * 6


def test_rings_are_of_mm_not_of_voxels() -> None:
    half = BALL[..., ::2]
    image = np.where(half, 100.0, 0.0)
    profile = border_profile(image, half, (1, 1, 2))
    assert profile[:5].tolist() == [100] * 5
    assert profile[7:].tolist() == [0] * 5


def test_noise_is_that_of_each_side() -> None:
    grain = np.random.default_rng(0).normal(0, 1, BALL.shape)
    found = border_features(np.where(BALL, 100 + 5 * grain, 20 * grain), BALL, SPACING)
    assert found["noise_inside"] == pytest.approx(5, rel=0.1)
    assert found["noise_around"] == pytest.approx(20, rel=0.1)
    assert found["noise_ratio"] == pytest.approx(0.25, rel=0.15)


def test_what_is_not_there_is_no_number() -> None:
    nothing = np.zeros(BALL.shape, bool)
    assert np.isnan(border_profile(np.zeros(BALL.shape), nothing, SPACING)).all()
    assert np.isnan(list(border_features(np.zeros(BALL.shape), nothing, SPACING).values())).all()
    assert np.isnan(noise_level(np.zeros((2, 2, 1)), np.zeros((2, 2, 1), bool)))


def test_the_metric_is_the_mean_of_its_cases() -> None:
    images = torch.stack([torch.from_numpy(np.where(BALL, v, 0.0)) for v in (100, 300)])[:, None]
    metric = BorderFeatures()
    metric(images, torch.from_numpy(BALL)[None, None].expand(2, -1, -1, -1, -1))
    assert metric.measured().shape == (2, len(metric.names))
    assert metric.measured()[:, metric.names.index("step")].tolist() == [100, 300]
