"""Samplers: what MONAI calls inferers."""

from .lesion_inpaint import LesionInpaintInferer
from .lesion_requests import LesionRequestsInferer
from .lesion_windows import LesionWindowInferer

__all__ = ["LesionInpaintInferer", "LesionRequestsInferer", "LesionWindowInferer"]
