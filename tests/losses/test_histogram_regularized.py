"""The histogram-regularised loss: where its gradient goes, and what switches it off."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tools.losses import HistogramRegularizedLoss, LatentTarget, LesionNoiseLoss, NoiseTarget
from tools.networks.lesion_features import LesionFeatures, feature_ranges, lesion_boxes
from tools.networks.truncated_decoder import TruncatedDecoder
from tools.schedules import scaled_linear_scheduler
from tools.transforms.latents import latent_mask

SCHEDULER = scaled_linear_scheduler()


@pytest.fixture
def target() -> LatentTarget:
    """Two samples, the second noisier; a lesion off the middle of the grid."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, 8, generator=generator)
    voxels = torch.zeros(2, 1, 32, 32, 32)
    voxels[:, :, 9:20, 12:23, 8:17] = 1
    noise = torch.randn(2, 4, 8, 8, 8, generator=generator)
    return LatentTarget(noise, latent_mask(voxels), latents, torch.tensor([50, 600]), voxels)


def build(
    autoencoder: nn.Module, target: LatentTarget, cut: int | None = 4, **arguments: Any
) -> HistogramRegularizedLoss:
    context = arguments.pop("context", None)
    features = LesionFeatures(TruncatedDecoder(autoencoder, cut), context)
    pairs = zip(target.latents, target.voxel_mask, strict=True)
    dataset = [{"latents": latents, "label": mask} for latents, mask in pairs]
    ranges = feature_ranges(features, dataset)
    return HistogramRegularizedLoss(features, SCHEDULER, ranges, **arguments)


