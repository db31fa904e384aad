"""Shapes of lesions: level sets in a box, label maps in a wall, and what draws them."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from tools.bundle import find_bundle
from tools.organs.organ import Organ
from tools.shapes.diffmask import DiffMaskShapes, DiffMaskWallShapes, ShapeGenerator
from tools.shapes.shape import LabelShape, Place, Shape
from tools.shapes.size_classes import SizedEllipsoids, read_shares
from tools.shapes.sources import (
    EllipsoidShapes,
    LibraryShapes,
    MaskFileShape,
    ShapeSource,
    SizedShapes,
)
from tools.shapes.wall import MaskFileWallShape, WallLibrary

__all__ = [
    "DiffMaskShapes",
    "DiffMaskWallShapes",
    "EllipsoidShapes",
    "LabelShape",
    "LibraryShapes",
    "MaskFileShape",
    "MaskFileWallShape",
    "Place",
    "Shape",
    "ShapeGenerator",
    "ShapeSource",
    "SizedEllipsoids",
    "SizedShapes",
    "WallLibrary",
    "make_shape_source",
]

logger = logging.getLogger(__name__)

BOX_WORDS = "diffmask, diffmask:BUNDLE, ellipsoid, ellipsoid:CLASSES, library, library:PATH"
WALL_WORDS = "diffmask, diffmask:BUNDLE, library:PATH"


def make_shape_source(
    organ: Organ,
    name: str = "auto",
    seed: int = 0,
    spiculation: float | None = None,
    lobulation: float | None = None,
    device: str | torch.device = "auto",
) -> ShapeSource:
    """Return the source of shapes that a word or a file stands for.

    The organ's chart decides which there are: diffmask, diffmask:BUNDLE, library:PATH or a NIfTI
    mask (of a wall a label map); in a box also ellipsoid, ellipsoid:CLASSES with sizes of their own
    (tiny, small, medium, large, several with commas and shares, ``tiny=4,large=1``) and library
    (radiologists' outlines, that the seed chooses). ``auto`` is diffmask, or where that bundle is
    not there ellipsoid. Scores of learned shapes in a box go from 1 (none) to 5 (marked); None
    leaves them to the model.

    Raises:
        FileNotFoundError: if a bundle or its weights do not exist.
        ValueError: if the word is unknown, its data cannot be read, or scores are given to a source
            that takes none.

    Example:
        >>> from tools.organs import load_organ
        >>> type(make_shape_source(load_organ("lung"), "ellipsoid")).__name__
        'EllipsoidShapes'
    """
    for key, value in (("spiculation", spiculation), ("lobulation", lobulation)):
        if value is not None and not (isinstance(value, int | float) and 1 <= value <= 5):
            raise ValueError(f"{key} must be a score from 1 to 5, got {value!r}")
    word, colon, path = _known(name, organ).partition(":")
    box = organ.chart == "box"
    if colon and not path:
        word = ""  # such as "diffmask:"
    if box and word == "diffmask":
        return DiffMaskShapes(ShapeGenerator(path or word, device), spiculation, lobulation)
    if (spiculation, lobulation) != (None, None):
        raise ValueError(f"spiculation and lobulation need shape diffmask, got shape {name!r}")
    if word == "diffmask":
        return DiffMaskWallShapes(path or word, device=device)
    found = _found(str(name), word, path, organ, seed)
    if found is None:
        words = BOX_WORDS if box else WALL_WORDS
        raise ValueError(
            f"shape must be one of {words}, or a NIfTI mask (.nii, .nii.gz), got {name!r}"
        )
    return found


def _found(name: str, word: str, path: str, organ: Organ, seed: int) -> ShapeSource | None:
    """Return a source that nothing was learnt for; None if the word is unknown."""
    box = organ.chart == "box"
    if name.endswith((".nii", ".nii.gz")):
        if box:
            return MaskFileShape(name, largest_mm=organ.diameter_range_mm[1])
        return MaskFileWallShape(name, organ)
    if word == "library" and (path or box):
        return LibraryShapes(path or None, seed) if box else WallLibrary(path, organ)
    if not box or word != "ellipsoid":
        return None
    return SizedEllipsoids(read_shares(path)) if path else EllipsoidShapes()


def _known(name: str | Path, organ: Organ) -> str:
    if name != "auto":
        return str(name)
    try:
        find_bundle("diffmask")
    except FileNotFoundError:
        if organ.chart != "box":
            raise
        logger.warning("shapes are ellipsoids: the bundle diffmask is not there")
        return "ellipsoid"
    return "diffmask"
