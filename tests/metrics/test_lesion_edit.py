"""Distances of histograms in HU, and edits that leave their margin."""

import pytest
import torch
from scipy.stats import wasserstein_distance

from tools.metrics.lesion_edit import (
    ChangedBeyondMargin,
    HistogramDistance,
    wasserstein_distance_hu,
)


def test_distance_is_that_of_scipy_on_bin_centres() -> None:
    p, q = torch.rand(40), torch.rand(40)
    centres = (torch.arange(40) + 0.5) * 35 - 1000
    expected = wasserstein_distance(centres, centres, p, q)
    assert wasserstein_distance_hu(p, q, (-1000, 400)).item() == pytest.approx(expected, rel=1e-4)


def test_an_empty_histogram_counts_neither_way() -> None:
    metric = HistogramDistance((0, 20))
    metric(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert metric.aggregate().item() == 10


def test_changes_count_from_the_margin_on_in_millimetres() -> None:
    inputs = torch.zeros(2, 2, 9, 1, 1)
    inputs[0, 1, 4] = 1
    drawn = inputs[:, :1] + 1
    near = ChangedBeyondMargin(margin_mm=3)
    near(drawn, inputs)
    # at 3 and 4 mm on both sides, and all of the sample without a lesion
    assert near.get_buffer().flatten().tolist() == [4, 9]
    coarse = ChangedBeyondMargin(margin_mm=3, spacing_mm=(1.5, 1, 1))
    coarse(drawn[:1], inputs[:1])
    assert coarse.aggregate().item() == 6
    still = ChangedBeyondMargin(margin_mm=0)
    still(inputs[:, :1], inputs)
    assert still.aggregate().item() == 0


def test_missing_masks_are_named() -> None:
    with pytest.raises(ValueError, match="y must hold the image and the lesion mask"):
        ChangedBeyondMargin()(torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2))
