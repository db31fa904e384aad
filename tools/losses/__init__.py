"""Training objectives: of denoisers that look at lesions only, of autoencoders, of outlines."""

from .autoencoder import (
    DiscriminatorLoss,
    GeneratorLoss,
    ReconstructionLoss,
    adversarial_losses,
    perceptual_loss,
)
from .lesion import HistogramRegularizedLoss, LatentTarget, LesionNoiseLoss, NoiseTarget
from .segmentation import StackedSupervisionLoss
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
    "StackedSupervisionLoss",
    "adversarial_losses",
    "perceptual_loss",
]
