"""Batches become the arguments of MONAI's engines."""

import pytest
import torch

from tools.prepare_batch import LatentPrepareBatch, LesionPrepareBatch, SynthesisPrepareBatch
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


class Pool(torch.nn.Module):
    """An encoder of one latent channel."""

    def encode_stage_2_inputs(self, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool3d(image, 4)


LATENT_BATCH = {
    "image": torch.rand(64, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)),
    "label": torch.zeros(64, 1, 8, 8, 8, dtype=torch.uint8),
    "condition": torch.ones(64, 5),
}
LATENT_BATCH["label"][:, :, 1:4, 1:6, 3] = 1


def test_latents_are_encoded_or_taken() -> None:
    prepare = LatentPrepareBatch(1000, Pool(), scale_factor=3.0)
    inputs, target, _, keywords = prepare(LATENT_BATCH)
    pooled = torch.nn.functional.avg_pool3d(LATENT_BATCH["image"], 4) * 3
    assert torch.equal(inputs[:, :1], pooled)
    assert torch.equal(target.latents, pooled)
    assert keywords["noise"].shape == pooled.shape  # not that of the image
    assert torch.equal(target.lesion_mask[0, 0], torch.tensor([[[1.0, 0]] * 2, [[0, 0]] * 2]))
    assert torch.equal(target.voxel_mask, LATENT_BATCH["label"].float())
    assert torch.equal(target.timesteps, keywords["timesteps"])
    cached = LATENT_BATCH | {"latents": pooled + 1}
    assert torch.equal(LatentPrepareBatch(1000)(cached)[0][:, :1], pooled + 1)
    with pytest.raises(ValueError, match="batch must hold 'latents' where there is no autoencoder"):
        LatentPrepareBatch(1000)(LATENT_BATCH)


def test_the_mask_of_the_inputs_may_keep_every_voxel() -> None:
    inputs, target, *_ = LatentPrepareBatch(1000, Pool(), mask_detail="voxels")(LATENT_BATCH)
    assert inputs.shape == (64, 65, 2, 2, 2)
    assert torch.equal(inputs[:, 1:].amax(1, keepdim=True), target.lesion_mask)


def test_histogram_and_subtype_are_dropped_on_their_own() -> None:
    torch.manual_seed(0)
    condition = LatentPrepareBatch(1000, Pool(), condition_drop=0.5)(LATENT_BATCH)[3]["condition"]
    histogram, subtype = (condition[:, :4] == -1).all(1), condition[:, 4] == -1
    assert ((condition[:, :4] == 1).all(1) | histogram).all()  # as a whole
    for kept in (True, False):
        for told in (True, False):
            assert 6 <= int(((histogram == kept) & (subtype == told)).sum()) <= 26
