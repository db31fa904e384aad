"""Controllable synthetic lesions for medical images, built on MONAI."""

__version__ = "0.7.0"
