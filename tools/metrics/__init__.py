"""Measures of what was synthesised: pure functions, with MONAI adapters beside them."""

from .lesion_edit import HistogramDivergence, LesionMean, RisingMeans
from .shape import ShapeDistance, ShapeFeatures, shape_features
from .sphere import InsideShare, SphereError

__all__ = [
    "HistogramDivergence",
    "InsideShare",
    "LesionMean",
    "RisingMeans",
    "ShapeDistance",
    "ShapeFeatures",
    "SphereError",
    "shape_features",
]
