"""Measures of what was synthesised: pure functions, with MONAI adapters beside them."""

from .lesion_edit import HistogramDivergence, LesionMean, RisingMeans
from .segmentation import AveragePrecision, Dice, FrocScore, LesionScore, OfClasses, SurfaceDice
from .shape import ShapeDistance, ShapeFeatures, shape_features
from .sphere import InsideShare, SphereError

__all__ = [
    "AveragePrecision",
    "Dice",
    "FrocScore",
    "HistogramDivergence",
    "InsideShare",
    "LesionMean",
    "LesionScore",
    "OfClasses",
    "RisingMeans",
    "ShapeDistance",
    "ShapeFeatures",
    "SphereError",
    "SurfaceDice",
    "shape_features",
]
