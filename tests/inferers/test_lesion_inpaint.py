"""Invariants of the sampler: exact background, exact limits, seeds, and an analytic oracle."""

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from tools.inferers import LesionInpaintInferer
from tools.inferers.lesion_inpaint import clean_image, denoise
from tools.networks.lesion_unet import LesionUNet
from tools.schedules import cosine_scheduler
from tools.transforms.rim import with_rim

STEPS = 8


class TinyNetwork(nn.Module):
    """A fixed random convolution with a time and histogram dependence."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        shift = 0.0 if condition is None else condition.clamp(min=0)[:, :1, None, None, None]
        return self.conv(x) + timesteps.view(-1, 1, 1, 1, 1) / 100 + shift


@pytest.fixture
def inputs() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(3, 1, 8, 8, 8, generator=generator) * 2 - 1
    mask = torch.zeros_like(image)
    mask[0, :, 2:5, 2:5, 2:5] = mask[1, :, 1:3, 4:8, 0:2] = mask[2, :, 6, 6, 6] = 1
    return torch.cat([image, mask], 1)


@pytest.mark.parametrize("background", ["noised", "clean", "input"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("jumps", [1, 2])
def test_background_is_identical_bit_for_bit(
    inputs: Tensor, background: str, sampler: str, jumps: int
) -> None:
    inferer = LesionInpaintInferer(
        cosine_scheduler(STEPS), sampler=sampler, background=background, jump_n_sample=jumps
    )
    network = TinyNetwork(2 if background == "input" else 1)
    output = inferer(inputs, network)
    outside = inputs[:, 1:] == 0
    assert torch.equal(output[outside], inputs[:, :1][outside])
    assert (output[~outside] != inputs[:, :1][~outside]).all()
    inputs[:, 1] = 0  # an empty mask
    assert torch.equal(inferer(inputs, network), inputs[:, :1])


def as_input() -> LesionInpaintInferer:
    return LesionInpaintInferer(cosine_scheduler(STEPS), background="input", mask_input=True)


def test_what_was_in_the_lesion_is_never_seen(inputs: Tensor) -> None:
    output = as_input()(inputs, TinyNetwork(3))
    inside = inputs[:, 1:] > 0
    other = inputs.clone()
    other[:, :1][inside] = 0.9
    assert torch.equal(as_input()(other, TinyNetwork(3)), output)
    beside = inputs.clone()
    beside[:, :1][~inside] = 0.9  # the surroundings are
    assert not torch.equal(as_input()(beside, TinyNetwork(3))[inside], output[inside])


def test_the_whole_window_is_generated_beside_what_is_shown(inputs: Tensor) -> None:
    seen: list[Tensor] = []

    def network(x: Tensor, timesteps: Tensor, condition: Tensor | None) -> Tensor:
        seen.append(x.clone())
        return x[:, :1] * 0.1 + 0.2

    image, inside = inputs[:, :1], inputs[:, 1:] > 0
    states: list[Tensor] = []
    as_input()(inputs, network, trace=states)
    for before, x in zip(states, seen[1:], strict=False):  # nothing is put back on the way
        assert torch.equal(x[:, :1], before)
    for x in seen:
        assert torch.equal(x[:, 1:2], torch.where(inside, 0.0, image))
        assert torch.equal(x[:, 2:], inside.float())
    seen.clear()
    noise, timesteps = torch.randn(3, 1, 8, 8, 8), torch.tensor([STEPS - 1] * 3)
    as_input()(inputs, network, noise=noise, timesteps=timesteps)
    noised = cosine_scheduler(STEPS).add_noise(image, noise, timesteps)
    guides = [torch.where(inside, 0.0, image), inside.float()]
    assert torch.equal(seen[0], torch.cat([noised, *guides], 1))


@pytest.mark.parametrize("margin_mm", [0.0, 1.1])
def test_the_rim_is_drawn_and_what_was_there_leaves_no_trace(
    inputs: Tensor, margin_mm: float
) -> None:
    """A marker planted in lesion and rim: the output does not depend on it."""
    inferer = LesionInpaintInferer(
        cosine_scheduler(STEPS), background="clean", mask_input=True, margin_mm=margin_mm
    )
    output = inferer(inputs, TinyNetwork(2))
    drawn = torch.stack([with_rim(mask, margin_mm) for mask in inputs[:, 1:]]) > 0
    assert torch.equal(output != inputs[:, :1], drawn)
    assert (drawn.sum() > inputs[:, 1:].sum()) == (margin_mm > 0)
    marked = inputs.clone()
    marked[:, :1][drawn] = 0.9
    again = inferer(marked, TinyNetwork(2))
    assert torch.equal(again, output)


def test_full_mask_equals_plain_ddpm_of_the_scheduler(inputs: Tensor) -> None:
    inputs[:, 1] = 1
    scheduler, network = cosine_scheduler(STEPS), TinyNetwork()
    states: list[Tensor] = []
    output = LesionInpaintInferer(scheduler, background="clean", seed=5)(
        inputs, network, trace=states
    )
    generators = [torch.Generator().manual_seed(5 + i) for i in range(3)]

    def noise() -> Tensor:
        return torch.stack([torch.randn(1, 8, 8, 8, generator=g) for g in generators])

    x = noise()
    alpha_bar = torch.cat([torch.ones(1), scheduler.alphas_cumprod])
    for t in range(STEPS - 1, -1, -1):
        eps = network(x, torch.full((3,), t))
        x0 = ((x - (1 - alpha_bar[t + 1]).sqrt() * eps) / alpha_bar[t + 1].sqrt()).clamp(-1, 1)
        beta = scheduler.betas[t]
        mean = x0 * alpha_bar[t].sqrt() * beta / (1 - alpha_bar[t + 1])
        mean = mean + x * (1 - beta).sqrt() * (1 - alpha_bar[t]) / (1 - alpha_bar[t + 1])
        variance = beta * (1 - alpha_bar[t]) / (1 - alpha_bar[t + 1])
        x = mean + variance.sqrt() * noise() if t else mean
    assert len(states) == STEPS
    assert torch.allclose(output, x, atol=1e-5)


def test_ddim_agrees_with_monai() -> None:
    scheduler = DDIMScheduler(100, "scaled_linear_beta", clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(100)
    x, eps = torch.randn(2, 3, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    now, then = scheduler.alphas_cumprod[[50, 49]].double().tolist()
    step = denoise(x, clean_image(x, eps, now, "epsilon"), now, then, None)
    assert torch.allclose(step, scheduler.step(eps, 50, x)[0], atol=1e-5)


def test_a_batch_equals_its_samples_one_by_one(inputs: Tensor) -> None:
    inferer = LesionInpaintInferer(cosine_scheduler(STEPS), jump_n_sample=2)
    condition = torch.rand(3, 4)
    together = inferer(inputs, TinyNetwork(), condition, seeds=[7, 8, 9])
    for i in range(3):
        alone = inferer(inputs[i : i + 1], TinyNetwork(), condition[i : i + 1], seeds=[7 + i])
        assert torch.allclose(alone, together[i : i + 1], atol=1e-6)


def expected_moments(inferer: LesionInpaintInferer, mean: float, std: float) -> tuple[float, float]:
    """Mean and std that the chain reaches for Gaussian data: every transition is linear in x."""
    center, variance = 0.0, 1.0
    for step, to in inferer.transitions:
        now, then = inferer.alpha_bar[step], inferer.alpha_bar[to]
        if to > step:
            ratio = then / now
            center, variance = center * ratio**0.5, variance * ratio + 1 - ratio
            continue
        gain = now**0.5 * std**2 / (now * std**2 + 1 - now)  # E[x_0 | x_t] = mean + gain (x_t - ..)
        sigma2 = (1 - then) / (1 - now) * (1 - now / then) if inferer.sampler == "ddpm" else 0.0
        keep = ((1 - then - sigma2) / (1 - now)) ** 0.5
        weight = then**0.5 - keep * now**0.5
        slope = weight * gain + keep
        center = slope * center + weight * (mean - gain * now**0.5 * mean)
        variance = slope**2 * variance + sigma2
    return center, variance**0.5


@pytest.mark.parametrize("jumps", [1, 3])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_exact_denoiser_of_gaussian_data_gives_the_moments_of_theory(
    oracle_denoiser: type, sampler: str, jumps: int
) -> None:
    scheduler = DDPMScheduler(100, "cosine")
    inferer = LesionInpaintInferer(
        scheduler, sampler=sampler, background="clean", jump_length=5, jump_n_sample=jumps
    )
    output = inferer(torch.ones(4, 2, 24, 24, 24), oracle_denoiser(scheduler, mean=0.3, std=0.1))
    mean, std = expected_moments(inferer, 0.3, 0.1)
    assert output.mean().item() == pytest.approx(mean, abs=0.002)
    assert output.std().item() == pytest.approx(std, rel=0.02)
    # and theory itself is near the data
    assert (mean, std) == pytest.approx((0.3, 0.1), rel=0.2)


def test_histogram_strength_one_meets_the_histogram(inputs: Tensor) -> None:
    inferer = LesionInpaintInferer(cosine_scheduler(STEPS), histogram_strength=1.0)
    histogram = torch.tensor([[0.0, 0.0, 1.0, 0.0]]).expand(3, -1)
    output = inferer(inputs, TinyNetwork(), histogram)
    lesion = output[inputs[:, 1:] == 1]
    assert ((lesion > 0) & (lesion < 0.5)).all()


@pytest.mark.parametrize(
    ("arguments", "share"),
    [
        ({"jump_length": 3, "jump_n_sample": 1}, 0.25),
        ({"guidance_scale": 1.0}, 0.25),
        ({"histogram_strength": 1.0}, -1.0),
    ],
)
def test_neutral_options_change_nothing(inputs: Tensor, arguments: dict, share: float) -> None:
    condition = torch.full((3, 4), share)
    scheduler, network = cosine_scheduler(STEPS), TinyNetwork()
    plain = LesionInpaintInferer(scheduler)(inputs, network, condition)
    same = LesionInpaintInferer(scheduler, **arguments)(inputs, network, condition)
    assert torch.equal(plain, same)
    pushed = LesionInpaintInferer(scheduler, guidance_scale=2.0)
    assert torch.equal(plain, pushed(inputs, network, condition)) == (share < 0)


def test_guidance_about_a_part_of_the_condition_keeps_the_rest(inputs: Tensor) -> None:
    told: list[list[float]] = []

    def network(x: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        told.append(condition[0].tolist())
        return 0.1 * x[:, :1] * condition.sum(1).reshape(-1, 1, 1, 1, 1)

    def drawn(condition: list[float], scale: float) -> Tensor:
        told.clear()
        inferer = LesionInpaintInferer(
            cosine_scheduler(STEPS), guidance_scale=scale, guidance_from=2
        )
        return inferer(inputs, network, torch.tensor([condition] * 3))

    size, score = [0.5, 0.25], [0.0, 0.75]
    once = drawn([*size, *score], 1.0)
    assert told == [[*size, *score]] * STEPS
    assert not torch.equal(drawn([*size, *score], 3.0), once)
    assert told == [[*size, *score], [*size, 0, 0]] * STEPS
    # twice the push is what three times the score would be: this network is linear in it
    assert torch.allclose(drawn([*size, *score], 3.0), drawn([*size, 0.0, 2.25], 1.0), atol=1e-5)
    # nothing is told of scores: nothing is pushed, and nothing is paid for
    plain = drawn([*size, 0.0, 0.0], 1.0)
    assert torch.equal(drawn([*size, 0.0, 0.0], 3.0), plain)
    assert len(told) == STEPS
    drawn([-1.0] * 4, 3.0)  # no control at all is none in both
    assert told == [[-1.0] * 4] * STEPS


@pytest.mark.parametrize("background", ["noised", "clean"])
def test_training_call_composes_the_window_as_sampling_does(
    inputs: Tensor, background: str
) -> None:
    seen: list[Tensor] = []

    def network(x: Tensor, timesteps: Tensor, condition: Tensor | None) -> Tensor:
        seen.append(x)
        return x[:, :1]

    inferer = LesionInpaintInferer(cosine_scheduler(STEPS), background=background, mask_input=True)
    noise = torch.randn(3, 1, 8, 8, 8)
    inferer(inputs, network, noise=noise, timesteps=torch.tensor([0, 3, 7]))
    image, mask = inputs[:, :1], inputs[:, 1:]
    assert torch.equal(seen[0][:, 1:], mask)
    outside = mask == 0
    same = torch.equal(seen[0][:, :1][outside], image[outside])
    assert same == (background == "clean")
    assert (seen[0][:, :1][~outside] != image[~outside]).all()


def test_compact_network_samples_with_bfloat16(inputs: Tensor) -> None:
    network = LesionUNet(channels=(8, 16), condition_size=4).eval()
    inferer = LesionInpaintInferer(
        cosine_scheduler(STEPS), sampler="ddim", mask_input=True, amp_dtype="bfloat16"
    )
    output = inferer(inputs, network, torch.full((3, 4), 0.25))
    assert output.dtype == torch.float32
    assert output.isfinite().all()


class Restated(nn.Module):
    """The same denoiser, but it says the clean image or the velocity instead of the noise."""

    def __init__(self, denoiser: nn.Module, scheduler: DDPMScheduler) -> None:
        super().__init__()
        self.denoiser, self.kind = denoiser, scheduler.prediction_type
        self.alpha_bar = scheduler.alphas_cumprod.double()

    def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        noise = self.denoiser(x.double(), timesteps, condition)
        alpha_bar = self.alpha_bar[timesteps].view(-1, 1, 1, 1, 1)
        clean = (x - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
        if self.kind == "sample":
            return clean
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_what_the_network_predicts_does_not_change_the_samples(
    oracle_denoiser: type, inputs: Tensor, kind: str, sampler: str
) -> None:
    def sample(prediction_type: str) -> Tensor:
        scheduler = cosine_scheduler(40, prediction_type)
        network = oracle_denoiser(scheduler, mean=0.3, std=0.1)
        if prediction_type != "epsilon":
            network = Restated(network, scheduler)
        arguments = {"sampler": sampler, "jump_length": 4, "jump_n_sample": 2, "seed": 3}
        return LesionInpaintInferer(scheduler, **arguments)(inputs, network)

    noise, other = sample("epsilon"), sample(kind)
    # near pure noise the clean image is a small difference of large numbers
    assert torch.allclose(noise, other, atol=2e-3)
    assert (noise - other).abs().mean() < 1e-5
    inside = inputs[:, 1:] == 1
    assert noise[inside].std() > 0.05
    assert torch.equal(other[~inside], inputs[:, :1][~inside])


def test_networks_of_any_kind_are_taken_at_their_word(inputs: Tensor) -> None:
    """A clean image named outright is what comes out of the last step."""
    inferer = LesionInpaintInferer(cosine_scheduler(STEPS, "sample"), sampler="ddim")
    output = inferer(inputs, lambda x, *_: torch.full_like(x, 0.25))
    assert torch.allclose(output[inputs[:, 1:] == 1], torch.tensor(0.25))
    beyond = inferer(inputs, lambda x, *_: torch.full_like(x, 7.0))  # clamped
    assert torch.allclose(beyond[inputs[:, 1:] == 1], torch.tensor(1.0))


def test_seeds_go_on_from_call_to_call(inputs: Tensor) -> None:
    scheduler, network = cosine_scheduler(STEPS), TinyNetwork()
    pair = torch.cat([inputs[:1], inputs[:1]])
    together = LesionInpaintInferer(scheduler, seed=4)(pair, network)
    going = LesionInpaintInferer(scheduler, seed=4, advance_seed=True)
    first, second = (going(pair[:1], network) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.allclose(torch.cat([first, second]), together, atol=1e-6)
    # seeds that are given are taken, and leave the count alone
    given = going(pair[:1], network, seeds=[4])
    assert torch.equal(given, first)
    assert going.seed == 6
    resting = LesionInpaintInferer(scheduler, seed=4)
    assert torch.equal(resting(pair[:1], network), resting(pair[:1], network))


@pytest.mark.parametrize(
    ("factors", "arguments", "message"),
    [
        ([1, 2], {}, "lesion_mask must be binary"),
        ([1], {}, "inputs must hold image channels"),
        ([1, 1], {"seeds": [1]}, "seeds must hold one seed per sample"),
    ],
)
def test_bad_input_is_named(
    inputs: Tensor, factors: list[int], arguments: dict, message: str
) -> None:
    channels = inputs[:, : len(factors)] * torch.tensor(factors).view(1, -1, 1, 1, 1)
    with pytest.raises(ValueError, match=message):
        LesionInpaintInferer(cosine_scheduler(STEPS))(channels, TinyNetwork(), **arguments)


@pytest.mark.parametrize("arguments", [{"sampler": "euler"}, {"combine": "mean"}])
def test_unknown_choices_are_named(arguments: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be one of"):
        LesionInpaintInferer(cosine_scheduler(STEPS), **arguments)


class AlikeNetwork(nn.Module):
    """Treats all channels alike, each for itself."""

    def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        return 0.8 * x.tanh() + timesteps.view(-1, 1, 1, 1, 1) / 100


class TwoClassNetwork(nn.Module):
    """Says a bright image in the first channel and a dark one in the second."""

    def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.stack([torch.full_like(x[:, 0], 0.7), torch.full_like(x[:, 1], -0.6)], 1)


def two_classes(inputs: Tensor) -> Tensor:
    """The same scan twice, then two masks; the second sample lacks the second class."""
    image, first = inputs[:, :1], inputs[:, 1:]
    second = torch.zeros_like(first)
    second[0, :, 5:7, 2:5, 2:5] = second[2, :, 1, 1, 1:4] = 1
    return torch.cat([image, image, first, second], 1)


@pytest.mark.parametrize("combine", ["step", "end"])
@pytest.mark.parametrize("jumps", [1, 2])
def test_classes_are_put_together_by_their_masks(inputs: Tensor, combine: str, jumps: int) -> None:
    joined = two_classes(inputs)
    inferer = LesionInpaintInferer(
        cosine_scheduler(STEPS, "sample"),
        sampler="ddim",
        mask_channels=2,
        combine=combine,
        jump_n_sample=jumps,
    )
    output = inferer(joined, TwoClassNetwork())
    first, second = joined[:, 2] > 0, joined[:, 3] > 0
    for channel in output.unbind(1):
        assert torch.allclose(channel[first], torch.tensor(0.7))
        assert torch.allclose(channel[second], torch.tensor(-0.6))
        outside = ~(first | second)
        assert torch.equal(channel[outside], inputs[:, 0][outside])


@pytest.mark.parametrize("background", ["noised", "clean"])
def test_channels_treated_alike_are_one_channel_on_the_union(
    inputs: Tensor, background: str
) -> None:
    joined = two_classes(inputs)
    union = torch.cat([joined[:, :1], joined[:, 2:].amax(1, keepdim=True)], 1)
    scheduler = cosine_scheduler(STEPS)
    arguments = {"background": background, "jump_n_sample": 2}
    alone = LesionInpaintInferer(scheduler, **arguments)(union, AlikeNetwork())
    step, end = (
        LesionInpaintInferer(scheduler, mask_channels=2, combine=combine, **arguments)
        for combine in ("step", "end")
    )
    result = step(joined, AlikeNetwork())
    assert torch.allclose(result, alone.expand_as(result), atol=1e-6)
    # without shared noise the second class is another draw
    other = end(joined, AlikeNetwork())
    assert not torch.allclose(other, alone.expand_as(other), atol=1e-3)


@pytest.mark.parametrize("combine", ["step", "end"])
def test_classes_that_overlap_or_lack_a_channel_are_named(inputs: Tensor, combine: str) -> None:
    inferer = LesionInpaintInferer(cosine_scheduler(STEPS), mask_channels=2, combine=combine)
    joined = two_classes(inputs)
    with pytest.raises(ValueError, match="mask must have one channel per class"):
        inferer(joined[:, 1:], AlikeNetwork())
    joined[0, 3] = joined[0, 2]
    with pytest.raises(ValueError, match="classes must not overlap"):
        inferer(joined, AlikeNetwork())


def test_the_mask_that_is_shown_may_be_minus_one_outside(inputs: Tensor) -> None:
    seen: list[Tensor] = []

    def network(x: Tensor, *_: object) -> Tensor:
        seen.append(x[:, 1:])
        return x[:, :1]

    sampler = LesionInpaintInferer(DDPMScheduler(2), mask_input=True, mask_outside=-1.0)
    sampler(inputs, network)
    assert torch.equal(seen[0], 2 * inputs[:, 1:] - 1)
