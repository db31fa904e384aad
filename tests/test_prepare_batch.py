"""Batches become the arguments of MONAI's engines."""

import pytest
import torch

from tools.prepare_batch import LesionPrepareBatch, SynthesisPrepareBatch

BATCH = {
    "image": torch.full((64, 1, 2, 2, 2), 0.5),
    "label": torch.ones(64, 1, 2, 2, 2, dtype=torch.uint8) * 3,
    "histogram": torch.full((64, 4), 0.25),
}


def test_training_batch_has_inputs_target_and_keywords() -> None:
    inputs, target, positional, keywords = LesionPrepareBatch(300)(BATCH)
    assert inputs.shape == (64, 2, 2, 2, 2)
    assert (inputs[:, 1] == 1).all()  # label values become a binary mask
    assert torch.equal(target.noise, keywords["noise"])
    assert positional == ()
    assert keywords["timesteps"].min() >= 0
    assert keywords["timesteps"].max() < 300


@pytest.mark.parametrize(("drop", "dropped"), [(0.0, 0), (1.0, 64)])
def test_dropped_conditions_become_rows_of_minus_one(drop: float, dropped: int) -> None:
    keywords = LesionPrepareBatch(10, condition_drop=drop)(BATCH)[3]
    assert (keywords["condition"] == -1).all(1).sum() == dropped


def test_no_condition_name_trains_without_control() -> None:
    assert LesionPrepareBatch(10, condition_name=None)(BATCH)[3]["condition"] is None


def test_evaluation_batch_keeps_the_histogram() -> None:
    inputs, mask, _, keywords = SynthesisPrepareBatch()(BATCH)
    assert torch.equal(inputs[:, 1:], mask)
    assert torch.equal(keywords["condition"], BATCH["histogram"])


def test_bad_drop_probability_is_named() -> None:
    with pytest.raises(ValueError, match=r"condition_drop must be in \[0, 1\], got 2"):
        LesionPrepareBatch(10, condition_drop=2)
