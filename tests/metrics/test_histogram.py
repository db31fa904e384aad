"""Histograms and their divergence, by hand."""

import math

import pytest
import torch

from tools.metrics import HistogramDivergence, intensity_histogram, jensen_shannon_divergence


def test_values_beyond_the_range_count_in_the_outer_bins() -> None:
    image = torch.tensor([[-5.0, -1.0, 0.999, 1.0, 7.0]])
    counts = intensity_histogram(image, torch.ones_like(image), bins=4)
    assert counts.tolist() == [pytest.approx([0.4, 0, 0, 0.6])]


def test_only_the_lesion_counts_and_an_empty_mask_gives_zeros() -> None:
    image = torch.tensor([[-0.9, 0.9], [0.1, 0.2]])
    mask = torch.tensor([[0, 1], [0, 0]])
    assert intensity_histogram(image, mask, bins=2).tolist() == [[0, 1], [0, 0]]


def test_histc_agrees() -> None:
    image = torch.rand(1, 500) * 2 - 1
    ours = intensity_histogram(image, torch.ones_like(image))[0]
    assert torch.allclose(ours, torch.histc(image, 16, -1, 1) / 500)


def test_divergence_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.5, 0.0, 0.5])
    # each half has one term 1/2 ln 2 where the other is empty
    assert jensen_shannon_divergence(p, q).item() == pytest.approx(0.5 * math.log(2), abs=1e-6)
    assert jensen_shannon_divergence(p, p).item() == 0
    assert jensen_shannon_divergence(p * 7, q * 3).item() == pytest.approx(
        0.5 * math.log(2), abs=1e-6
    )


def test_metric_is_the_median_of_samples_with_a_lesion() -> None:
    metric = HistogramDivergence()
    same, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    empty = torch.zeros(1, 2)
    for achieved, requested in [(same, same), (same, other), (same, other), (empty, same)]:
        metric(achieved, requested)
    assert metric.aggregate().item() == pytest.approx(math.log(2))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="lesion_mask must have the shape of image"):
        intensity_histogram(torch.zeros(1, 2), torch.zeros(1, 3))
