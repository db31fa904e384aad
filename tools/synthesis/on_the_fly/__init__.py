"""Lesions inside anybody's training loop: dictionary transforms of MONAI."""

from .batch import LesionCollate
from .lesions import SynthesizeLesiond
from .organ import OrganMaskd

__all__ = ["LesionCollate", "OrganMaskd", "SynthesizeLesiond"]
