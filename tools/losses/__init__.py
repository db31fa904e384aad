"""Training objectives: of denoisers that look at lesions only, and of autoencoders."""

from .autoencoder import (
    DiscriminatorLoss,
    GeneratorLoss,
    ReconstructionLoss,
    adversarial_losses,
    perceptual_loss,
)
from .lesion import HistogramRegularizedLoss, LatentTarget, LesionNoiseLoss, NoiseTarget

__all__ = [
    "DiscriminatorLoss",
    "GeneratorLoss",
    "HistogramRegularizedLoss",
    "LatentTarget",
    "LesionNoiseLoss",
    "NoiseTarget",
    "ReconstructionLoss",
    "adversarial_losses",
    "perceptual_loss",
]
