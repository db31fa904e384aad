"""A lesion taken out of its scan, so that another can be put into tissue that looks healthy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg

from tools.metrics.border import noise_level

__all__ = ["heal"]

REACH_MM = 6.0


def heal(
    image: np.ndarray,
    mask: np.ndarray,
    spacing_mm: Sequence[float],
    rng: np.random.Generator,
    margin_mm: float = 2.5,
) -> np.ndarray:
    """Return the image with a lesion and the rim round it replaced by what lies around.

    The hole is filled by the harmonic function of its border (no bump inside, nothing brighter or
    darker than the border), and by normal noise as strong as that of the 6 mm around, as wide as
    half a voxel. What it cannot do: vessels do not run on through the hole, which a classifier of
    borders can see; ``compare`` measures that trace with the real lesions put back.

    Args:
        image: ``(H, W, D)``, in the scan's units.
        mask: True in the lesion.
        spacing_mm: of a voxel.
        rng: source of the noise.
        margin_mm: of the rim.

    Returns:
        Float32; beyond mask and rim as it was, bit for bit. An empty mask changes nothing.

    Example:
        >>> image = np.full((20, 20, 20), -850.0); image[8:12, 8:12, 8:12] = 40
        >>> healed = heal(image, image > 0, (1, 1, 1), np.random.default_rng(0))
        >>> round(float(healed.max()))
        -850
    """
    result = np.asarray(image, np.float32).copy()
    if not mask.any():
        return result
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    hole = outside <= margin_mm
    ring = (outside > margin_mm) & (outside <= margin_mm + REACH_MM)
    if not ring.any():
        raise ValueError("image must reach beyond lesion and margin_mm, got none of it")
    result[hole] = _harmonic(result, hole)
    strength = noise_level(image, ring)
    if np.isfinite(strength) and strength > 0:
        grain = ndimage.gaussian_filter(rng.normal(size=image.shape), 0.5)
        result[hole] += (grain * strength / grain.std()).astype(np.float32)[hole]
    return result


def _harmonic(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return the values in a hole of which each is the mean of its neighbours."""
    number = np.full(hole.shape, -1)
    count = int(hole.sum())
    number[hole] = np.arange(count)
    voxels = np.argwhere(hole)
    rows, columns = [], []
    known, degree = np.zeros(count), np.zeros(count)
    for axis in range(3):
        for step in (-1, 1):
            near = voxels.copy()
            near[:, axis] += step
            there = (near[:, axis] >= 0) & (near[:, axis] < hole.shape[axis])
            degree += there
            index = tuple(near[there].T)
            inner = number[index] >= 0
            own = np.flatnonzero(there)
            rows.append(own[inner])
            columns.append(number[index][inner])
            np.add.at(known, own[~inner], image[index][~inner])
    pairs = (np.concatenate(rows), np.concatenate(columns))
    near = sparse.coo_matrix((np.ones(len(pairs[0])), pairs), (count, count))
    start = np.full(count, float(np.median(known[known != 0])) if known.any() else 0.0)
    laplacian = (sparse.diags(degree) - near).tocsr()
    return cg(laplacian, known, x0=start, rtol=1e-5)[0].astype(np.float32)
