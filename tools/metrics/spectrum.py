"""The power spectrum of the noise in a region of any form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from tools.metrics.border import signed_depth

__all__ = ["BANDS", "noise_spectrum", "spectrum_ratio"]

# of the highest frequency that the voxels can hold; below, what is taken away as smooth decides
BANDS = (0.25, 0.5, 0.75, 1.0)
LAGS = 5  # voxels
SMALLEST = 150  # voxels that a spectrum is of
HIGH_PASS = 2.0  # voxels


def noise_spectrum(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    r"""Return the power of what varies within a region, by radial frequency in the plane.

    What is smooth is taken away first: the plane through the region's voxels near each (least
    squares with normal weights of 2 voxels), so that a slope up to the border is no noise. The
    autocovariance over pairs of voxels of the region, lags up to 5 voxels along the first two axes
    and summed over the third, tapered (Hann), is transformed and averaged over rings of frequency
    (Wiener and Khinchin). Pairs, not squares: a lesion needs to hold no square.

    Args:
        image: ``(H, W, D)``.
        region: True where it counts.

    Returns:
        One value per band of :data:`BANDS`, in squared units of the image; NaN with fewer than 150
        voxels.

    Example:
        >>> grain = np.random.default_rng(0).normal(0, 20, (40, 40, 10))
        >>> power = noise_spectrum(grain, np.ones(grain.shape, bool))
        >>> bool((abs(power[1:] / 400 - 1) < 0.1).all())  # white, its variance at each frequency
        True
    """
    if region.sum() < SMALLEST:
        return np.full(len(BANDS) - 1, np.nan)
    products, pairs = (_lagged(x) for x in (_rough(image, region), region.astype(float)))
    covariance = np.where(pairs > 0.5, products / np.maximum(pairs, 0.5), 0.0)
    taper = np.hanning(2 * LAGS + 3)[1:-1]
    power = np.fft.fft2(np.fft.ifftshift(covariance * taper[:, None] * taper)).real
    frequency = np.abs(np.fft.fftfreq(2 * LAGS + 1)) * 2
    radius = np.hypot(frequency[:, None], frequency)
    band = np.digitize(radius, BANDS) - 1
    return np.array([power[band == k].mean() for k in range(len(BANDS) - 1)])


def _rough(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return a region less the planes fitted round each of its voxels; 0 outside."""
    places = (np.indices(image.shape[:2], dtype=float) / HIGH_PASS)[..., None]
    terms = [np.ones((*image.shape[:2], 1)), *(x - x.mean() for x in places)]
    values = np.where(region, image - image[region].mean(), 0.0)

    def near(x: np.ndarray) -> np.ndarray:
        sigma = (HIGH_PASS, HIGH_PASS, 0)
        return ndimage.gaussian_filter(np.where(region, x, 0.0), sigma, mode="constant")[region]

    products = np.stack([np.stack([near(a * b) for b in terms], 1) for a in terms], 1)
    sums = np.stack([near(a * values) for a in terms], 1)
    planes = np.linalg.solve(products + 1e-9 * np.eye(3), sums[..., None])[..., 0]
    rows = np.stack([np.broadcast_to(a, image.shape)[region] for a in terms], 1)
    rough = np.zeros(image.shape)
    rough[region] = values[region] - (planes * rows).sum(1)
    return rough


def _lagged(x: np.ndarray) -> np.ndarray:
    """Return the sums of products of voxels, by their lag in the plane, ``(11, 11)``."""
    size = [n + LAGS for n in x.shape[:2]]
    power = np.abs(np.fft.rfft2(x, s=size, axes=(0, 1))) ** 2
    sums = np.fft.irfft2(power, s=size, axes=(0, 1)).sum(2)
    lags = np.arange(-LAGS, LAGS + 1)
    return np.asarray(sums[np.ix_(lags, lags)])


def spectrum_ratio(image: np.ndarray, mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the noise power inside a lesion over that around it, by frequency.

    Inside is 1 mm deep or deeper, around from 2 mm on, as of :func:`border_features`. One value per
    band of :data:`BANDS`; NaN where either is too small or holds no noise, all of an empty mask.
    Planes take more of the lowest band from a small region: compare with real lesions of like size.
    """
    if not mask.any():
        return np.full(len(BANDS) - 1, np.nan)
    depth = signed_depth(mask, spacing_mm)
    inside, around = (noise_spectrum(image, region) for region in (depth < -1, depth > 2))
    known = (inside > 0) & (around > 0)
    return np.where(known, inside / np.where(known, around, 1.0), np.nan)
