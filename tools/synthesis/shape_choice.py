"""What the words of ``--shape`` stand for."""

from __future__ import annotations

from dataclasses import dataclass

from tools.synthesis.diffmask_shapes import DiffMaskShapes
from tools.synthesis.shape_generator import ShapeGenerator
from tools.synthesis.shapes import EllipsoidShapes, LibraryShapes, MaskFileShape, ShapeSource

__all__ = ["ShapeOptions", "make_shape_source"]

CHOICES = (
    "diffmask, diffmask:BUNDLE, ellipsoid, library, library:PATH, or a NIfTI mask (.nii, .nii.gz)"
)


@dataclass(frozen=True)
class ShapeOptions:
    """What only some sources of shapes take.

    Args:
        spiculation: of learned shapes, score 1 (none) to 5 (marked); None leaves it to the model.
        lobulation: likewise.
        device: of the model of learned shapes.

    Raises:
        ValueError: if a score is outside 1..5.
    """

    spiculation: float | None = None
    lobulation: float | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("spiculation", "lobulation"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 1 <= value <= 5):
                raise ValueError(f"{name} must be a score from 1 to 5, got {value!r}")


def make_shape_source(
    name_or_path: str, seed: int = 0, options: ShapeOptions | None = None
) -> ShapeSource:
    """Return the source of shapes that a name or a file stands for.

    Args:
        name_or_path: "diffmask", "diffmask:BUNDLE", "ellipsoid", "library", "library:PATH", or a
            NIfTI mask.
        seed: chooses the radiologists' nodules of "library".
        options: of learned shapes; None: those of :class:`ShapeOptions`.

    Raises:
        ValueError: if the name is unknown, its data cannot be read, or scores are given to a source
            that takes none.

    Example:
        >>> type(make_shape_source("ellipsoid")).__name__
        'EllipsoidShapes'
    """
    options = ShapeOptions() if options is None else options
    name, _, path = str(name_or_path).partition(":")
    if name == "diffmask":
        generator = ShapeGenerator(path or name, options.device)
        return DiffMaskShapes(generator, options.spiculation, options.lobulation)
    if (options.spiculation, options.lobulation) != (None, None):
        raise ValueError(
            f"spiculation and lobulation need shape diffmask, got shape {name_or_path!r}"
        )
    if name_or_path == "ellipsoid":
        return EllipsoidShapes()
    if name == "library":
        return LibraryShapes(path or None, seed)
    if str(name_or_path).endswith((".nii", ".nii.gz")):
        return MaskFileShape(name_or_path)
    raise ValueError(f"shape must be one of {CHOICES}, got {name_or_path!r}")
