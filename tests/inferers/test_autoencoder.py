"""One pass through an autoencoder, and what is left for its loss."""

import pytest
import torch

from tools.inferers import AutoencoderInferer
from tools.networks.ct_autoencoder import CtAutoencoder


@pytest.fixture
def network() -> CtAutoencoder:
    torch.manual_seed(0)
    return CtAutoencoder(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        latent_channels=4,
        num_channels=(8, 16),
        num_res_blocks=(1, 1),
        norm_num_groups=8,
        attention_levels=(False, False),
        num_splits=1,
        save_mem=False,
    )


def test_training_draws_latents_and_keeps_their_distribution(network: CtAutoencoder) -> None:
    inferer, image = AutoencoderInferer(), torch.rand(1, 1, 8, 8, 8)
    assert not torch.equal(inferer(image, network), inferer(image, network))
    mean, deviation = inferer.posterior()
    assert torch.equal(mean, network.encode(image)[0])
    assert (deviation > 0).all()
    assert mean.requires_grad


def test_validation_takes_the_mean(network: CtAutoencoder) -> None:
    inferer, image = AutoencoderInferer(sample=False), torch.rand(1, 1, 8, 8, 8)
    assert torch.equal(inferer(image, network), inferer(image, network))
    with pytest.raises(RuntimeError, match="posterior must be asked for after a call"):
        inferer.posterior()
