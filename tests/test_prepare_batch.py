"""Batches become the arguments of MONAI's engines."""

import pytest
import torch

from tools.prepare_batch import LesionPrepareBatch, SynthesisPrepareBatch
from tools.schedules import cosine_scheduler

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


def test_target_is_what_the_network_is_to_predict() -> None:
    prepared = {}
    for kind in ("epsilon", "sample", "v_prediction"):
        torch.manual_seed(0)
        prepare = LesionPrepareBatch(300, scheduler=cosine_scheduler(300, kind))
        prepared[kind] = prepare(BATCH)
    scheduler = cosine_scheduler(300)
    for kind, (inputs, target, _, keywords) in prepared.items():
        image, noise, timesteps = inputs[:, :1], keywords["noise"], keywords["timesteps"]
        assert torch.equal(noise, prepared["epsilon"][3]["noise"])
        alpha_bar = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1, 1)
        expected = {
            "epsilon": noise,
            "sample": image,
            "v_prediction": alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * image,
        }[kind]
        assert torch.allclose(target.noise, expected, atol=1e-6)
        assert torch.equal(target.lesion_mask, inputs[:, 1:])


def test_noise_is_shared_by_the_channels_where_asked() -> None:
    batch = BATCH | {"image": torch.full((64, 3, 2, 2, 2), 0.5)}
    shared = LesionPrepareBatch(300, shared_noise=True)(batch)
    noise = shared[3]["noise"]
    assert noise.shape == (64, 3, 2, 2, 2)
    assert torch.equal(noise, noise[:, :1].expand_as(noise))
    assert torch.equal(shared[1].noise, noise)
    assert noise[:, 0].unique().numel() == 64 * 8  # samples and voxels have their own
    own = LesionPrepareBatch(300)(batch)[3]["noise"]
    assert own.unique().numel() == 64 * 3 * 8


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
