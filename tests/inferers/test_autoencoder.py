"""One pass through an autoencoder, and what is left for its loss."""

import pytest
import torch
from torch import nn

from tools.inferers import AutoencoderInferer
from tools.networks.vq_autoencoder import VqAutoencoder


def test_training_draws_latents_and_keeps_their_distribution(autoencoder: nn.Module) -> None:
    inferer, image = AutoencoderInferer(), torch.rand(1, 1, 8, 8, 8)
    assert not torch.equal(inferer(image, autoencoder), inferer(image, autoencoder))
    mean, deviation = inferer.posterior()
    assert torch.equal(mean, autoencoder.encode(image)[0])
    assert (deviation > 0).all()
    assert mean.requires_grad


def test_validation_takes_the_mean(autoencoder: nn.Module) -> None:
    inferer, image = AutoencoderInferer(sample=False), torch.rand(1, 1, 8, 8, 8)
    assert torch.equal(inferer(image, autoencoder), inferer(image, autoencoder))
    with pytest.raises(RuntimeError, match="posterior must be asked for after a call"):
        inferer.posterior()


def test_loss_of_a_codebook_is_kept() -> None:
    network = VqAutoencoder(num_embeddings=8).eval()
    inferer, image = AutoencoderInferer(), torch.rand(1, 1, 8, 8, 8)
    with pytest.raises(RuntimeError, match="commitment must be asked for after a call"):
        inferer.commitment()
    reconstruction = inferer(image, network)
    in_use = AutoencoderInferer(sample=False)(image, network)
    torch.testing.assert_close(reconstruction, in_use, atol=1e-4, rtol=0)
    assert torch.equal(inferer.commitment(), network(image)[1])
