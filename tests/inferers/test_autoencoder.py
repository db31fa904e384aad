"""One pass through an autoencoder, and what is left for its loss."""

import pytest
import torch
from torch import nn

from tools.inferers import AutoencoderInferer


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
