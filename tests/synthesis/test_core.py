"""Solid cores in halos: the histogram asked for, the bright voxels together and deep."""

import numpy as np
import pytest
from scipy import ndimage

from tools.synthesis.core import place_core, split_histogram

HISTOGRAM = np.array([0.3, 0.3, 0.1, 0.3])  # of bins of 0.5 over [-1, 1]


def ball(radius: float = 6.0, side: int = 16) -> np.ndarray:
    grid = np.indices((side,) * 3) - (side - 1) / 2
    return np.linalg.norm(grid, axis=0) <= radius


def sampled(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.3, (16, 16, 16))


def test_the_histogram_is_met_and_nothing_else_changes() -> None:
    values, mask = sampled(), ball()
    made = place_core(values, mask, HISTOGRAM, 0.3, seed=1)
    assert (made[~mask] == values[~mask]).all()
    counts, _ = np.histogram(made[mask], 4, (-1, 1))
    assert counts / mask.sum() == pytest.approx(HISTOGRAM, abs=2 / mask.sum())
    assert (place_core(values, mask, HISTOGRAM, 0.3, seed=1) == made).all()


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_brightest_share_is_one_piece_inside_a_halo(share: float) -> None:
    mask = ball()
    histogram = split_histogram(HISTOGRAM, 2, share)
    made = place_core(sampled(), mask, histogram, share, seed=3)
    solid = mask & (made > 0)
    assert solid.sum() == pytest.approx(share * mask.sum(), abs=2)
    labels, _ = ndimage.label(solid, np.ones((3, 3, 3)))
    assert np.bincount(labels.ravel())[1:].max() > 0.95 * solid.sum()
    depth = ndimage.distance_transform_edt(mask)
    assert depth[solid].mean() > depth[mask & ~solid].mean() + 0.5


def test_within_core_and_halo_the_order_of_the_sampler_stays() -> None:
    values, mask = sampled(), ball()
    made = place_core(values, mask, HISTOGRAM, 0.4, seed=0)
    # between the two, some are of neither
    for lowest, highest in ((-1.0, -0.5), (0.5, 1.0)):
        part = mask & (made > lowest) & (made < highest)
        assert np.corrcoef(values[part], made[part])[0, 1] > 0.6


def test_an_empty_mask_changes_nothing() -> None:
    values = sampled()
    assert (place_core(values, np.zeros_like(values, bool), HISTOGRAM, 0.3, 0) == values).all()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_histogram_is_split_into_the_shares_asked_for(share: float) -> None:
    made = split_histogram(HISTOGRAM, 3, share)
    assert made[3] == pytest.approx(share)
    assert made[:3] == pytest.approx((1 - share) * HISTOGRAM[:3] / HISTOGRAM[:3].sum())
