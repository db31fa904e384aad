"""Requested histograms: presets, fluctuation, and exact matching."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tools.metrics import intensity_histogram
from tools.transforms.histogram import (
    LesionHistogramd,
    RandHistogramTransferd,
    choose_preset,
    histogram_preset,
    load_presets,
    match_histogram,
    normalize_blocks,
    perturb_histogram,
)


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
    with pytest.raises(ValueError, match=r"preset must be one of \['bright', 'dark'\]"):
        histogram_preset(presets_file, "grey")


def test_wrong_length_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"bins": 3, "presets": {"a": {"histogram": [1, 1]}}}))
    with pytest.raises(ValueError, match="must hold 3 non-negative numbers"):
        load_presets(path)
    with pytest.raises(FileNotFoundError, match="must be an existing JSON file"):
        load_presets(tmp_path / "none.json")


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
    with pytest.raises(ValueError, match=r"3 blocks of equal length, got shape \(4,\)"):
        normalize_blocks([1, 1, 1, 1], 3)


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
    achieved = intensity_histogram(matched[None], torch.ones(1, 1000))[0]
    assert torch.allclose(achieved, histogram / histogram.sum(), atol=0.002)
    assert torch.equal(values.argsort(), matched.argsort())
    assert match_histogram(torch.empty(0), histogram).numel() == 0


def test_empty_bins_stay_empty() -> None:
    matched = match_histogram(torch.linspace(-1, 1, 100), torch.tensor([0.5, 0.0, 0.0, 0.5]))
    assert not ((matched > -0.5) & (matched < 0.5)).any()


def test_each_class_has_its_block_of_bins() -> None:
    image = torch.tensor([[[[-0.9, 0.9]]]])
    label = torch.tensor([[[[1, 0]]], [[[0, 0]]]])
    sample = LesionHistogramd("image", bins=2)({"image": image, "label": label})
    assert sample["histogram"].tolist() == [1, 0, 0, 0]


def test_transfer_changes_the_lesion_only() -> None:
    transfer = RandHistogramTransferd("image", prob=1.0)
    transfer.set_random_state(0)
    mask = torch.zeros(1, 4, 4, 4)
    mask[:, :2] = 1
    dark, bright = torch.full((1, 4, 4, 4), -0.8), torch.full((1, 4, 4, 4), 0.8)
    assert torch.equal(transfer({"image": dark, "label": mask})["image"], dark)  # nothing seen yet
    changed = transfer({"image": bright, "label": mask})["image"]
    assert torch.equal(changed[mask == 0], bright[mask == 0])
    assert changed[mask == 1].mean().item() == pytest.approx(-0.8, abs=0.04)


def test_classes_keep_histograms_of_their_own() -> None:
    transfer = RandHistogramTransferd("image", prob=1.0)
    transfer.set_random_state(0)
    mask = torch.zeros(2, 4, 4, 4)
    mask[0, :2] = mask[1, 2] = 1

    def scan(first: float, second: float) -> torch.Tensor:
        image = torch.zeros(1, 4, 4, 4)
        image[0, :2], image[0, 2] = first, second
        return image

    seen = transfer({"image": scan(-0.8, 0.6), "label": mask})["image"]
    assert torch.equal(seen, scan(-0.8, 0.6))
    changed = transfer({"image": scan(0.1, 0.1), "label": mask})["image"]
    assert changed[mask[:1] == 1].mean().item() == pytest.approx(-0.8, abs=0.04)
    assert changed[mask[1:] == 1].mean().item() == pytest.approx(0.6, abs=0.04)
    assert (changed[0, 3] == 0).all()
    # an absent class changes nothing and is not remembered
    alone = mask * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    third = transfer({"image": scan(0.3, 0.3), "label": alone})["image"]
    assert torch.equal(third[0, 2:], scan(0.3, 0.3)[0, 2:])
    assert {number: len(pool) for number, pool in transfer.pools.items()} == {0: 3, 1: 2}
