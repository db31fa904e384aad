"""Objectives of the autoencoder with a codebook, by hand and in MONAI's trainer."""

from types import SimpleNamespace

import pytest
import torch
from monai.engines import AdversarialTrainer
from torch import Tensor, nn

from tools.inferers import AutoencoderInferer
from tools.losses import (
    HingeDiscriminatorLoss,
    HingeGeneratorLoss,
    QuantisedReconstructionLoss,
    adversarial_losses,
)
from tools.networks.slice_volume_discriminator import SliceVolumeDiscriminator
from tools.networks.vq_autoencoder import VqAutoencoder

IMAGE = torch.zeros(2, 1, 8, 8, 8)


def judged(*logits: float, feature: float = 0.0) -> list[list[Tensor]]:
    """What discriminators see: two features of one value, and logits of another."""
    shape = (1, 1, 2, 2)
    return [[torch.full(shape, value) for value in (feature, feature, x)] for x in logits]


def test_reconstruction_is_l1_commitment_and_perceptual_term() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, found: Tensor, wanted: Tensor) -> Tensor:
            return 2 * (found - wanted).abs().mean()

    loss = QuantisedReconstructionLoss(lambda: torch.tensor(0.3), perceptual=Counts())
    assert loss(IMAGE + 0.25, IMAGE).item() == pytest.approx(4 * 0.25 + 0.3 + 4 * 0.5)
    assert not loss.state_dict()  # weights of others are not saved


@pytest.mark.parametrize(
    ("real", "fake", "lost"),
    [
        ((0.0,), (0.0,), 1.0),
        ((1.0,), (-1.0,), 0.0),
        ((3.0,), (-2.0,), 0.0),  # a tanh before the hinge would not let it be 0
        ((0.5, 4.0), (0.5, -4.0), (0.5 + 1.5) / 2),
    ],
)
def test_discriminator_pays_within_the_margin(
    real: tuple[float, ...], fake: tuple[float, ...], lost: float
) -> None:
    loss = HingeDiscriminatorLoss(from_step=1)
    assert loss(judged(*real), judged(*fake)).item() == pytest.approx(lost)


def test_generator_is_paid_by_both_judges() -> None:
    loss = HingeGeneratorLoss(weight=0.5, feature_weight=0, from_step=1)
    assert loss(judged(3, -1)).item() == pytest.approx(-0.5 * (3 - 1))
    with pytest.raises(RuntimeError, match="must be attached to a trainer to match features"):
        HingeGeneratorLoss(from_step=1)(judged(3, -1))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: HingeGeneratorLoss(weight=-1), "weight"),
        (lambda: HingeGeneratorLoss(feature_weight=-1), "feature_weight"),
        (lambda: QuantisedReconstructionLoss(lambda: IMAGE, l1_weight=-1), "l1_weight"),
        (
            lambda: QuantisedReconstructionLoss(lambda: IMAGE, perceptual_weight=-1),
            "perceptual_weight",
        ),
    ],
)
def test_negative_weights_are_refused(make: object, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be at least 0, got -1"):
        make()  # type: ignore[operator]


def make_trainer(from_step: int, seen: list) -> tuple[AdversarialTrainer, nn.Module]:
    """A trainer of tiny networks that notes what the generator loss and the discriminator do."""
    torch.manual_seed(0)
    network = VqAutoencoder(num_embeddings=8)
    discriminator = SliceVolumeDiscriminator(channels=4, num_layers_d=1)
    inferer = AutoencoderInferer()
    generator_loss = HingeGeneratorLoss(from_step=from_step)
    discriminator_loss = HingeDiscriminatorLoss(from_step)

    class Note:
        def attach(self, engine: AdversarialTrainer) -> None:
            engine.add_event_handler("ITERATION_COMPLETED", self)

        def __call__(self, engine: AdversarialTrainer) -> None:
            weights = [parameter.detach().clone() for parameter in discriminator.parameters()]
            seen.append((adversarial_losses(engine.state.output), weights))

    trainer = AdversarialTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.rand(2, 1, 8, 8, 8)} for _ in range(3)],
        prepare_batch=lambda batch, *_, **__: (batch["image"], batch["image"]),
        g_network=network,
        g_optimizer=torch.optim.Adam(network.parameters(), 1e-3),
        g_loss_function=generator_loss,
        recon_loss_function=QuantisedReconstructionLoss(inferer.commitment),
        d_network=discriminator,
        d_optimizer=torch.optim.Adam(discriminator.parameters(), 1e-3),
        d_loss_function=discriminator_loss,
        g_inferer=inferer,
        train_handlers=[discriminator, generator_loss, discriminator_loss, Note()],
    )
    return trainer, discriminator


def test_judges_count_from_their_step_on_in_the_trainer() -> None:
    seen: list = []
    trainer, discriminator = make_trainer(2, seen)
    start = [parameter.detach().clone() for parameter in discriminator.parameters()]
    trainer.run()
    losses, weights = zip(*seen, strict=True)
    assert [loss["generator_loss"] == 0 for loss in losses] == [True, False, False]
    assert [loss["discriminator_loss"] == 0 for loss in losses] == [True, False, False]
    assert all(loss["reconstruction_loss"] > 0 for loss in losses)
    moved = [
        any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        for before, after in zip([start, *weights], weights, strict=False)
    ]
    assert moved == [False, True, True]


def test_features_are_matched_with_those_of_the_real_images() -> None:
    loss = HingeGeneratorLoss(weight=0, from_step=1)
    trainer = SimpleNamespace(
        add_event_handler=lambda *_: None,
        d_inferer=lambda image, network: network(image),
        state=SimpleNamespace(
            output={"reals": 3.0}, d_network=lambda image: judged(1, 2, feature=image)
        ),
    )
    loss.attach(trainer)
    assert loss(judged(5, 6, feature=3.0)).item() == 0
    # two judges of two layers, their logits left out
    assert loss(judged(5, 6, feature=3.5)).item() == pytest.approx(4 * 2 * 2 * 0.5)
