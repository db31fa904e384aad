"""The control sphere: the smallest sphere round a lesion, and what a shape model sees of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from nibabel.affines import apply_affine
from scipy.spatial import ConvexHull, QhullError

__all__ = ["Sphere", "attribute_condition", "enclosing_sphere", "parse_point", "sphere_mask"]

# ranges of the soft bins of the condition: sphere diameter in mm, then radiologists' scores
DIAMETER_MM, SCORES = (3.0, 45.0), (1.0, 5.0)
DIAMETER_BINS, SCORE_BINS = 8, 4
TOLERANCE, ROUNDING_MM = 1e-7, 1e-5


class Sphere(NamedTuple):
    """A sphere in scanner space.

    Attributes:
        centre_mm: RAS mm.
        radius_mm: at least 0.
    """

    centre_mm: tuple[float, float, float]
    radius_mm: float


def enclosing_sphere(mask: np.ndarray, affine: np.ndarray) -> Sphere:
    """Return the smallest sphere that holds the centres of all voxels of a mask.

    Welzl's algorithm on the vertices of the convex hull, in millimetres, so anisotropic and oblique
    grids are right. The released DiffMask code takes the centroid and the largest distance from it,
    both cut to whole voxels: neither smallest nor enclosing.

    References:
        Welzl, Smallest enclosing disks (balls and ellipsoids), 1991.

    Args:
        mask: 3-D; values above 0 are lesion.
        affine: voxel index to RAS mm, 4x4.

    Raises:
        ValueError: if the mask is empty: there is no sphere round nothing.

    Example:
        >>> mask = np.zeros((5, 5, 5))
        >>> mask[1:4, 2, 2] = 1
        >>> enclosing_sphere(mask, np.diag([2.0, 1, 1, 1]))
        Sphere(centre_mm=(4.0, 2.0, 2.0), radius_mm=2.0)
    """
    voxels = np.argwhere(np.asarray(mask) > 0)
    if len(voxels) == 0:
        raise ValueError("mask must hold a lesion, got an empty mask")
    points = apply_affine(affine, voxels)
    if len(points) > 4:
        # voxels in one plane or on a line have no hull in space; the search takes any points
        with suppress(QhullError):
            points = points[ConvexHull(points).vertices]
    points = np.random.default_rng(0).permutation(points)
    centre, radius = _smallest(points, np.empty((0, 3)))
    x, y, z = (round(float(value), 6) for value in centre)
    return Sphere((x, y, z), round(float(radius), 6))


def _smallest(points: np.ndarray, support: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the smallest ball that holds ``points`` and has ``support`` on its surface."""
    centre, radius = _through(support)
    start = 0
    while len(support) < 4 and start < len(points):
        distances = np.linalg.norm(points[start:] - centre, axis=1)
        outside = np.flatnonzero(distances > radius + TOLERANCE)
        if len(outside) == 0:
            break
        # the first point outside must lie on the surface of the ball round it and those before it
        start += int(outside[0])
        centre, radius = _smallest(points[:start], np.vstack([support, points[start]]))
        start += 1
    return centre, radius


def _through(support: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the smallest ball with up to four points on its surface; none gives nothing."""
    if len(support) == 0:
        return np.zeros(3), -np.inf
    first = support[0]
    edges = support[1:] - first
    # the least-norm solution lies in the plane of the points, as the smallest ball's centre does
    offset = np.linalg.lstsq(2 * edges, (edges**2).sum(1), rcond=None)[0] if len(edges) else 0.0
    centre = first + offset
    return centre, float(np.linalg.norm(first - centre))


def sphere_mask(sphere: Sphere, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return True where a voxel's centre lies in or on a sphere.

    Args:
        sphere: in RAS mm.
        affine: voxel index to RAS mm, 4x4.
        shape: voxels per axis.

    Example:
        >>> int(sphere_mask(Sphere((1.0, 1.0, 1.0), 1.0), np.eye(4), (3, 3, 3)).sum())
        7
    """
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    distances = np.linalg.norm(apply_affine(affine, index) - sphere.centre_mm, axis=-1)
    return distances <= sphere.radius_mm + ROUNDING_MM


def attribute_condition(
    diameter_mm: float,
    spiculation: float | None = None,
    lobulation: float | None = None,
    range_mm: tuple[float, float] = DIAMETER_MM,
) -> np.ndarray:
    """Return what a shape model is told beside the sphere, as soft bins, shape ``(16,)``.

    Eight bins hold the logarithm of the sphere's diameter (small nodules are rounder), four the
    score of spiculation and four that of lobulation. A score that is not known (None or 0) leaves
    its bins 0.

    Args:
        diameter_mm: of the sphere; held to ``range_mm``.
        spiculation: radiologists' score 1 (none) to 5 (marked), or None or 0.
        lobulation: likewise.
        range_mm: smallest and largest diameter that the model tells apart.

    Raises:
        ValueError: if the diameter is not positive or a score is outside 1..5.

    Example:
        >>> attribute_condition(3.0, spiculation=5.0).tolist()[7:13]
        [0.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    """
    if not (np.isfinite(diameter_mm) and diameter_mm > 0):
        raise ValueError(f"diameter_mm must be > 0, got {diameter_mm}")
    low, high = np.log(range_mm)
    parts = [_soft_bins((np.log(diameter_mm) - low) / (high - low), DIAMETER_BINS)]
    for name, score in (("spiculation", spiculation), ("lobulation", lobulation)):
        if not score:
            parts.append(np.zeros(SCORE_BINS, np.float32))
            continue
        if not SCORES[0] <= score <= SCORES[1]:
            raise ValueError(f"{name} must be a score from 1 to 5, got {score}")
        parts.append(_soft_bins((score - SCORES[0]) / (SCORES[1] - SCORES[0]), SCORE_BINS))
    return np.concatenate(parts)


def _soft_bins(fraction: float, bins: int) -> np.ndarray:
    """Return weights of the two bins whose centres lie on either side of a fraction."""
    place = float(np.clip(fraction, 0, 1)) * (bins - 1)
    return np.maximum(0, 1 - np.abs(np.arange(bins) - place)).astype(np.float32)


def parse_point(
    centre_mm: Sequence[float] | str | None, name: str = "centre_mm"
) -> tuple[float, float, float] | None:
    """Return a point from three numbers, or from their text as a form sends it.

    Args:
        centre_mm: RAS mm; None, or a text without a word: no point.
        name: of the argument, for messages.

    Raises:
        ValueError: if it is anything else than three finite numbers.

    Example:
        >>> parse_point("62.5, -20, 140"), parse_point([1, 2, 3]), parse_point("")
        ((62.5, -20.0, 140.0), (1.0, 2.0, 3.0), None)
    """
    if centre_mm is None:
        return None
    words = centre_mm.replace(",", " ").split() if isinstance(centre_mm, str) else centre_mm
    if isinstance(centre_mm, str) and not words:
        return None
    try:
        x, y, z = (float(word) for word in words)
    except (TypeError, ValueError):
        x = y = z = np.nan
    if not np.isfinite([x, y, z]).all():
        raise ValueError(f"{name} must be three numbers (RAS mm), got {centre_mm!r}")
    return x, y, z
