"""Histograms of lesions: measured and compared by hand, as presets, moved, matched, soft."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tools.histograms import (
    adapt_histogram,
    choose_preset,
    histogram_preset,
    intensity_histogram,
    jensen_shannon_divergence,
    load_presets,
    match_histogram,
    normalize_blocks,
    perturb_histogram,
    soft_divergence,
    soft_histogram,
)

FROM = (-0.2, 0.2)
UNIT = torch.tensor([[0.0, 1.0]])


@pytest.mark.parametrize(
    ("image", "mask", "expected"),
    [
        # values beyond the range count in the outer bins
        ([-5.0, -1.0, 0.999, 1.0, 7.0], [1, 1, 1, 1, 1], [0.4, 0, 0, 0.6]),
        ([-0.9, 0.9], [0, 1], [0, 0, 0, 1]),
        ([0.1, 0.2], [0, 0], [0, 0, 0, 0]),
    ],
)
def test_only_the_lesion_counts(image: list, mask: list, expected: list) -> None:
    counts = intensity_histogram(torch.tensor([image]), torch.tensor([mask]), bins=4)
    assert counts.tolist() == [pytest.approx(expected)]


def test_histc_agrees() -> None:
    image = torch.rand(1, 500) * 2 - 1
    ours = intensity_histogram(image, torch.ones_like(image), 16)[0]
    assert torch.allclose(ours, torch.histc(image, 16, -1, 1) / 500)


def test_divergence_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.5, 0.0, 0.5])
    # each half has one term 1/2 ln 2 where the other is empty
    for divergence in (jensen_shannon_divergence(p, q), jensen_shannon_divergence(p * 7, q * 3)):
        assert divergence.item() == pytest.approx(0.5 * math.log(2), abs=1e-6)
    assert jensen_shannon_divergence(p, p).item() == 0


@pytest.mark.parametrize(
    ("values", "weight", "expected"),
    [
        # centres 0, 1/4, .. 1: 0.3 lies a fifth of the way from the second to the third
        ([0.3], None, [0, 0.8, 0.2, 0, 0]),
        ([0.0, 1.0], [1.0, 0.0], [1, 0, 0, 0, 0]),
        ([0.0, 1.0], [0.0, 0.0], [0, 0, 0, 0, 0]),
    ],
)
def test_a_value_is_shared_by_the_two_nearest_centres(
    values: list, weight: list | None, expected: list
) -> None:
    given = None if weight is None else torch.tensor([[weight]])
    histogram = soft_histogram(torch.tensor([[values]]), UNIT, 5, given)
    assert histogram.flatten().tolist() == pytest.approx(expected, abs=1e-6)


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


@pytest.fixture
def presets_file(tmp_path: Path) -> Path:
    presets = {
        "dark": {"histogram": [3, 1], "weight": 5},
        "bright": {"histogram": [0, 2], "weight": 95},
    }
    path = tmp_path / "presets.json"
    path.write_text(json.dumps({"bins": 2, "presets": presets}))
    return path


def test_presets_are_normalised_and_chosen_by_weight(presets_file: Path) -> None:
    presets = load_presets(presets_file)
    assert presets["dark"]["histogram"] == [0.75, 0.25]
    rng = np.random.default_rng(0)
    drawn = [choose_preset(presets, rng) for _ in range(2000)]
    assert drawn.count("bright") / 2000 == pytest.approx(0.95, abs=0.02)


def test_unknown_preset_lists_the_known(presets_file: Path) -> None:
    assert histogram_preset(presets_file, "none") is None
    with pytest.raises(FileNotFoundError, match="must be an existing JSON file"):
        load_presets(presets_file.with_name("none.json"))
    with pytest.raises(ValueError, match=r"preset must be one of \['bright', 'dark'\]"):
        histogram_preset(presets_file, "grey")


def test_fluctuation_stays_within_ten_percent_and_keeps_the_sum() -> None:
    rng = np.random.default_rng(0)
    histogram = np.array([0.0, 0.7, 0.2, 0.1])
    changed = np.array([perturb_histogram(histogram.tolist(), rng) for _ in range(500)])
    assert np.allclose(changed.sum(1), 1)
    assert (changed[:, 0] == 0).all()
    relative = changed[:, 1:] / histogram[1:]
    assert relative.min() >= 0.9
    assert relative.max() <= 1.1
    assert relative.std() > 0.01


def test_each_class_of_a_preset_is_normalised_and_perturbed_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    entry = {"histogram": [3, 1, 2, 2, 0, 0], "tissue": [-0.2, 0.1]}
    content = {"bins": 2, "classes": 3, "presets": {"a": entry, "b": {"histogram": [1] * 6}}}
    path.write_text(json.dumps(content))
    presets = load_presets(path)
    assert presets["a"] == {
        "histogram": [0.75, 0.25, 0.5, 0.5, 0, 0],
        "weight": 1.0,
        "tissue": [-0.2, 0.1],
        "gain": 1.0,
    }
    assert presets["b"] == {"histogram": [0.5] * 6, "weight": 1.0}
    changed = perturb_histogram(presets["a"]["histogram"], np.random.default_rng(0), classes=3)
    blocks = np.reshape(changed, (3, 2))
    assert blocks.sum(1) == pytest.approx([1, 1, 0])
    assert abs(blocks[0] / [0.75, 0.25] - 1).max() <= 0.1
    assert blocks[1, 0] != 0.5
    path.write_text(json.dumps(content | {"classes": 1}))
    with pytest.raises(ValueError, match="must hold 2 non-negative numbers"):
        load_presets(path)


def test_one_class_is_perturbed_as_ever() -> None:
    """Same seed, same numbers: records of lesions made before stay true."""
    changed = perturb_histogram([0.0, 0.7, 0.2, 0.1], np.random.default_rng(0))
    factors = np.random.default_rng(0).uniform(1 - 0.1 / 2.1, 1 + 0.1 / 2.1, 4)
    values = np.array([0.0, 0.7, 0.2, 0.1]) * factors
    assert changed == (values / values.sum()).tolist()


def test_matching_meets_the_histogram_and_keeps_the_order() -> None:
    values = torch.randn(1000)
    histogram = torch.rand(16)
    matched = match_histogram(values, histogram)
    achieved = intensity_histogram(matched[None], torch.ones(1, 1000), 16)[0]
    assert torch.allclose(achieved, histogram / histogram.sum(), atol=0.002)
    assert torch.equal(values.argsort(), matched.argsort())
    assert match_histogram(torch.empty(0), histogram).numel() == 0


def test_empty_bins_stay_empty() -> None:
    matched = match_histogram(torch.linspace(-1, 1, 100), torch.tensor([0.5, 0.0, 0.0, 0.5]))
    assert not ((matched > -0.5) & (matched < 0.5)).any()


def test_the_same_tissue_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    histogram = rng.dirichlet(np.ones(16), 2).ravel().tolist()
    assert adapt_histogram(histogram, FROM, FROM) == pytest.approx(histogram)


def test_an_adapted_histogram_is_that_of_the_mapped_voxels() -> None:
    rng = np.random.default_rng(1)
    values = rng.uniform(-0.75, 0.75, (2, 200_000)) * [[1], [1 / 3]]
    to = (-0.6, 0.1)
    mapped = to[0] + (values - FROM[0]) * (to[1] - to[0]) / (FROM[1] - FROM[0])

    def blocks(numbers: np.ndarray) -> list[float]:
        row = torch.from_numpy(numbers)
        return intensity_histogram(row, torch.ones_like(row), 16).flatten().tolist()

    # uniform up to edges of the bins, as the function takes it
    assert adapt_histogram(blocks(values), FROM, to) == pytest.approx(blocks(mapped), abs=0.004)


@pytest.mark.parametrize(
    ("histogram", "tissue_from", "tissue_to", "classes", "gain", "expected"),
    [
        # what leaves the range is in the end bins
        ([0, 0, 0, 1, 1, 0, 0, 0], (-0.5, 0), (1.5, 2.0), 2, 1, [0, 0, 0, 1, 0, 0, 0, 1]),
        ([0, 0, 0, 1], (0, 0.5), (-3, -2.5), 1, 1, [1, 0, 0, 0]),
        # no gain: the width stays; middle 0 goes to 0.5, one bin of four; the gap grows tenfold
        ([0, 1, 0, 0], (-0.05, 0.05), (0.0, 1.0), 1, 0, [0, 0, 1, 0]),
        # half the gain: a gap of four times gives twice the width, -0.25..0.25 to -0.5..0.5
        ([0, 0, 0, 1, 1, 0, 0, 0], (-0.1, 0.1), (-0.4, 0.4), 1, 0.5, [0, 0, *[0.5] * 4, 0, 0]),
    ],
)
def test_a_histogram_moves_with_its_tissues(
    histogram: list, tissue_from: tuple, tissue_to: tuple, classes: int, gain: float, expected: list
) -> None:
    moved = adapt_histogram(histogram, tissue_from, tissue_to, classes, gain=gain)
    assert moved == pytest.approx(expected)


def test_zero_blocks_stay_zero_and_each_block_keeps_its_sum() -> None:
    moved = np.reshape(adapt_histogram([0, 0.3, 0.7, 0] + [0] * 4, FROM, (0.3, 0.9)), (2, -1))
    assert moved.sum(1) == pytest.approx([1, 0])
    rng = np.random.default_rng(0)
    for _ in range(100):  # rounding must not leave a bin below 0, where logarithms end
        blocks = rng.dirichlet(np.full(16, 0.3), 2).astype(np.float32).ravel().tolist()
        assert min(adapt_histogram(blocks, FROM, sorted(rng.uniform(-1, 1, 2)))) >= 0


def adapt(**changes: object) -> list[float]:
    known = {"histogram": [0.5, 0.5, 1, 0], "tissue_from": FROM, "tissue_to": FROM}
    return adapt_histogram(**{**known, **changes})


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: intensity_histogram(UNIT, UNIT[:, :1], 2),
            "lesion_mask must have the shape of im",
        ),
        (lambda: soft_histogram(UNIT[None], 1 - UNIT, 4), "ranges must hold intervals"),
        (lambda: soft_histogram(UNIT[None], UNIT, 1), "bins must be at least"),
        (lambda: normalize_blocks([1] * 4, 3), r"3 blocks of equal length, got shape \(4,\)"),
        (lambda: adapt(classes=3), "histogram must be a row of 3 blocks of equal length"),
        (lambda: adapt(gain=2), "gain must be in 0..1, got 2"),
        (
            lambda: adapt(tissue_to=(0.1, 0.1)),
            r"blood on the same side of myocardium .* got \[0.1, 0.1\]",
        ),
    ],
)
def test_bad_input_gets_one_sentence(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()
