"""Where infarct and no-reflow lie in a given heart, and what the words of ``--shape`` stand for."""

from __future__ import annotations

from tools.synthesis.hearts.diffmask_shapes import DiffMaskHeartShapes
from tools.synthesis.hearts.request import (
    Heart,
    HeartRequest,
    HeartShape,
    HeartShapeSource,
)
from tools.synthesis.hearts.shape_library import LibraryHeartShapes, MaskFileHeartShape

__all__ = [
    "DiffMaskHeartShapes",
    "Heart",
    "HeartRequest",
    "HeartShape",
    "HeartShapeSource",
    "LibraryHeartShapes",
    "MaskFileHeartShape",
    "make_heart_shape_source",
]

CHOICES = "diffmask, diffmask:BUNDLE, library:PATH, or a NIfTI label map (.nii, .nii.gz)"


def make_heart_shape_source(text: str = "diffmask", device: str = "auto") -> HeartShapeSource:
    """Return the source of infarcts that a name or a file stands for.

    Args:
        text: "diffmask", "diffmask:BUNDLE", "library:PATH" (a folder of ``*_label.nii.gz`` or a
            datalist.json), or a NIfTI label map.
        device: of the model of "diffmask".

    Raises:
        FileNotFoundError: if the bundle or its weights do not exist.
        ValueError: if the name is unknown or its data cannot be read.

    Example:
        >>> make_heart_shape_source("ellipsoid")
        Traceback (most recent call last):
        ...
        ValueError: shape must be one of diffmask, diffmask:BUNDLE, library:PATH, or a NIfTI ...
    """
    name, _, path = str(text).partition(":")
    if name == "diffmask":
        return DiffMaskHeartShapes(path or name, device)
    if name == "library" and path:
        return LibraryHeartShapes(path)
    if str(text).endswith((".nii", ".nii.gz")):
        return MaskFileHeartShape(text)
    raise ValueError(f"shape must be one of {CHOICES}, got {text!r}")
