"""Samplers: what MONAI calls inferers."""

from .autoencoder import AutoencoderInferer
from .latent_inpaint import LatentInpaintInferer
from .lesion_inpaint import LesionInpaintInferer
from .lesion_requests import LesionRequestsInferer
from .lesion_windows import LesionWindowInferer

__all__ = [
    "AutoencoderInferer",
    "LatentInpaintInferer",
    "LesionInpaintInferer",
    "LesionRequestsInferer",
    "LesionWindowInferer",
]
