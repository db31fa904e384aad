"""Training objectives of an adversarial autoencoder, as ``AdversarialTrainer`` calls them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.losses import PatchAdversarialLoss, PerceptualLoss
from torch import Tensor, nn

__all__ = [
    "DiscriminatorLoss",
    "GeneratorLoss",
    "ReconstructionLoss",
    "adversarial_losses",
    "list_losses",
    "perceptual_loss",
]

logger = logging.getLogger(__name__)

LOSSES = ("reconstruction_loss", "generator_loss", "discriminator_loss")  # MONAI's names


class ReconstructionLoss(nn.Module):
    r"""L1, Kullback-Leibler and perceptual terms of an autoencoder.

    :math:`L = |x - \hat x|_1 + w_{KL} \, KL(q(z|x) \,\|\, N(0, 1)) + w_P \, P(x, \hat x)`, the
    reconstruction part of the objective of MAISI's volume compression network. The KL term is
    summed over all latents of a sample, as there, so that its weight is small; a larger crop makes
    it larger. Negative weights are a ``ValueError``.

    ``posterior`` returns mean and deviation of the latents of the last forward pass, see
    :class:`tools.inferers.autoencoder.AutoencoderInferer`: MONAI's ``AdversarialTrainer`` hands
    reconstructions to a loss, and nothing else. ``perceptual`` is :func:`perceptual_loss`, or None.

    References:
        Guo et al., MAISI, WACV 2025. https://arxiv.org/abs/2409.11169

    Example:
        >>> latents = torch.zeros(1, 4, 2, 2, 2), torch.ones(1, 4, 2, 2, 2)
        >>> loss = ReconstructionLoss(lambda: latents)
        >>> loss(torch.full((1, 1, 8, 8, 8), 0.5), torch.zeros(1, 1, 8, 8, 8)).item()
        0.5
    """

    def __init__(
        self,
        posterior: Callable[[], tuple[Tensor, Tensor]],
        kl_weight: float = 1e-7,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 0.3,
    ) -> None:
        super().__init__()
        for name, weight in (("kl_weight", kl_weight), ("perceptual_weight", perceptual_weight)):
            if weight < 0:
                raise ValueError(f"{name} must be at least 0, got {weight}")
        self.posterior, self.kl_weight = posterior, kl_weight
        # in a list, so that frozen weights of others do not get into checkpoints
        self._perceptual = [perceptual] if perceptual is not None and perceptual_weight else []
        self.perceptual_weight = perceptual_weight

    def forward(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Return the scalar loss of images ``(B, 1, H, W, D)``, about [0, 1]."""
        found, wanted = reconstruction.float(), image.float()
        loss = (found - wanted).abs().mean()
        mean, deviation = (part.float() for part in self.posterior())
        variance = deviation.square().clamp(min=1e-12)
        divergence = 0.5 * (mean.square() + variance - variance.log() - 1).flatten(1).sum(1).mean()
        loss = loss + self.kl_weight * divergence
        for network in self._perceptual:
            loss = loss + self.perceptual_weight * network(found, wanted)
        return loss


def perceptual_loss(
    network_type: str = "squeeze", device: str | torch.device = "cpu"
) -> nn.Module | None:
    """Return MONAI's perceptual loss on a fifth of the slices, or None without its weights.

    It needs the package ``lpips`` and downloads weights at first use. Without them training goes
    on, and one line of the log says what is missing.
    """
    try:
        network = PerceptualLoss(3, network_type, is_fake_3d=True, fake_3d_ratio=0.2)
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        logger.warning("training without the perceptual loss: %s", reason)
        return None
    return network.to(device).requires_grad_(False)


class GeneratorLoss(nn.Module):
    """What the autoencoder loses where the discriminator tells its images from real ones.

    In the beginning reconstructions are too blurred for it to help: it counts from epoch
    ``from_epoch`` (1 is the first) on. As one of the trainer's handlers it learns what epoch it is,
    and gives the trainer's output the form that other trainers of MONAI give it, a list of
    dictionaries with ``loss``, here what the generator lost in all: handlers such as that of
    ``--tracking mlflow`` read no other. A negative ``weight`` is a ``ValueError``.
    """

    def __init__(self, weight: float = 0.1, from_epoch: int = 1) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight must be at least 0, got {weight}")
        self.weight, self.from_epoch, self.epoch = weight, from_epoch, 1
        self.loss = PatchAdversarialLoss(criterion="least_squares")

    def attach(self, engine: Engine) -> None:
        """Follow the epochs of a trainer, and list what it lost."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._follow)
        engine.add_event_handler(Events.ITERATION_COMPLETED, list_losses)

    def _follow(self, engine: Engine) -> None:
        self.epoch = engine.state.epoch

    def forward(self, fake: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the scalar loss of the discriminator's logits for reconstructions."""
        logits = _last(fake)
        if not self.weight or self.epoch < self.from_epoch:
            return logits.new_zeros(())
        return self.weight * self.loss(logits, target_is_real=True, for_discriminator=False)


class DiscriminatorLoss(nn.Module):
    """What the discriminator loses where it takes real images for forged ones, or the reverse."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = PatchAdversarialLoss(criterion="least_squares")

    def forward(self, real: Tensor | Sequence[Tensor], fake: Tensor | Sequence[Tensor]) -> Tensor:
        """Return the scalar loss of the logits for real images and for reconstructions."""
        seen = self.loss(_last(real), target_is_real=True, for_discriminator=True)
        forged = self.loss(_last(fake), target_is_real=False, for_discriminator=True)
        return (seen + forged) / 2


def list_losses(engine: Engine) -> None:
    """Give the output of ``AdversarialTrainer`` the form that handlers of MONAI read."""
    output: Any = engine.state.output  # ignite's type knows numbers only
    losses = {name: output[name].detach() for name in LOSSES}
    losses["loss"] = losses["reconstruction_loss"] + losses["generator_loss"]
    engine.state.output = [losses]  # type: ignore[assignment]


def adversarial_losses(output: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Return what ``AdversarialTrainer`` lost in an iteration, by name, for a chart."""
    return {"train_loss": output[0]["loss"].item()} | {k: output[0][k].item() for k in LOSSES}


def _last(logits: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the logits of a discriminator that also returns its features."""
    return (logits if isinstance(logits, Tensor) else logits[-1]).float()
