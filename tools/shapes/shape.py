"""The shape of one lesion: a distance field that gives its mask on any grid, or a label map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from tools.transforms.spheres import enclosing_sphere, signed_distance
from tools.windows import Box, WindowGrid, cut_window

MARGIN_MM = 4.0  # of the window round the lesion
MAX_SHIFT = 0.25  # in radii: how far a clipped shape may swell to keep its volume
Point = tuple[float, float, float]


def as_point(values: Iterable[Any]) -> Point:
    """Return three plain floats."""
    x, y, z = (float(value) for value in values)
    return x, y, z


class Place(NamedTuple):
    """Where a shape will lie; masks are on the scan's grid, ``affine`` leads from it to RAS mm.

    ``inner_share`` is the smallest and the largest share of the lesion that is of the innermost
    class; None: as the source has it.
    """

    point_mm: Point | None  # RAS; None, in a wall: anywhere in it
    affine: np.ndarray
    organ_mask: Any  # where lesions may lie; None: everywhere
    cavity: Any = None  # that a wall goes round
    values: tuple[int, ...] = (1,)  # of each lesion class, outermost first
    inner_share: tuple[float, float] | None = None


@dataclass(frozen=True)
class Shape:
    """One lesion shape on a cube window of 1 mm voxels, axes along RAS.

    Its mask has the volume of a sphere of ``diameter_mm``. It is not ``connected`` if the source
    mask is in several pieces that all have to stay. The ``original`` mask of a user, with its
    affine and its centroid in RAS mm, is returned as it is on its own grid and place.
    """

    sdf: np.ndarray  # mm to the surface, positive inside, float32, shape (n, n, n)
    centre: Point  # window index (continuous) of the centroid, which goes to the site
    source: str  # for the record
    diameter_mm: float
    connected: bool = True
    original: tuple[np.ndarray, np.ndarray, Point] | None = None

    @property
    def volume_mm3(self) -> float:
        """Wanted volume in cubic millimetres."""
        return float(np.pi / 6 * self.diameter_mm**3)

    @property
    def mask(self) -> np.ndarray:
        """Mask on the window of the shape: bool, 1 mm voxels, same shape as ``sdf``."""
        mask = np.zeros(self.sdf.shape, bool)
        (local,), slices = self.masks(np.eye(4), self.sdf.shape, self.centre)
        mask[slices] = local
        return mask

    def masks(
        self,
        affine: np.ndarray,
        shape: tuple[int, ...],
        point_mm: Point,
        within: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Box]:
        """Return the mask of the lesion at a site, ``(1, i, j, k)``, and its box on a scan's grid.

        The distance field is read at the voxel centres round the site (RAS mm, where the centroid
        goes). The level is the one that gives ``round(volume / voxel volume)`` voxels, at least
        one, so the volume is as wanted on every grid, rotated or anisotropic. What leaves the scan
        is cut off. What is clipped by ``within`` (True where the lesion may grow) is made up by
        swelling of up to a quarter of the radius.

        Raises:
            ValueError: if ``point_mm`` lies outside the scan or ``within`` has another shape.

        Example:
            >>> cube = shape_from_mask(np.ones((9, 9, 9)), np.eye(4), "cube", 10.0)
            >>> mask, box = cube.masks(np.diag([0.7, 0.7, 2.5, 1]), (64, 64, 20), (20, 20, 25))
            >>> abs(float(mask.sum() * 0.7 * 0.7 * 2.5 / cube.volume_mm3) - 1) < 0.03
            True
        """
        inverse = np.linalg.inv(affine)
        centre = apply_affine(inverse, point_mm)
        if (centre < -0.5).any() or (centre > np.array(shape) - 0.5).any():
            raise ValueError(f"point_mm must lie inside the scan, got {tuple(point_mm)}")
        if within is not None and within.shape != tuple(shape):
            raise ValueError(f"within must have the shape of the scan {shape}, got {within.shape}")
        original = self._original(affine, shape, point_mm)
        if within is None and original is not None:
            box = ndimage.find_objects(original.astype(np.uint8))[0]
            return original[box][None].copy(), box

        low, high = self._reach(inverse, centre)
        values = self._read(affine, low, high, point_mm)
        slices, inner = _clip(low, high, shape)
        if within is not None:
            allowed = np.zeros(values.shape, bool)
            allowed[inner] = within[slices]
            allowed &= values > -MAX_SHIFT * self.diameter_mm / 2
            values = np.where(allowed, values, -np.inf)
        count = self.volume_mm3 / abs(float(np.linalg.det(np.asarray(affine)[:3, :3])))
        mask = _largest_values(values, max(1, round(count)), self.connected)[inner]
        if not mask.any():
            nearest = np.clip(np.rint(centre).astype(int), 0, np.array(shape) - 1)
            mask[tuple(nearest - np.array([s.start for s in slices]))] = True
        return mask[None], slices

    def _original(
        self, affine: np.ndarray, shape: tuple[int, ...], point_mm: Point
    ) -> np.ndarray | None:
        """Return the user's mask if this is its own grid and place."""
        if self.original is None:
            return None
        mask, own_affine, own_mm = self.original
        same_grid = mask.shape == tuple(shape) and np.allclose(affine, own_affine, atol=1e-3)
        return mask if same_grid and np.allclose(point_mm, own_mm, atol=1e-2) else None

    def _reach(self, inverse: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return first and last + 1 voxel of the box that holds the window, not yet clipped."""
        ends = np.array([-np.array(self.centre), np.array(self.sdf.shape) - 1 - self.centre])
        corners = np.array(np.meshgrid(*ends.T)).reshape(3, -1)
        reach = inverse[:3, :3] @ corners + centre[:, None]
        nearest = np.rint(centre).astype(int)
        low = np.minimum(np.floor(reach.min(axis=1)).astype(int), nearest)
        high = np.maximum(np.ceil(reach.max(axis=1)).astype(int), nearest) + 1
        return low, high

    def _read(
        self, affine: np.ndarray, low: np.ndarray, high: np.ndarray, point_mm: Point
    ) -> np.ndarray:
        """Read the distance field at the voxels low <= index < high of a grid."""
        return ndimage.affine_transform(
            self.sdf,
            np.asarray(affine, float)[:3, :3],
            offset=apply_affine(affine, low) - np.array(point_mm) + self.centre,
            output_shape=tuple(int(n) for n in high - low),
            order=1,
            cval=float(self.sdf.min()) - 1.0,
        )


class LabelShape(NamedTuple):
    """One lesion of several classes as a label map on the grid of its scan; never empty."""

    label: np.ndarray
    affine: np.ndarray
    values: tuple[int, ...]  # of the classes, outermost first
    source: str  # for the record
    diameter_mm: float  # of the smallest sphere round it
    asked_mm: float | None = None  # None where the source decides

    @classmethod
    def measure(
        cls, label: np.ndarray, place: Place, source: str, asked_mm: float | None = None
    ) -> LabelShape:
        """Return a lesion in a place, on its scan's grid, with its size; it must not be empty."""
        diameter = float(2 * enclosing_sphere(label, place.affine).radius_mm)
        return cls(label.astype(np.uint8), place.affine, place.values, source, diameter, asked_mm)

    def masks(self, affine: np.ndarray, shape: tuple[int, ...], *_: Any) -> tuple[np.ndarray, Box]:
        """Return one mask per class, ``(K, i, j, k)``, and their box: the whole grid.

        The grid is its own or that of a window; it lies where it was drawn, whatever the site.
        """
        label = self.label
        if label.shape != tuple(shape) or not np.array_equal(affine, self.affine):
            grid = WindowGrid(affine, tuple(shape))  # type: ignore[arg-type]
            label = cut_window(label, self.affine, grid, order=0, beyond=0.0)
        i, j, k = (slice(0, n) for n in shape)
        return np.stack([label == value for value in self.values]), (i, j, k)


def check_diameter(diameter_mm: float) -> None:
    """Refuse what is no size with a ValueError."""
    if not (np.isfinite(diameter_mm) and diameter_mm > 0):
        raise ValueError(f"diameter_mm must be > 0, got {diameter_mm}")


def shape_from_mask(
    mask: np.ndarray,
    affine: np.ndarray,
    source: str,
    diameter_mm: float | None = None,
    turn: np.ndarray | None = None,
) -> Shape:
    """Turn a mask on any grid into a :class:`Shape` of the wanted size.

    The signed distance is smoothed by half a voxel, which takes the steps of the grid out of it,
    and scaled about the centroid: ``s * sdf(x / s)`` with ``s`` from the ratio of volumes.
    ``diameter_mm`` is that of the sphere with the wanted volume; None keeps the size. ``turn`` is a
    rotation or reflection in RAS, shape (3, 3).

    Raises:
        ValueError: if ``mask`` is empty or ``diameter_mm`` is not positive.
    """
    mask = np.asarray(mask) > 0
    if not mask.any():
        raise ValueError(f"mask must mark at least one voxel, got an empty mask from {source}")
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    mask = np.pad(mask[box], 3)
    spacing = voxel_sizes(affine)
    own_mm = float(2 * (3 * mask.sum() * spacing.prod() / (4 * np.pi)) ** (1 / 3))
    wanted = own_mm if diameter_mm is None else float(diameter_mm)
    check_diameter(wanted)
    field = signed_distance(mask, spacing)

    # target offset x (mm, RAS) -> source index: A^-1 R^T x / s + centroid
    scale = wanted / own_mm
    turn = np.eye(3) if turn is None else turn
    centroid = np.array(ndimage.center_of_mass(mask))
    linear = np.linalg.inv(np.asarray(affine, float)[:3, :3]) @ turn.T / scale
    points = np.linalg.inv(linear) @ (np.argwhere(mask) - centroid).T
    side = 2 * (np.abs(points).max() + scale * spacing.max() / 2 + MARGIN_MM)
    size = max(32, int(8 * np.ceil(side / 8)))
    middle = (size - 1) / 2
    inner = ndimage.affine_transform(
        field, linear, centroid - linear @ np.full(3, middle), (size,) * 3, order=1, mode="nearest"
    )
    # Beyond the padded source the field goes on falling with the distance to its border.
    grid = np.stack(np.meshgrid(*[np.arange(size) - middle] * 3, indexing="ij"), axis=-1)
    index = grid @ linear.T + centroid
    beyond = index - np.clip(index, 0, np.array(mask.shape) - 1)
    sdf = scale * (inner - np.linalg.norm(beyond * spacing, axis=-1))
    connected = ndimage.label(mask, np.ones((3, 3, 3)))[1] == 1
    return Shape(sdf.astype(np.float32), (middle,) * 3, source, wanted, connected)


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """Return the largest part of a mask whose voxels share faces."""
    labels, count = ndimage.label(mask)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]) if count else labels > 0


