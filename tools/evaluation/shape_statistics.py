"""Statistics of drawn shapes: distance from real ones, diversity, what ratings change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.evaluation.shape_sources import PlacedMask, RealShape, place_on
from tools.evaluation.shape_tests import shape_windows
from tools.metrics import ShapeFeatures, shape_features
from tools.metrics.shape import feature_distances

__all__ = ["distance_summary", "diversity", "real_diversity", "real_slopes", "steering"]

RESAMPLES = 200
STEERED = ("roughness", "sphericity")


def _bootstrap(count: int, statistic: Callable[[np.ndarray], np.ndarray], seed: int) -> np.ndarray:
    """Return the standard deviation of a statistic of row numbers, drawn with replacement."""
    rng = np.random.default_rng(seed)
    draws = [statistic(rng.integers(count, size=count)) for _ in range(RESAMPLES)]
    return np.std(draws, axis=0, ddof=1)


def distance_summary(features: np.ndarray, reference: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Return the distance of each feature's distribution from the real one, and their mean.

    Args:
        features: shape ``(n, features)``, NaN where nothing was drawn.
        reference: of the real masks, same order.
        seed: of the bootstrap over pairs of drawn and real mask.

    Returns:
        ``{feature: {"value", "sd"}, ..., "mean": {...}}`` in real standard deviations, see
        :func:`tools.metrics.shape.feature_distances`.
    """

    def all_and_mean(rows: np.ndarray) -> np.ndarray:
        found = feature_distances(features[rows], reference[rows])
        return np.append(found, found.mean())

    values = all_and_mean(np.arange(len(features)))
    spread = _bootstrap(len(features), all_and_mean, seed)
    names = (*ShapeFeatures._fields, "mean")
    return {
        name: {"value": float(value), "sd": float(sd)}
        for name, value, sd in zip(names, values, spread, strict=True)
    }


def _mean_overlap(shapes: Sequence[PlacedMask]) -> float:
    """Return the mean intersection over union of all pairs, each scaled to its own sphere."""
    windows = [window >= 0.5 for window in shape_windows(shapes, 24)]
    overlaps = [
        float((a & b).sum() / max(int((a | b).sum()), 1)) for a, b in combinations(windows, 2)
    ]
    return float(np.mean(overlaps))


def _mean_and_error(values: Sequence[float], seed: int) -> dict[str, float | int]:
    rows = np.asarray(values, float)
    error = _bootstrap(len(rows), lambda chosen: rows[chosen].mean(), seed) if len(rows) else 0.0
    mean = float(rows.mean()) if len(rows) else 0.0
    return {"mean": mean, "error": float(error), "n": len(rows)}


def diversity(
    draws: Sequence[Sequence[PlacedMask | None]], seed: int = 0
) -> dict[str, float | int]:
    """Return the mean pairwise overlap of several draws in one sphere; 1 means all are the same.

    Args:
        draws: for each sphere some masks; None is left out.
        seed: of the bootstrap over spheres.

    Returns:
        ``{"mean", "error", "n"}``: mean intersection over union, its standard error, spheres.
    """
    drawn = [[shape for shape in each if shape is not None] for each in draws]
    return _mean_and_error([_mean_overlap(each) for each in drawn if len(each) > 1], seed)


def real_diversity(
    lesions: Sequence[RealShape], library: Sequence[RealShape], count: int = 4, seed: int = 0
) -> dict[str, float | int]:
    """Return the overlap of real masks of nearly equal size, their spheres on each other.

    Args:
        lesions: whose sizes are taken.
        library: real masks to take the nearest ``count`` of.
        count: masks per size.
        seed: of the mirrors and the bootstrap.
    """
    rng = np.random.default_rng(seed)
    radii = np.array([item.sphere.radius_mm for item in library])
    values = []
    for lesion in lesions:
        nearest = np.argsort(np.abs(radii - lesion.sphere.radius_mm), kind="stable")[:count]
        placed = [place_on(library[int(i)], lesion.sphere, rng).placed for i in nearest]
        if len(placed) > 1:
            values.append(_mean_overlap(placed))
    return _mean_and_error(values, seed)


def steering(
    ends: Sequence[Sequence[PlacedMask | None]], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Return the change of roughness and sphericity from the lowest to the highest score.

    Args:
        ends: for each sphere the masks drawn with the lowest and with the highest score.
        seed: of the bootstrap over spheres.

    Returns:
        By feature ``{"mean", "error", "n", "low", "high", "rising"}``: mean change with its
        standard error, the means at both ends, and the share of spheres in which it rises.
    """
    rows = [
        [shape_features(*shape) for shape in pair if shape is not None]
        for pair in ends
        if all(shape is not None for shape in pair)
    ]
    if not rows:
        return {}
    found = {}
    for name in STEERED:
        values = np.array([[getattr(features, name) for features in pair] for pair in rows])
        change = values[:, 1] - values[:, 0]
        found[name] = _mean_and_error(change.tolist(), seed) | {
            "low": float(values[:, 0].mean()),
            "high": float(values[:, 1].mean()),
            "rising": float((change > 0).mean()),
        }
    return found


def real_slopes(library: Sequence[RealShape], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Return how roughness and sphericity of real masks go with each score, at equal size.

    A linear regression on the score and the logarithm of the sphere's radius; four times the slope
    is what lies between the scores 1 and 5.

    Args:
        library: real masks; those without a score are left out.
        seed: of the bootstrap over masks.

    Returns:
        By score and feature ``{"mean", "error", "n"}``, the change from 1 to 5; a score that does
        not vary is absent.
    """
    rated = [item for item in library if len(item.scores) == 2]
    if len(rated) < 4:
        return {}
    rows = [shape_features(*item.placed) for item in tqdm(rated, desc="real masks by rating")]
    sizes = np.log([max(item.sphere.radius_mm, 0.5) for item in rated])
    found: dict[str, dict[str, Any]] = {}
    for score in ("spiculation", "lobulation"):
        scores = np.array([item.scores[score] for item in rated])
        if np.ptp(scores) == 0:
            continue
        design = np.stack([scores, sizes, np.ones_like(sizes)], 1)
        found[score] = {
            name: _slope(design, np.array([getattr(row, name) for row in rows]), seed)
            for name in STEERED
        }
    return found


def _slope(design: np.ndarray, values: np.ndarray, seed: int) -> dict[str, float | int]:
    def change(rows: np.ndarray) -> np.ndarray:
        return 4 * np.linalg.lstsq(design[rows], values[rows], rcond=None)[0][0]

    everything = np.arange(len(values))
    error = _bootstrap(len(values), change, seed)
    return {"mean": float(change(everything)), "error": float(error), "n": len(values)}
