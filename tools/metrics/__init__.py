"""Measures of what was synthesised: pure functions, with MONAI adapters beside them."""

from .histogram import HistogramDivergence, intensity_histogram, jensen_shannon_divergence
from .lesion_mean import LesionMean, RisingMeans

__all__ = [
    "HistogramDivergence",
    "LesionMean",
    "RisingMeans",
    "intensity_histogram",
    "jensen_shannon_divergence",
]
