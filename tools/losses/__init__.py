"""Training objectives: of denoisers that look at lesions only, and of autoencoders."""

from .autoencoder import (
    DiscriminatorLoss,
    GeneratorLoss,
    ReconstructionLoss,
    adversarial_losses,
    perceptual_loss,
)
from .lesion import HistogramRegularizedLoss, LatentTarget, LesionNoiseLoss, NoiseTarget
from .vq_autoencoder import (
    HingeDiscriminatorLoss,
    HingeGeneratorLoss,
    QuantisedReconstructionLoss,
)

__all__ = [
    "DiscriminatorLoss",
    "GeneratorLoss",
    "HingeDiscriminatorLoss",
    "HingeGeneratorLoss",
    "HistogramRegularizedLoss",
    "LatentTarget",
    "LesionNoiseLoss",
    "NoiseTarget",
    "QuantisedReconstructionLoss",
    "ReconstructionLoss",
    "adversarial_losses",
    "perceptual_loss",
]
