"""Samplers: what MONAI calls inferers."""

from .autoencoder import AutoencoderInferer
from .latent_inpaint import LatentInpaintInferer
from .lesion_inpaint import LesionInpaintInferer
from .lesion_windows import LesionRequestsInferer, LesionWindowInferer

__all__ = [
    "AutoencoderInferer",
    "LatentInpaintInferer",
    "LesionInpaintInferer",
    "LesionRequestsInferer",
    "LesionWindowInferer",
]
