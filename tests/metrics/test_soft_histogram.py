"""Soft histograms: values worked out by hand, gradients, and what they cannot see."""

import math

import pytest
import torch

from tools.metrics import jensen_shannon_divergence
from tools.metrics.soft_histogram import soft_divergence, soft_histogram

UNIT = torch.tensor([[0.0, 1.0]])


def test_a_value_is_shared_by_the_two_nearest_centres() -> None:
    # centres 0, 1/4, .. 1: 0.3 lies a fifth of the way from the second to the third
    histogram = soft_histogram(torch.tensor([[[0.3]]]), UNIT, bins=5)
    assert histogram.flatten().tolist() == pytest.approx([0, 0.8, 0.2, 0, 0], abs=1e-6)


def test_end_bins_collect_what_lies_beyond_and_give_no_gradient() -> None:
    values = torch.tensor([[[-3.0, 0.4, 7.0]]], requires_grad=True)
    histogram = soft_histogram(values, UNIT, bins=3)
    assert histogram[0, 0, 0].item() == pytest.approx((1 + 0.2) / 3)
    assert histogram[0, 0, 2].item() == pytest.approx(1 / 3)
    (histogram * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    assert values.grad is not None
    # 0.4 moves from bin 0 to bin 1: (2 - 1) per width of 1/2, a third of the mass
    assert values.grad.flatten().tolist() == pytest.approx([0, 2 / 3, 0])


def test_dense_and_sparse_forms_agree_with_their_gradients() -> None:
    values = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(2, 1, 50, generator=torch.Generator().manual_seed(1))
    ranges = torch.tensor([[-1.0, 1.0], [-2.0, 2.0], [0.0, 0.5]])
    results = []
    for dense in (False, True):
        leaf = values.clone().requires_grad_()
        histogram = soft_histogram(leaf, ranges, 40, weight, dense)
        histogram.square().sum().backward()
        results.append((histogram.detach(), leaf.grad))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-6)
    assert torch.allclose(results[0][0].sum(-1), torch.ones(2, 3))


def test_weights_of_zero_and_empty_masks() -> None:
    values = torch.tensor([[[0.0, 1.0]]])
    left = soft_histogram(values, UNIT, 2, torch.tensor([[[1.0, 0.0]]]))
    assert left.flatten().tolist() == [1, 0]
    assert soft_histogram(values, UNIT, 2, torch.zeros(1, 1, 2)).sum() == 0


def test_half_precision_is_counted_in_full() -> None:
    values = torch.full((1, 1, 5000), 0.25, dtype=torch.bfloat16)
    histogram = soft_histogram(values, UNIT, 5)
    assert histogram.dtype == torch.float32
    assert histogram.flatten().tolist() == [0, 1, 0, 0, 0]


def test_divergence_is_the_one_of_the_evaluation() -> None:
    p, q = torch.rand(2, 4, 40, generator=torch.Generator().manual_seed(2)).unbind(0)
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    assert torch.allclose(soft_divergence(p, q), jensen_shannon_divergence(p, q), atol=1e-6)
    assert soft_divergence(p, p).abs().max() < 1e-6


def test_disjoint_supports_have_divergence_ln_2_and_no_gradient() -> None:
    values = torch.tensor([[[0.1, 0.15]]], requires_grad=True)
    target = soft_histogram(torch.tensor([[[0.8, 0.9]]]), UNIT, 11)
    divergence = soft_divergence(soft_histogram(values, UNIT, 11), target)
    divergence.sum().backward()
    assert divergence.item() == pytest.approx(math.log(2), abs=1e-5)
    assert values.grad is not None
    assert values.grad.abs().max() < 1e-4
    near = torch.tensor([[[0.75, 0.8]]], requires_grad=True)
    soft_divergence(soft_histogram(near, UNIT, 11), target).sum().backward()
    assert near.grad is not None
    assert near.grad.abs().max() > 0.1


def test_gradients_stay_finite_where_bins_are_empty() -> None:
    values = torch.tensor([[[0.0, 1.0, 0.5]]], requires_grad=True)  # exactly at centres
    target = torch.tensor([[[0.0, 0.0, 1.0, 0.0, 0.0]]])
    soft_divergence(soft_histogram(values, UNIT, 5), target).sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()


@pytest.mark.parametrize(
    ("ranges", "bins", "message"),
    [([[1.0, 0.0]], 4, "ranges must hold intervals"), ([[0.0, 1.0]], 1, "bins must be at least")],
)
def test_bad_rulers_are_named(ranges: list, bins: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        soft_histogram(torch.zeros(1, 1, 1), torch.tensor(ranges), bins)
