"""MAISI's autoencoder under autocast of its own."""

from typing import Any

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from torch.nn import functional

from tools.networks.ct_autoencoder import CtAutoencoder

ARGUMENTS: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 4,
    "num_channels": (8, 16, 16),
    "num_res_blocks": (1, 1, 1),
    "norm_num_groups": 8,
    "attention_levels": (False, False, False),
    "num_splits": 1,
    "dim_split": 1,
    "save_mem": False,
}


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0))


def published(network: CtAutoencoder) -> AutoencoderKlMaisi:
    other = AutoencoderKlMaisi(**ARGUMENTS)
    other.load_state_dict(network.state_dict())
    return other


@torch.no_grad()
def test_weights_and_results_are_those_of_maisi(image: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = CtAutoencoder(**ARGUMENTS)
    other = published(network)
    for mine, theirs in zip(network.encode(image), other.encode(image), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        network.reconstruct(image), other.reconstruct(image), atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_half_precision_leaves_the_last_two_blocks_alone(image: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = CtAutoencoder("bfloat16", **ARGUMENTS)
    latents = network.encode(image)[0]
    found = network.decode(latents)
    assert latents.dtype == found.dtype == torch.float32
    # steps of bfloat16 near 0.5 are 2**-9: an image rounded to it equals itself rounded again
    assert (found != found.bfloat16().float()).float().mean() > 0.9
    exact = published(network).decode(latents)
    assert 0 < (found - exact).abs().max() < 0.1 * exact.std()


def test_other_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="amp_dtype must be null, bfloat16 or float16, got 'fp8'"):
        CtAutoencoder("fp8", **ARGUMENTS)


@torch.no_grad()
def test_latents_start_with_the_noise_asked_for(image: torch.Tensor) -> None:
    torch.manual_seed(0)
    deviation = CtAutoencoder(log_variance_start=-6, **ARGUMENTS).encode(image)[1]
    assert 0.02 < deviation.median() < 0.12  # exp(-3) is 0.05


@torch.no_grad()
def test_training_starts_from_interpolated_block_means(image: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = CtAutoencoder(interpolate=True, **ARGUMENTS)
    means = functional.avg_pool3d(image, 4)
    wanted = functional.interpolate(means, scale_factor=4, mode="trilinear")
    torch.testing.assert_close(network.reconstruct(image), wanted, atol=1e-5, rtol=0)
    assert network.state_dict().keys() == published(network).state_dict().keys()


def test_gradients_reach_both_ends_from_that_start(image: torch.Tensor) -> None:
    network = CtAutoencoder(interpolate=True, **ARGUMENTS)
    for _ in range(2):  # the last convolution is zero at first, and passes nothing on
        loss = (network.reconstruct(image) - image).abs().mean()
        network.zero_grad()
        loss.backward()
        torch.optim.SGD(network.parameters(), 0.1).step()
    still = [
        name
        for name, weight in network.named_parameters()
        if "log_sigma" not in name and not weight.grad.any()
    ]
    assert not still
