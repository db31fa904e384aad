"""What a lesion does at its border: profile of intensities, step, width of the edge, noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from tools.metrics.per_case import CaseMetric

__all__ = ["BorderFeatures", "border_features", "border_profile", "noise_level", "signed_depth"]

EDGES_MM = tuple(float(mm) for mm in range(-6, 7))
SMALLEST = 4  # voxels of a ring that count


def signed_depth(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the distance to the border of a mask in mm, below 0 inside.

    The border lies half a voxel beyond the outermost voxels' centres, along the finest axis.

    Example:
        >>> signed_depth(np.array([[[0, 1, 1, 0, 0]]], bool), (1, 1, 1)).ravel().tolist()
        [0.5, -0.5, -0.5, 0.5, 1.5]
    """
    half = min(spacing_mm) / 2
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    return np.where(mask, half - inside, outside - half)


def border_profile(
    image: np.ndarray,
    mask: np.ndarray,
    spacing_mm: Sequence[float],
    edges_mm: Sequence[float] = EDGES_MM,
) -> np.ndarray:
    """Return the median intensity in rings round the border of a lesion.

    Region: all voxels given, so a crop that reaches 6 mm beyond the lesion, of one lesion only.

    Args:
        image: ``(H, W, D)``, in the scan's units.
        mask: True inside.
        spacing_mm: of a voxel.
        edges_mm: of the rings, ascending, below 0 inside.

    Returns:
        One value per ring, NaN where a ring has fewer than 4 voxels; all NaN of an empty mask.

    Example:
        >>> image = np.zeros((1, 1, 24)); image[..., 8:16] = 100
        >>> border_profile(image, image > 0, (1, 1, 0.25), (-1, 0, 1)).tolist()
        [100.0, 0.0]
    """
    rings = len(edges_mm) - 1
    if not mask.any():
        return np.full(rings, np.nan)
    depth = signed_depth(mask, spacing_mm)
    number = np.digitize(depth, edges_mm) - 1
    found = np.full(rings, np.nan)
    for ring in range(rings):
        values = image[number == ring]
        if len(values) >= SMALLEST:
            found[ring] = np.median(values)
    return found


def noise_level(image: np.ndarray, region: np.ndarray) -> float:
    """Return the standard deviation of the noise in a region, NaN where it is too small.

    The median absolute difference of neighbours along the two finest axes of the array, which an
    even slope does not change, as that of two independent normal values: divided by 0.9539
    (sqrt(2) * 0.6745).

    Example:
        >>> slope = np.arange(40.0)[:, None, None]
        >>> grain = np.random.default_rng(0).normal(0, 20, (40, 40, 4)) + slope
        >>> 19 < noise_level(grain, np.ones(grain.shape, bool)) < 21
        True
    """
    pairs = []
    for axis in (0, 1):
        both = np.logical_and(
            region.take(range(1, region.shape[axis]), axis),
            region.take(range(region.shape[axis] - 1), axis),
        )
        pairs.append(np.diff(image.astype(float), axis=axis)[both])
    steps = np.concatenate(pairs)
    if len(steps) < SMALLEST:
        return float("nan")
    return float(np.median(np.abs(steps - np.median(steps))) / 0.9539)


def border_features(
    image: np.ndarray, mask: np.ndarray, spacing_mm: Sequence[float]
) -> dict[str, float]:
    """Return what tells how a lesion meets its surroundings.

    ``rim``: median of the outermost mm inside; ``halo``: of the first mm outside; ``core``: of what
    lies 2 mm deep or deeper, else the deepest ring; ``around``: 3 to 6 mm outside. ``step``: rim
    minus halo. ``edge_mm``: distance in which the profile rises from 10 to 90 % of the way from
    around to core. ``bright_share``: of the label above half of that way (below, of a dark
    lesion). ``noise_inside``, ``noise_around``: see :func:`noise_level`; ``noise_ratio``.

    Region and units: as :func:`border_profile`. What cannot be measured is NaN.
    """
    if not mask.any():
        return dict.fromkeys(BorderFeatures.names, float("nan"))
    profile = border_profile(image, mask, spacing_mm)
    middles = np.add(EDGES_MM[:-1], EDGES_MM[1:]) / 2
    depth = signed_depth(mask, spacing_mm)
    deep = profile[middles < -2]
    known = deep[~np.isnan(deep)]
    inner = profile[middles < 0]
    inner = inner[~np.isnan(inner)]
    core = float(np.median(known)) if len(known) else float(inner[0]) if len(inner) else np.nan
    outer = profile[(middles > 3)]
    around = float(np.nanmedian(outer)) if (~np.isnan(outer)).any() else np.nan
    contrast = core - around
    half = (image[mask] - around) / contrast if contrast else np.full(1, np.nan)
    rim, halo = float(profile[5]), float(profile[6])
    noise = noise_level(image, depth < -1), noise_level(image, depth > 2)
    return {
        "core": core,
        "rim": rim,
        "halo": halo,
        "around": around,
        "step": rim - halo,
        "edge_mm": _edge_mm(profile, middles, core, around),
        "bright_share": float(np.mean(half > 0.5)) if np.isfinite(contrast) else np.nan,
        "noise_inside": noise[0],
        "noise_around": noise[1],
        "noise_ratio": noise[0] / noise[1] if noise[1] else np.nan,
    }


def _edge_mm(profile: np.ndarray, middles: np.ndarray, core: float, around: float) -> float:
    """Return the distance between 90 and 10 % of the way, along the outward profile."""
    known = ~np.isnan(profile)
    if known.sum() < 3 or not np.isfinite(core - around) or core == around:
        return np.nan
    way = (profile[known] - around) / (core - around)
    falling = np.minimum.accumulate(way)  # what rises again outside is another structure
    places = [np.interp(-level, -falling, middles[known]) for level in (0.9, 0.1)]
    return float(places[1] - places[0])


class BorderFeatures(CaseMetric):
    """The features of :func:`border_features` of images ``(B, 1, H, W, D)`` and their masks.

    Each case gives a row in the order of ``names``; NaN does not count.
    """

    names = (
        *("core", "rim", "halo", "around", "step", "edge_mm", "bright_share"),
        *("noise_inside", "noise_around", "noise_ratio"),
    )
    reduction = "mean"

    def __init__(self, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.spacing_mm = tuple(spacing_mm)

    def _measure(self, y_pred: Tensor, y: Tensor) -> Tensor:
        rows = []
        for image, mask in zip(y_pred.cpu().numpy()[:, 0], y.cpu().numpy()[:, 0] > 0, strict=True):
            found = border_features(image, mask, self.spacing_mm)
            rows.append([found[name] for name in self.names])
        return torch.tensor(rows)
