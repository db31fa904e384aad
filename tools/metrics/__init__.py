"""Measures of what was synthesised: pure functions, with MONAI adapters beside them."""

from .histogram import HistogramDivergence, intensity_histogram, jensen_shannon_divergence
from .lesion_mean import LesionMean, RisingMeans
from .shape import ShapeDistance, ShapeFeatures, shape_features

__all__ = [
    "HistogramDivergence",
    "LesionMean",
    "RisingMeans",
    "ShapeDistance",
    "ShapeFeatures",
    "intensity_histogram",
    "jensen_shannon_divergence",
    "shape_features",
]
