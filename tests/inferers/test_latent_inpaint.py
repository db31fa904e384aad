"""Lesions through an autoencoder: the background comes back bit for bit, beyond the margin."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage
from torch import Tensor, nn

from tools.inferers import LatentInpaintInferer, LesionInpaintInferer, LesionWindowInferer
from tools.networks.frozen_autoencoder import frozen_autoencoder
from tools.schedules import scaled_linear_scheduler
from tools.windows import blend_weight

SCHEDULER = scaled_linear_scheduler()


@pytest.fixture
def autoencoder(autoencoder: nn.Module) -> nn.Module:
    return frozen_autoencoder(autoencoder, None)


def network(x: Tensor, timesteps: Tensor, condition: Tensor | None) -> Tensor:
    return x[:, :4] * 0.5


def build(
    autoencoder: nn.Module, steps: int = 3, detail: str = "max", **arguments: Any
) -> LatentInpaintInferer:
    channels = {"max": 1, "voxels": 64}[detail]
    sampler = LesionInpaintInferer(
        SCHEDULER, steps, "ddim", background="clean", mask_input=True, mask_channels=channels
    )
    arguments = {"fewest_steps": 1} | arguments
    return LatentInpaintInferer(autoencoder, sampler, mask_detail=detail, **arguments)


@pytest.fixture
def inputs() -> Tensor:
    values = torch.rand(2, 2, 32, 32, 32, generator=torch.Generator().manual_seed(3))
    values[:, 1] = 0
    values[0, 1, 10:17, 12:18, 13:19] = 1
    values[1, 1, 20:23, 5:9, 14:16] = 1
    return values


@pytest.mark.parametrize("detail", ["max", "voxels"])
def test_voxels_beyond_the_margin_are_bit_identical(
    autoencoder: nn.Module, inputs: Tensor, detail: str
) -> None:
    spacing = (1.0, 1.5, 2.0)
    output = build(autoencoder, detail=detail, spacing_mm=spacing)(inputs, network)
    for image, mask, result in zip(inputs[:, 0], inputs[:, 1], output[:, 0], strict=True):
        distance = torch.from_numpy(
            ndimage.distance_transform_edt(mask.numpy() == 0, sampling=spacing)
        )
        assert torch.equal(result[distance >= 3], image[distance >= 3])
        assert (result[distance == 0] != image[distance == 0]).float().mean() > 0.9
        assert (result[distance == 1] != image[distance == 1]).float().mean() > 0.9


def test_latents_that_are_shown_know_nothing_of_the_lesion(
    autoencoder: nn.Module, inputs: Tensor
) -> None:
    sampler = LesionInpaintInferer(
        SCHEDULER, 3, "ddim", background="input", mask_input=True, mask_channels=1
    )
    inferer = LatentInpaintInferer(autoencoder, sampler, fewest_steps=1)
    seen: list[Tensor] = []

    def spy(x: Tensor, timesteps: Tensor, condition: Tensor | None) -> Tensor:
        seen.append(x.clone())
        return x[:, :4] * 0.5

    output = inferer(inputs, spy)
    far = torch.from_numpy(ndimage.distance_transform_edt(inputs[0, 1].numpy() == 0)) >= 3
    assert torch.equal(output[0, 0][far], inputs[0, 0][far])
    other = inputs.clone()
    other[:, :1][inputs[:, 1:] > 0] = 0.9
    inferer(other, spy)
    first, again = seen[:3], seen[3:]
    for x, y in zip(first, again, strict=True):
        assert x.shape[1] == 4 + 4 + 1
        assert torch.equal(x, y)
    assert not torch.equal(first[0][:, :4], first[0][:, 4:8])


def test_a_null_edit_is_the_identity(
    autoencoder: nn.Module, inputs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    inferer = build(autoencoder)
    monkeypatch.setattr(inferer, "sampler", lambda latents, *_, **__: latents[:, :4])
    inputs[:, 0, :5] = 1.3  # even beyond the range
    assert torch.equal(inferer(inputs, network), inputs[:, :1])


def test_margin_0_writes_in_the_mask_only(autoencoder: nn.Module, inputs: Tensor) -> None:
    output = build(autoencoder, margin_mm=0)(inputs, network)
    outside = inputs[:, 1:] == 0
    assert torch.equal(output[outside], inputs[:, :1][outside])


def test_an_empty_mask_returns_the_input(autoencoder: nn.Module, inputs: Tensor) -> None:
    inputs[1, 1] = 0
    output = build(autoencoder)(inputs, network)
    assert torch.equal(output[1], inputs[1, :1])
    assert not torch.equal(output[0], inputs[0, :1])
    inputs[:, 1] = 0
    assert torch.equal(build(autoencoder)(inputs, network), inputs[:, :1])


def test_the_seed_decides_whatever_the_batch(autoencoder: nn.Module, inputs: Tensor) -> None:
    inferer = build(autoencoder)
    together = inferer(inputs, network, seeds=[7, 8])
    assert torch.equal(together, inferer(inputs, network, seeds=[7, 8]))
    assert torch.equal(together[1:], inferer(inputs[1:], network, seeds=[8]))
    assert not torch.equal(together, inferer(inputs, network, seeds=[1, 2]))


def test_the_network_sees_latents_and_mask(autoencoder: nn.Module, inputs: Tensor) -> None:
    seen = []

    def spy(x: Tensor, timesteps: Tensor, condition: Tensor | None) -> Tensor:
        seen.append((x, condition))
        return x[:, :4]

    condition = torch.rand(2, 41)
    build(autoencoder, detail="voxels", scale_factor=2.0)(inputs, spy, condition)
    x, given = seen[0]
    assert x.shape == (2, 68, 8, 8, 8)
    assert given is not None
    assert torch.equal(given, condition)
    inside = x[:, 4:].amax(1) > 0
    latents = autoencoder.encode(inputs[:, :1])[0] * 2
    assert torch.allclose(
        x[:, :4].movedim(1, -1)[~inside], latents.movedim(1, -1)[~inside], atol=1e-5
    )
    assert x[:, 4:].sum() == inputs[:, 1].sum()  # no voxel of the mask is lost


def test_each_lesion_of_a_volume_gets_a_crop(autoencoder: nn.Module) -> None:
    inputs = torch.rand(1, 2, 70, 50, 41, generator=torch.Generator().manual_seed(4))
    inputs[:, 1] = 0
    inputs[0, 1, 5:9, 20:24, 20:24] = 1
    inputs[0, 1, 60:64, 20:24, 20:24] = 1
    output = LesionWindowInferer(build(autoencoder), 8, (32, 32, 32), 16)(inputs, network)
    changed = output != inputs[:, :1]
    assert changed[inputs[:, 1:] == 1].float().mean() > 0.9
    near = torch.from_numpy(blend_weight(inputs[0, 1].numpy() > 0, 3) > 0)
    assert not bool((changed & ~near).any())
    assert bool((changed & (inputs[:, 1:] == 0)).any())  # the margin is written too


def test_lesions_have_the_histogram_that_they_are_asked_for(
    autoencoder: nn.Module, inputs: Tensor
) -> None:
    """Two bins over [0.2, 0.6], a quarter and three quarters; of the second nothing is asked."""
    condition = torch.tensor([[0.25, 0.75, 1.0], [-1.0, -1.0, 1.0]])
    told: dict[str, object] = {"histogram_range": (0.2, 0.6)}
    free = build(autoencoder)(inputs, network, condition)
    full = build(autoencoder, histogram_strength=1.0, **told)(inputs, network, condition)
    half = build(autoencoder, histogram_strength=0.5, **told)(inputs, network, condition)
    inside = inputs[:, 1:] == 1
    lesion = full[0][inside[0]]
    assert 0.2 <= lesion.min() < 0.205
    assert 0.595 < lesion.max() <= 0.6
    assert (lesion < 0.4).float().mean() == pytest.approx(0.25, abs=0.01)
    drawn = free[0][inside[0]][lesion.argsort()]
    assert bool((drawn.diff() >= 0).all())  # by rank
    kept = inside & (free > 0) & (free < 1)  # else clipped
    assert torch.allclose(half[kept], ((free + full) / 2)[kept], atol=1e-6)
    assert torch.equal(full[~inside], free[~inside])  # the rim fades as before
    assert torch.equal(full[1], free[1])


@pytest.mark.parametrize(
    ("sampler", "steps", "spread"),
    [("ddpm", 1000, 0.99), ("ddpm", 100, 0.95), ("ddim", 50, 0.97), ("ddim", 1000, 1.0)],
)
def test_spread_of_exact_gaussians_with_fewer_steps(
    sampler: str, steps: int, spread: float, oracle_denoiser: Callable
) -> None:
    inputs = torch.zeros(1, 2, 16, 16, 16)
    inputs[:, 1] = 1
    inferer = LesionInpaintInferer(SCHEDULER, steps, sampler)
    output = inferer(inputs, oracle_denoiser(SCHEDULER, 0.5, 1.0))
    assert output.std().item() == pytest.approx(spread, abs=0.03)
    assert output.mean().item() == pytest.approx(0.5, abs=0.05)
    assert output.abs().max() > 2.5  # latents are not clamped


@pytest.mark.parametrize(
    ("sampler", "steps", "fewest"), [("ddim", 49, 50), ("ddpm", 99, 100), ("ddpm", 50, 100)]
)
def test_too_few_steps_are_refused(
    autoencoder: nn.Module, sampler: str, steps: int, fewest: int
) -> None:
    chain = LesionInpaintInferer(SCHEDULER, steps, sampler)
    with pytest.raises(ValueError, match=rf"\(steps\) must be at least {fewest} for"):
        LatentInpaintInferer(autoencoder, chain)
    LatentInpaintInferer(autoencoder, LesionInpaintInferer(SCHEDULER, fewest, sampler))


def test_bad_inputs_are_named(autoencoder: nn.Module, inputs: Tensor) -> None:
    with pytest.raises(ValueError, match="mask_channels of the sampler must be 64"):
        LatentInpaintInferer(autoencoder, LesionInpaintInferer(SCHEDULER), mask_detail="voxels")
    with pytest.raises(ValueError, match="lesion_mask must be binary"):
        build(autoencoder)(inputs * 0.5, network)
    with pytest.raises(ValueError, match=r"multiples of 4, got \(30, 32, 32\)"):
        build(autoencoder)(inputs[:, :, :30], network)
    with pytest.raises(ValueError, match="inputs must hold an image and 1 of lesion mask, got 3"):
        build(autoencoder)(inputs[:, [0, 1, 1]], network)
    with pytest.raises(ValueError, match="margin_mm must be at least 0"):
        build(autoencoder, margin_mm=-1)
    with pytest.raises(ValueError, match=r"histogram_strength must be in \[0, 1\] .* got 2"):
        build(autoencoder, histogram_strength=2)
    with pytest.raises(ValueError, match="histogram_range rise, got"):
        build(autoencoder, histogram_range=(1, 0))


def test_a_scan_of_other_voxels_changes_within_the_margin_only(autoencoder: nn.Module) -> None:
    spacing = (0.7, 0.7, 1.25)
    values = torch.rand(1, 2, 40, 40, 30, generator=torch.Generator().manual_seed(4))
    values[:, 1] = 0
    values[0, 1, 12:22, 14:24, 10:16] = 1
    inputs = MetaTensor(values, affine=torch.diag(torch.tensor([-0.7, -0.7, 1.25, 1.0])))
    windows = LesionWindowInferer(
        build(autoencoder), margin_voxels=8, smallest=(32,) * 3, step=16, spacing_mm=1.0
    )
    result = windows(inputs, network, seeds=[1])
    distance = torch.from_numpy(
        ndimage.distance_transform_edt(values[0, 1].numpy() == 0, sampling=spacing)
    )
    beyond = distance >= windows.inferer.margin_mm
    assert torch.equal(result[0, 0][beyond], values[0, 0][beyond])
    changed = result[0, 0] != values[0, 0]
    assert changed[distance == 0].float().mean() > 0.99
    assert changed[(distance > 0) & (distance < 2.5)].float().mean() > 0.9
    assert windows.inferer.margin_mm == 3.0
