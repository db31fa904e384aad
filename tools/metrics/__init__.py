"""Measures of what was synthesised: pure functions, with MONAI adapters beside them."""

from .histogram import HistogramDivergence, intensity_histogram, jensen_shannon_divergence

__all__ = ["HistogramDivergence", "intensity_histogram", "jensen_shannon_divergence"]
