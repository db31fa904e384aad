"""Samplers: what MONAI calls inferers."""

from .lesion_inpaint import LesionInpaintInferer
from .lesion_windows import LesionWindowInferer

__all__ = ["LesionInpaintInferer", "LesionWindowInferer"]
