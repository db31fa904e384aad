"""Objectives of the adversarial autoencoder."""

import logging
import math

import pytest
import torch
from ignite.engine import Engine
from monai.losses import PerceptualLoss

from tools.losses import (
    DiscriminatorLoss,
    GeneratorLoss,
    ReconstructionLoss,
    adversarial_losses,
    perceptual_loss,
)
from tools.losses import autoencoder as module

IMAGE = torch.zeros(2, 1, 8, 8, 8)


def latents(mean: float, deviation: float) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (2, 4, 2, 2, 2)
    return torch.full(shape, mean), torch.full(shape, deviation)


def test_reconstruction_loss_is_l1_where_latents_are_standard_normal() -> None:
    loss = ReconstructionLoss(lambda: latents(0, 1), kl_weight=1)
    assert loss(IMAGE + 0.25, IMAGE).item() == pytest.approx(0.25)


def test_divergence_is_that_of_the_normal_distribution_summed_over_latents() -> None:
    mean, deviation = latents(1.5, 0.5)
    loss = ReconstructionLoss(lambda: (mean, deviation), kl_weight=1e-3)
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(normal(mean, deviation), normal(0.0, 1.0))
    assert loss(IMAGE, IMAGE).item() == pytest.approx(1e-3 * wanted.sum().item() / 2, rel=1e-5)


def test_perceptual_term_is_added_with_its_weight_and_not_saved() -> None:
    class Counts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            return self.weight * 2 * (found - wanted).abs().mean()

    loss = ReconstructionLoss(lambda: latents(0, 1), perceptual=Counts(), perceptual_weight=0.5)
    assert loss(IMAGE + 0.25, IMAGE).item() == pytest.approx(0.5)
    assert not loss.state_dict()


def test_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="kl_weight must be at least 0, got -1"):
        ReconstructionLoss(lambda: latents(0, 1), kl_weight=-1)


@pytest.mark.parametrize("error", [ImportError, OSError])
def test_missing_perceptual_weights_leave_a_line_in_the_log(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> PerceptualLoss:
        raise error("no weights here\nand more")

    monkeypatch.setattr(module, "PerceptualLoss", fail)
    with caplog.at_level(logging.WARNING):
        assert perceptual_loss() is None
    assert caplog.messages == ["training without the perceptual loss: no weights here"]


def test_generator_is_judged_by_the_last_output_from_its_epoch_on() -> None:
    logits = [torch.full((1, 1, 2, 2, 2), 9.0), torch.zeros(1, 1, 2, 2, 2, requires_grad=True)]
    loss = GeneratorLoss(0.1, from_epoch=2)
    seen = []

    def iteration(*_: object) -> dict[str, torch.Tensor]:
        seen.append(loss(logits))
        return {
            "reconstruction_loss": torch.tensor(2.0, requires_grad=True),
            "generator_loss": seen[-1],
            "discriminator_loss": torch.tensor(0.5),
            "pred": logits[0],
        }

    trainer = Engine(iteration)
    loss.attach(trainer)
    trainer.run([0], max_epochs=3)
    assert [value.item() for value in seen] == pytest.approx([0, 0.1, 0.1])
    # nothing to pay for while the discriminator only learns
    assert [value.requires_grad for value in seen] == [False, True, True]
    # what handlers of MONAI read, and none of the images
    (lost,) = trainer.state.output
    assert lost["loss"].item() == pytest.approx(2.1)
    assert not lost["loss"].requires_grad
    assert adversarial_losses([lost]) == {
        "train_loss": pytest.approx(2.1),
        "reconstruction_loss": 2.0,
        "generator_loss": pytest.approx(0.1),
        "discriminator_loss": 0.5,
    }
    assert "pred" not in lost


def test_discriminator_prefers_to_tell_them_apart() -> None:
    real, fake = torch.ones(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)
    assert DiscriminatorLoss()([real], [fake]).item() == 0
    blind = DiscriminatorLoss()([real], [real]).item()
    assert blind == pytest.approx(0.5)
    assert math.isfinite(blind)
