"""A lesion taken out of its scan, so that another can be put into tissue that looks healthy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from nibabel.affines import voxel_sizes
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg

from tools.metrics.border import noise_level
from tools.transforms.wall import WallCoordinates, wall_coordinates

__all__ = ["REACH_MM", "heal", "heal_wall", "remote_wall"]

REACH_MM = 6.0
DEPTHS = 5  # parts of a wall from its inner to its outer surface


def heal(
    image: np.ndarray,
    mask: np.ndarray,
    spacing_mm: Sequence[float],
    rng: np.random.Generator,
    margin_mm: float = 2.5,
    within: np.ndarray | None = None,
    expected: np.ndarray | None = None,
) -> np.ndarray:
    """Return the image with a lesion and the rim round it replaced by what lies around.

    The hole is filled by the harmonic function of its border (no bump inside, nothing brighter or
    darker than the border), and by normal noise as strong as that of the 6 mm around, as wide as
    half a voxel. What it cannot do: vessels do not run on through the hole, which a classifier of
    borders can see; ``compare`` measures that trace with the real lesions put back.

    In a wall the hole ends at the surfaces, and what lies beyond them counts for nothing: the
    border that is continued is that to the rest of the wall. With an expected image, such as that
    of :func:`remote_wall`, what differs from it at the border is continued, and added to it.

    Args:
        image: ``(H, W, D)``, in the scan's units.
        mask: True in the lesion.
        spacing_mm: of a voxel; near neighbours count more than far ones.
        rng: source of the noise.
        margin_mm: of the rim.
        within: True where tissue of the lesion's organ is; None: everywhere.
        expected: what the image would show, but for slow changes; None: nothing.

    Returns:
        Float32; beyond mask and rim, and outside of ``within``, as it was, bit for bit. An empty
        mask changes nothing.

    Raises:
        ValueError: if nothing is left round mask and rim that could be continued.

    Example:
        >>> image = np.full((20, 20, 20), -850.0); image[8:12, 8:12, 8:12] = 40
        >>> healed = heal(image, image > 0, (1, 1, 1), np.random.default_rng(0))
        >>> round(float(healed.max()))
        -850
    """
    result = np.asarray(image, np.float32).copy()
    if not mask.any():
        return result
    inside = np.ones(mask.shape, bool) if within is None else within
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    hole = (outside <= margin_mm) & inside
    ring = (outside > margin_mm) & (outside <= margin_mm + REACH_MM) & inside
    if not ring.any():
        raise ValueError("image must reach beyond lesion and margin_mm, got none of it")
    base = np.zeros_like(result) if expected is None else np.asarray(expected, np.float32)
    rest = result - base
    strength = noise_level(rest, ring)
    result[hole] = base[hole] + _harmonic(rest, hole, inside, spacing_mm)
    if np.isfinite(strength) and strength > 0:
        width = 0.5 * min(spacing_mm) / np.asarray(spacing_mm)  # thick slices are independent
        grain = ndimage.gaussian_filter(rng.normal(size=image.shape), width)
        result[hole] += (grain * strength / grain.std()).astype(np.float32)[hole]
    return result


def heal_wall(
    image: np.ndarray,
    mask: np.ndarray,
    wall: np.ndarray,
    cavity: np.ndarray,
    affine: np.ndarray,
    rng: np.random.Generator,
    margin_mm: float = 2.5,
) -> np.ndarray:
    """Return the image with a lesion of a wall replaced by the wall as it is elsewhere.

    See :func:`heal`, within the wall, and :func:`remote_wall`. If lesion and rim leave nothing of
    the wall, what lies around it is continued. An empty mask changes nothing.

    Args:
        image: ``(H, W, D)``, in the scan's units, slices along the last axis.
        mask: True in the lesion.
        wall: True in the wall, lesion included.
        cavity: True in what the wall encloses.
        affine: of the image.
        rng: source of the noise.
        margin_mm: of the rim.
    """
    if not mask.any():
        return np.asarray(image, np.float32).copy()
    spacing = voxel_sizes(affine)
    far = ndimage.distance_transform_edt(~mask, sampling=spacing) > margin_mm
    if not (wall & far).any():
        return heal(image, mask, spacing, rng, margin_mm)
    expected = remote_wall(image, wall & far, wall_coordinates(wall, affine, cavity))
    return heal(image, mask, spacing, rng, margin_mm, wall, expected)


def remote_wall(image: np.ndarray, healthy: np.ndarray, place: WallCoordinates) -> np.ndarray:
    """Return the image with the wall as it looks far from the lesion, by depth.

    At each depth between the surfaces the wall gets the median of its healthy part there, which
    holds what the blood and the fat beyond the surfaces add to thin walls.

    Args:
        image: ``(H, W, D)``, in the scan's units.
        healthy: True in the part of the wall that is free of lesions and their rim.
        place: coordinates of the whole wall.

    Raises:
        ValueError: if none of the wall is healthy.
    """
    index = tuple(place.voxels.T)
    chosen = healthy[index]
    if not chosen.any():
        raise ValueError("image must show a part of the wall without lesions, got none")
    values, part = image[index], np.minimum((place.depth * DEPTHS).astype(int), DEPTHS - 1)
    known = [k for k in range(DEPTHS) if (chosen & (part == k)).any()]
    medians = [float(np.median(values[chosen & (part == k)])) for k in known]
    result = np.asarray(image, np.float32).copy()
    result[index] = np.interp(place.depth, (np.array(known) + 0.5) / DEPTHS, medians)
    return result


def _harmonic(
    image: np.ndarray, hole: np.ndarray, within: np.ndarray, spacing_mm: Sequence[float]
) -> np.ndarray:
    """Return the values in a hole of which each is the mean of its neighbours that count."""
    number = np.full(hole.shape, -1)
    count = int(hole.sum())
    number[hole] = np.arange(count)
    voxels = np.argwhere(hole)
    rows, columns, weights = [], [], []
    known, degree, seen = np.zeros(count), np.zeros(count), np.zeros(count)
    for axis, step in product(range(3), (-1, 1)):
        weight = (min(spacing_mm) / spacing_mm[axis]) ** 2
        near = voxels.copy()
        near[:, axis] += step
        there = (near[:, axis] >= 0) & (near[:, axis] < hole.shape[axis])
        there[there] = within[tuple(near[there].T)]
        degree += weight * there
        index = tuple(near[there].T)
        inner = number[index] >= 0
        own = np.flatnonzero(there)
        rows.append(own[inner])
        columns.append(number[index][inner])
        weights.append(np.full(int(inner.sum()), weight))
        np.add.at(known, own[~inner], weight * image[index][~inner])
        np.add.at(seen, own[~inner], weight)
    pairs = (np.concatenate(rows), np.concatenate(columns))
    near = sparse.coo_matrix((np.concatenate(weights), pairs), (count, count))
    # a piece without any neighbour that is known keeps this
    start = np.full(count, known.sum() / seen.sum() if seen.any() else 0.0)
    laplacian = (sparse.diags(degree) - near).tocsr()
    return cg(laplacian, known, x0=start, rtol=1e-5)[0].astype(np.float32)
