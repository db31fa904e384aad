"""Histograms in nats and HU, means of lesions, and edits that leave their margin, by hand."""

import math

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from tools.metrics import HistogramDivergence, LesionMean, RisingMeans
from tools.metrics.lesion_edit import (
    ChangedBeyondMargin,
    HistogramDistance,
    lesion_means,
    wasserstein_distance_hu,
)
from tools.metrics.per_case import CaseMetric

MASK = torch.tensor([[[0.0, 1.0, 1.0, 0.0]]])
EMPTY = torch.zeros_like(MASK)
LOW, HIGH, NOTHING = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 0.0]]])


def flat(*values: float) -> Tensor:
    """An image of one sample, each channel with its own value."""
    return torch.tensor(values)[None, :, None].expand(1, len(values), 4)


@pytest.mark.parametrize(
    ("metric", "batches", "expected"),
    [
        (HistogramDivergence(), [(LOW, LOW), (LOW, HIGH), (LOW, HIGH)], math.log(2)),
        (HistogramDivergence(), [(LOW, HIGH), (NOTHING, LOW)], math.log(2)),
        (HistogramDistance((0, 20)), [(NOTHING, LOW), (LOW, HIGH)], 10),
        (LesionMean((-1000, 400)), [(flat(v), MASK) for v in (-1.0, 0.0, 1.0)], -300),
        (LesionMean((-1000, 400)), [(flat(-1.0), MASK), (MASK, EMPTY)], -1000),
        (RisingMeans(), [(flat(-0.5, 0.0, 0.5), MASK)], 1),
        (RisingMeans(), [(flat(0.0, 0.0, 0.5), MASK)], 0),
        (RisingMeans(), [(flat(0.5, 0.0, -0.5), MASK)], 0),
        (RisingMeans(), [(flat(0.0, 0.0), EMPTY), (flat(0.0, 1.0), MASK)], 1),
    ],
)
def test_one_number_of_all_cases_that_have_a_lesion(
    metric: CaseMetric, batches: list[tuple[Tensor, Tensor]], expected: float
) -> None:
    for result, reference in batches:
        metric(result, reference)
    assert metric.aggregate().item() == pytest.approx(expected)


def test_distance_is_that_of_scipy_on_bin_centres() -> None:
    p, q = torch.rand(40), torch.rand(40)
    centres = (torch.arange(40) + 0.5) * 35 - 1000
    expected = wasserstein_distance(centres, centres, p, q)
    assert wasserstein_distance_hu(p, q, (-1000, 400)).item() == pytest.approx(expected, rel=1e-4)


def test_means_are_taken_inside_the_mask() -> None:
    image = torch.tensor([[[9.0, 1.0, 2.0, 9.0], [0.0, -1.0, 1.0, 9.0]]])
    assert torch.equal(lesion_means(image, MASK), torch.tensor([[1.5, 0.0]]))
    assert bool(lesion_means(image, EMPTY).isnan().all())


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


@pytest.mark.parametrize(
    ("metric", "given", "sentence"),
    [
        (LesionMean((0, 1)), None, "y must hold the lesion masks, got None"),
        (RisingMeans(), None, "y must hold the lesion masks, got None"),
        (ChangedBeyondMargin(), MASK, "y must hold the image and the lesion mask as channels"),
    ],
)
def test_missing_masks_are_named(metric: CaseMetric, given: Tensor | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        metric(MASK, *([] if given is None else [given]))