def prediction_of(target: LatentTarget, error: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    wrong = torch.randn(target.noise.shape, generator=generator)
    return (target.noise + error * wrong).requires_grad_()


def test_the_right_noise_costs_nothing(autoencoder: nn.Module, target: LatentTarget) -> None:
    assert build(autoencoder, target)(target.noise, target).abs() < 1e-6


@pytest.mark.parametrize("composite", [True, False])
def test_gradient_is_zero_outside_the_mask_of_the_composite(
    autoencoder: nn.Module, target: LatentTarget, composite: bool
) -> None:
    prediction = prediction_of(target)
    loss = build(autoencoder, target, composite=composite)
    loss.divergences(prediction, target).sum().backward()
    inside = (target.lesion_mask > 0).expand_as(prediction)
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    assert prediction.grad[inside].abs().mean() > 1e-6
    leaked, kept = (prediction.grad[part].abs().sum() for part in (~inside, inside))
    assert (leaked == 0) if composite else (leaked > 0.1 * kept)


def test_the_decoder_stays_frozen(autoencoder: nn.Module, target: LatentTarget) -> None:
    loss = build(autoencoder, target)
    loss.train()
    assert not loss.features.decoder.blocks.training
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_total_is_the_sum_of_its_terms(autoencoder: nn.Module, target: LatentTarget) -> None:
    loss = build(autoencoder, target, weight=10)
    prediction = prediction_of(target).detach()
    noise_loss = LesionNoiseLoss("l1")(prediction, NoiseTarget(target.noise, target.lesion_mask))
    divergences = loss.divergences(prediction, target)
    assert (divergences > 0).all()
    assert loss(prediction, target) == pytest.approx(float(noise_loss + 10 * divergences.mean()))
    plain = build(autoencoder, target, weight=0)
    assert torch.equal(plain(prediction, target), noise_loss)


def test_eq_5_by_hand() -> None:
    # two latents of lesion, errors 1 and 3 in each of 4 channels: (1 + 3) * 4 / 2
    noise, mask = torch.zeros(1, 4, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)
    mask[0, 0, 0, 0] = 1
    prediction = torch.full_like(noise, 7.0)
    prediction[0, :, 0, 0, 0], prediction[0, :, 0, 0, 1] = 1.0, -3.0
    target = LatentTarget(noise, mask, noise, torch.tensor([5]), mask)
    loss = HistogramRegularizedLoss(LesionFeatures(nn.Identity()), SCHEDULER, [[0, 1]], weight=0)
    assert loss(prediction, target) == 8


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_clean_estimate_is_that_of_eq_6(kind: str, target: LatentTarget) -> None:
    scheduler = scaled_linear_scheduler(prediction_type=kind)
    seen = []

    class Spy(nn.Module):
        def forward(self, latents: Tensor) -> Tensor:
            seen.append(latents)
            return latents

    loss = HistogramRegularizedLoss(
        LesionFeatures(Spy(), None), scheduler, [[-3, 3]], composite=False, one_by_one=False
    )
    epsilon, latents, steps = target.noise, target.latents, target.timesteps
    noisy = scheduler.add_noise(latents, epsilon, steps)
    aims = {"epsilon": epsilon, "sample": latents}
    aim = aims.get(kind, scheduler.get_velocity(latents, epsilon, steps))
    prediction = aim + 0.1
    loss.divergences(prediction, target._replace(noise=aim))
    a = scheduler.alphas_cumprod[steps].view(-1, 1, 1, 1, 1)
    expected = {
        "epsilon": (noisy - (1 - a).sqrt() * prediction) / a.sqrt(),
        "sample": prediction,
        "v_prediction": a.sqrt() * noisy - (1 - a).sqrt() * prediction,
    }[kind]
    assert torch.allclose(seen[1], expected, rtol=1e-3, atol=1e-3)


def test_noisy_samples_are_left_out_on_request(
    autoencoder: nn.Module, target: LatentTarget
) -> None:
    prediction = prediction_of(target).detach()
    both = build(autoencoder, target).divergences(prediction, target)
    gated = build(autoencoder, target, last_timestep=100).divergences(prediction, target)
    assert gated[1] == 0
    # group normalisation works on each sample alone
    assert gated[0] == pytest.approx(float(both[0]), rel=1e-4)


def test_a_sample_without_a_lesion_adds_nothing(
    autoencoder: nn.Module, target: LatentTarget
) -> None:
    loss = build(autoencoder, target)
    voxels = target.voxel_mask.clone()
    voxels[1] = 0
    target = target._replace(voxel_mask=voxels, lesion_mask=latent_mask(voxels))
    prediction = prediction_of(target)
    divergences = loss.divergences(prediction, target)
    assert divergences[1] == 0
    assert divergences[0] > 0
    empty = target._replace(lesion_mask=torch.zeros_like(target.lesion_mask))
    assert loss(prediction, empty) == 0


def test_hounsfield_histograms_by_a_full_decode(
    autoencoder: nn.Module, target: LatentTarget
) -> None:
    features = LesionFeatures(TruncatedDecoder(autoencoder, None), None)
    values, share = features(target.latents, target.lesion_mask, target.voxel_mask)
    image = autoencoder.decode(target.latents)
    assert torch.allclose(values.reshape(image.shape), image, atol=1e-5)
    assert torch.equal(share.reshape(image.shape), target.voxel_mask)
    loss = HistogramRegularizedLoss(features, SCHEDULER, [[-2.0, 2.0]])
    assert (loss.divergences(prediction_of(target), target) > 0).all()


def test_the_box_holds_the_lesion_at_the_resolution_of_the_features(
    autoencoder: nn.Module, target: LatentTarget
) -> None:
    features = LesionFeatures(TruncatedDecoder(autoencoder, 4), context=1)
    values, share = features(target.latents, target.lesion_mask, target.voxel_mask)
    # latents 2..5, 3..6, 2..5 with one round them are 5, 5 and 5, made even: 6; features are finer
    assert values.shape[-1] == share.shape[-1] == (6 * 2) ** 3
    assert share.sum() * 8 == pytest.approx(float(target.voxel_mask.sum()))
    small = build(autoencoder, target, context=1)
    assert (small.divergences(prediction_of(target), target) > 0).all()


def test_boxes_stay_inside_the_grid_and_share_a_size() -> None:
    mask = torch.zeros(3, 1, 8, 8, 8)
    mask[0, 0, 7, 7, 7] = 1
    mask[1, 0, 2:5, 3, 0] = 1
    boxes = lesion_boxes(mask, 1, 2)
    assert boxes[0] == (slice(2, 8), slice(4, 8), slice(4, 8))
    assert boxes[1][2] == slice(0, 4)
    sizes = {tuple(part.stop - part.start for part in box) for box in boxes}
    assert sizes == {(6, 4, 4)}


def test_ranges_are_the_quantiles_of_lesion_voxels() -> None:
    latents = torch.zeros(2, 4, 4, 4)
    latents[0] = torch.arange(64).reshape(4, 4, 4)
    mask = torch.zeros(1, 4, 4, 4)
    mask[0, :2] = 1
    dataset = [{"latents": latents, "label": mask}]
    ranges = feature_ranges(LesionFeatures(nn.Identity(), None), dataset, quantile=0)
    assert ranges[0].tolist() == [0, 31]
    assert ranges[1, 0] < ranges[1, 1]  # a channel without any change still has an interval
    with pytest.raises(ValueError, match="dataset must hold lesions"):
        feature_ranges(
            LesionFeatures(nn.Identity(), None), [{"latents": latents, "label": mask * 0}]
        )


def test_bad_arguments_are_named(autoencoder: nn.Module) -> None:
    features = LesionFeatures(nn.Identity())
    with pytest.raises(ValueError, match="weight must be at least 0, got -1"):
        HistogramRegularizedLoss(features, SCHEDULER, [[0, 1]], weight=-1)
    with pytest.raises(ValueError, match=r"last_timestep must be in 0\.\.999, got 1000"):
        HistogramRegularizedLoss(features, SCHEDULER, [[0, 1]], last_timestep=1000)
    with pytest.raises(ValueError, match=r"cut must be in 1\.\.8 or null, got 9"):
        TruncatedDecoder(autoencoder, 9)


def test_decoding_one_by_one_gives_each_lesion_the_same_term_in_any_batch() -> None:
    scheduler = scaled_linear_scheduler(prediction_type="v_prediction")
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Conv3d(4, 4, 3, padding=1), nn.GroupNorm(2, 4)).requires_grad_(False)
    loss = HistogramRegularizedLoss(LesionFeatures(decoder, context=1), scheduler, [[-2.0, 2.0]])
    mask = torch.zeros(2, 1, 12, 12, 12)
    mask[0, :, 5:7, 5:7, 5:7] = 1
    mask[1, :, 2:10, 2:10, 2:10] = 1
    latents, prediction = torch.randn(2, 4, 12, 12, 12), torch.randn(2, 4, 12, 12, 12)
    target = LatentTarget(latents, mask, latents, torch.tensor([10, 10]), mask)
    both = loss.divergences(prediction, target)
    alone = loss.divergences(prediction[:1], LatentTarget(*(part[:1] for part in target)))
    assert both[0].item() == pytest.approx(alone[0].item(), abs=1e-7)
    assert both[0] > 0.001
    loss.one_by_one = False
    assert abs(loss.divergences(prediction, target)[0] - both[0]) > 1e-5
