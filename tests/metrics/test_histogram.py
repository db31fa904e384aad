"""The metric of requested and achieved histograms."""

import math

import pytest
import torch

from tools.metrics import HistogramDivergence


def test_metric_is_the_median_of_samples_with_a_lesion() -> None:
    metric = HistogramDivergence()
    same, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    empty = torch.zeros(1, 2)
    for achieved, requested in [(same, same), (same, other), (same, other), (empty, same)]:
        metric(achieved, requested)
    assert metric.aggregate().item() == pytest.approx(math.log(2))