def _clip(low: np.ndarray, high: np.ndarray, shape: Sequence[int]) -> tuple[Box, Box]:
    """Return the part of a box inside the scan: slices of the scan and of the box."""
    start, stop = np.maximum(low, 0), np.minimum(high, shape)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    u, v, w = (slice(int(a), int(b)) for a, b in zip(start - low, stop - low, strict=True))
    return (i, j, k), (u, v, w)


def _largest_values(values: np.ndarray, count: int, connected: bool) -> np.ndarray:
    """Mark the ``count`` largest values, in one piece if asked for.

    A level that leaves several pieces is lowered until the piece round the maximum is large
    enough; the pieces are dropped.
    """
    flat = values.ravel()
    order = np.argsort(-flat, kind="stable")[:count]
    order = order[np.isfinite(flat[order])]
    mask = np.zeros(values.shape, bool)
    mask.ravel()[order] = True
    joined = np.ones((3, 3, 3))
    if not connected or ndimage.label(mask, joined)[1] <= 1:
        return mask
    ranked = np.sort(flat[np.isfinite(flat)])[::-1]
    low, high = count, min(2 * count, len(ranked))
    best = mask
    while low <= high:  # pieces only grow as the level falls
        middle = (low + high) // 2
        labels, _ = ndimage.label(values >= ranked[middle - 1], joined)
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        piece = labels == sizes.argmax()
        if abs(int(piece.sum()) - count) <= abs(int(best.sum()) - count) or best is mask:
            best = piece
        if piece.sum() >= count:
            high = middle - 1
        else:
            low = middle + 1
    return best
