"""Noise of known spectrum, in regions of any form."""

import numpy as np
import pytest
from scipy import ndimage

from tools.metrics.spectrum import noise_spectrum, spectrum_ratio

BALL = (((np.indices((40, 40, 40)) - 19.5) ** 2).sum(0)) < 100
GRAIN = np.random.default_rng(0).normal(0, 1, BALL.shape)


def test_the_ratio_is_that_of_the_variances_at_each_frequency() -> None:
    image = np.where(BALL, 5 * GRAIN + 40, 10 * GRAIN - 850)
    found = spectrum_ratio(image, BALL, (1, 1, 1))
    # planes take more from the low frequencies of a small region than from those around
    assert found[1:] == pytest.approx([0.25] * 2, rel=0.15)
    assert 0.17 < found[0] < 0.27


def test_blurred_noise_lacks_high_frequencies() -> None:
    blurred = ndimage.gaussian_filter(GRAIN, (0.7, 0.7, 0))
    found = spectrum_ratio(np.where(BALL, blurred, GRAIN), BALL, (1, 1, 1))
    # exp(-(2 pi f s)^2) of the middle of each band
    assert (np.diff(found) < 0).all()
    assert found[0] > 0.3
    assert found[2] < 0.1


def test_a_slope_is_no_noise() -> None:
    slope = np.arange(40.0)[:, None, None] * 3 + GRAIN
    one, other = (noise_spectrum(x, BALL) for x in (slope, GRAIN))
    assert one == pytest.approx(other, rel=1e-3)


def test_what_is_too_small_has_no_spectrum() -> None:
    assert np.isnan(spectrum_ratio(GRAIN, BALL & False, (1, 1, 1))).all()
    assert np.isnan(noise_spectrum(GRAIN, GRAIN > 4)).all()
    assert np.isnan(spectrum_ratio(np.where(BALL, GRAIN, 0), BALL, (1, 1, 1))).all()
