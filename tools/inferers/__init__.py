"""Samplers: what MONAI calls inferers."""

from .lesion_inpaint import LesionInpaintInferer

__all__ = ["LesionInpaintInferer"]
