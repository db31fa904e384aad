"""Distance to the outline of a mask: what shapes are scaled by, and what shape models learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

__all__ = ["signed_distance"]


def signed_distance(
    mask: np.ndarray,
    spacing: np.ndarray | Sequence[float] = (1.0, 1.0, 1.0),
    blur: float | Sequence[float] = 0.5,
) -> np.ndarray:
    """Return the distance to the surface, positive inside, slightly blurred.

    Centres lie half a voxel from the faces; the blur takes the staircase of the grid away.

    Args:
        mask: True inside, 3-D; neither empty nor full.
        spacing: voxel size along the axes; the result has its unit.
        blur: standard deviation in voxels, one number or one per axis.

    Example:
        >>> mask = np.zeros((8, 5, 5), bool)
        >>> mask[:4] = True
        >>> signed_distance(mask, (2.0, 2.0, 2.0), blur=0.0)[:, 2, 2].tolist()
        [7.0, 5.0, 3.0, 1.0, -1.0, -3.0, -5.0, -7.0]
    """
    half = 0.5 * float(np.min(spacing))
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    signed = np.where(mask, inside - half, half - outside)
    return ndimage.gaussian_filter(signed, blur, mode="nearest")
