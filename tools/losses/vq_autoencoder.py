"""Training objectives of an autoencoder with a codebook and two hinge discriminators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from ignite.engine import Events
from monai.utils.enums import AdversarialKeys
from torch import Tensor, nn
from torch.nn import functional

from tools.losses.autoencoder import list_losses

__all__ = ["HingeDiscriminatorLoss", "HingeGeneratorLoss", "QuantisedReconstructionLoss"]

Judged = Sequence[Sequence[Tensor]]
"""Of each discriminator, features and then logits."""


class QuantisedReconstructionLoss(nn.Module):
    r"""L1, commitment and perceptual terms of an autoencoder with a codebook.

    :math:`L = w_1 |x - \hat x|_1 + c + w_P P(x, \hat x)`, the reconstruction part of the objective
    of DiffTumor's first stage. ``commitment`` returns :math:`c` of the last forward pass, its
    weight included (see :class:`tools.inferers.AutoencoderInferer`): codes follow the latents by
    themselves, so that there is no codebook term, unlike in the paper's equation. ``perceptual`` is
    :func:`tools.losses.perceptual_loss`, or None. Negative weights are a ``ValueError``.

    References:
        Chen et al., DiffTumor, CVPR 2024. https://arxiv.org/abs/2402.19470

    Example:
        >>> loss = QuantisedReconstructionLoss(lambda: torch.tensor(0.25))
        >>> loss(torch.full((1, 1, 8, 8, 8), 0.5), torch.zeros(1, 1, 8, 8, 8)).item()
        2.25
    """

    def __init__(
        self,
        commitment: Callable[[], Tensor],
        l1_weight: float = 4.0,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 4.0,
    ) -> None:
        super().__init__()
        _require_weights(l1_weight=l1_weight, perceptual_weight=perceptual_weight)
        self.commitment, self.l1_weight = commitment, l1_weight
        # in a list, so that frozen weights of others do not get into checkpoints
        self._perceptual = [perceptual] if perceptual is not None and perceptual_weight else []
        self.perceptual_weight = perceptual_weight

    def forward(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Return the scalar loss of images ``(B, 1, H, W, D)``, about [-1, 1]."""
        found, wanted = reconstruction.float(), image.float()
        loss = self.l1_weight * (found - wanted).abs().mean() + self.commitment()
        for network in self._perceptual:
            loss = loss + self.perceptual_weight * network(found, wanted)
        return loss


class _FromStep(nn.Module):
    """A loss that counts from iteration ``from_step`` (1 is the first) of a trainer on."""

    def __init__(self, from_step: int) -> None:
        super().__init__()
        self.from_step, self.step = from_step, 1

    @property
    def counts(self) -> bool:
        return self.step >= self.from_step

    def attach(self, engine: Any) -> None:
        """Follow the iterations of a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._follow)

    def _follow(self, engine: Any) -> None:
        self.step = engine.state.iteration


class HingeGeneratorLoss(_FromStep):
    r"""What the autoencoder loses where discriminators tell its images from real ones.

    :math:`\sum_d \big(-w \, \overline{D_d(\hat x)} +
    w_F \sum_l |D_d^l(\hat x) - D_d^l(x)|_1\big)` over discriminators d and their layers l but the
    last, each mean over all elements. MONAI's ``PatchAdversarialLoss`` puts a tanh before its
    hinge, which keeps a discriminator's loss above 0 whatever it says.

    Attached to ``AdversarialTrainer``, as one of its handlers, it learns the iteration, looks at
    the discriminators' features of the real images, and lists what was lost as
    :class:`tools.losses.GeneratorLoss` does. Negative weights are a ``ValueError``.

    Example:
        >>> loss = HingeGeneratorLoss(feature_weight=0, from_step=1)
        >>> loss([[torch.full((1, 1, 2, 2), 3.0)]]).item()
        -3.0
    """

    def __init__(
        self, weight: float = 1.0, feature_weight: float = 4.0, from_step: int = 10_000
    ) -> None:
        super().__init__(from_step)
        _require_weights(weight=weight, feature_weight=feature_weight)
        self.weight, self.feature_weight = weight, feature_weight
        self._trainer: Any = None

    def attach(self, engine: Any) -> None:
        """Follow a trainer, and list what it lost."""
        super().attach(engine)
        self._trainer = engine
        engine.add_event_handler(Events.ITERATION_COMPLETED, list_losses)

    def forward(self, fake: Judged) -> Tensor:
        """Return the scalar loss of what discriminators see in reconstructions."""
        loss = fake[0][-1].new_zeros((), dtype=torch.float32)
        if not self.counts:
            return loss
        for seen in fake:
            loss = loss - self.weight * seen[-1].float().mean()
        return loss + self.feature_weight * self._mismatch(fake) if self.feature_weight else loss

    def _mismatch(self, fake: Judged) -> Tensor:
        if self._trainer is None:
            raise RuntimeError("HingeGeneratorLoss must be attached to a trainer to match features")
        state = self._trainer.state
        with torch.no_grad():
            real = self._trainer.d_inferer(state.output[AdversarialKeys.REALS], state.d_network)
        parts = [
            functional.l1_loss(found.float(), wanted.float())
            for seen, seen_in_real in zip(fake, real, strict=True)
            for found, wanted in zip(seen[:-1], seen_in_real[:-1], strict=True)
        ]
        return torch.stack(parts).sum()


class HingeDiscriminatorLoss(_FromStep):
    r"""What discriminators lose where they take real images for forged ones, or the reverse.

    :math:`\tfrac12 \sum_d \overline{\max(0, 1 - D_d(x))} + \overline{\max(0, 1 + D_d(\hat x))}`,
    and 0 before ``from_step``; one of the trainer's handlers.

    Example:
        >>> logits = torch.zeros(1, 1, 2, 2)
        >>> HingeDiscriminatorLoss(from_step=1)([[logits]], [[logits]]).item()
        1.0
    """

    def __init__(self, from_step: int = 10_000) -> None:
        super().__init__(from_step)

    def forward(self, real: Judged, fake: Judged) -> Tensor:
        """Return the scalar loss of what they see in real images and in reconstructions."""
        parts = [functional.relu(1 - seen[-1].float()).mean() for seen in real]
        parts += [functional.relu(1 + seen[-1].float()).mean() for seen in fake]
        return torch.stack(parts).sum() / 2 * self.counts


def _require_weights(**weights: float) -> None:
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"{name} must be at least 0, got {weight}")
