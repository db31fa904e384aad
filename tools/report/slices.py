"""Slices of a scan for the report: oriented reading, planes in mm, pictures as data URIs."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from nibabel.spatialimages import SpatialImage
from PIL import Image
from scipy.ndimage import center_of_mass, label, map_coordinates, maximum_filter
from scipy.spatial import cKDTree
from skimage.measure import find_contours

from tools.scans.changed import Changed
from tools.scans.reader import open_image, read_values, scaling

# Both ends are light and the middle is dark: on a dark page "no change" then vanishes.
DIFFERENCE_COLOURS = ("#a9e4ff", "#3d9be9", "#05070a", "#ef7d3c", "#ffe0a3")


@dataclass(frozen=True)
class Plane:
    """A display plane of an RAS+ volume: axis cut, axes right and down, letters at the edges."""

    name: str
    axis: int
    across: int
    down: int
    left: str
    right: str
    top: str
    bottom: str


# Radiological convention. Left and top edge are the high ends of their axes in all three planes.
AXIAL = Plane("axial", 2, 0, 1, "R", "L", "A", "P")
CORONAL = Plane("coronal", 1, 0, 2, "R", "L", "S", "I")
SAGITTAL = Plane("sagittal", 0, 1, 2, "A", "P", "S", "I")
PLANES = (AXIAL, CORONAL, SAGITTAL)
PNG_LEVEL = 4  # 9 takes three times as long for 1 % less
THUMBNAIL = 112  # pixels
THICK = 3.0  # a voxel this many times as long as wide makes other planes unreadable


class OrientedVolume:
    """Read a scan in closest-canonical (RAS+) axis order, box by box.

    Uncompressed files stay on disk; compressed ones are unpacked once, in their stored type, unless
    their stored ``values`` are at hand.
    """

    def __init__(self, source: Any, values: Any = None) -> None:  # a path, or an image in memory
        in_memory = isinstance(source, SpatialImage)
        image = source if in_memory else open_image(source, "image")
        if len(image.shape) < 3 or math.prod(image.shape[3:]) != 1:
            raise ValueError(f"image must be three-dimensional, got shape {tuple(image.shape)}")
        if values is None:
            values = read_values(image, None if in_memory else source, "image")
        self._slope, self._inter = scaling(image)
        orientation = nib.io_orientation(image.affine)
        # views, no copy
        self._stored = (
            values.oriented(orientation)
            if isinstance(values, Changed)
            else nib.apply_orientation(values, orientation)
        )
        self.affine = image.affine @ nib.orientations.inv_ornt_aff(orientation, values.shape)
        self.shape: tuple[int, ...] = self._stored.shape
        self.spacing_mm: np.ndarray = nib.affines.voxel_sizes(self.affine)

    def box(self, slices: tuple[slice | int, ...]) -> np.ndarray:
        """Return the scaled values (float32) of a box; integers drop their axis."""
        values = np.asarray(self._stored[slices], dtype=np.float32)
        return values * np.float32(self._slope) + np.float32(self._inter)

    def index_of(self, point_mm: Sequence[float]) -> np.ndarray:
        """Return the fractional array index (3,) of an RAS point in mm."""
        return apply_affine(np.linalg.inv(self.affine), np.asarray(point_mm, dtype=float))

    def percentiles(self, low: float, high: float) -> tuple[float, float]:
        """Return two percentiles of a subsample of the values, the second above the first."""
        step = tuple(slice(None, None, max(1, size // 64)) for size in self.shape)
        bottom, top = np.percentile(self.box(step), (low, high))
        return float(bottom), float(max(top, bottom + 1e-6))

    def sample(
        self,
        plane: Plane,
        centre: np.ndarray,
        extent_mm: tuple[float, float],
        size: tuple[int, int],
        order: int = 1,
        fill: float = 0.0,
        value: int | None = None,
    ) -> np.ndarray:
        """Return one voxel slice, interpolated within itself on square pixels: (rows, columns).

        It is that nearest to ``centre``, the array index at the middle of the picture, whose width
        and height are ``extent_mm`` and whose columns and rows ``size``; ``fill`` is the value
        outside the volume. A spline ``order`` above 1 gives a sharp lesion edge a halo that is not
        in the scan. With ``value`` the mask of this label (0 to 1) is sampled instead.
        """
        level = int(np.clip(round(float(centre[plane.axis])), 0, self.shape[plane.axis] - 1))
        index: list[slice | int] = [level, level, level]
        grids, inside = [], []
        for axis, mm, count in zip((plane.across, plane.down), extent_mm, size, strict=True):
            offsets = ((np.arange(count) + 0.5) / count - 0.5) * mm
            grid = centre[axis] - offsets / self.spacing_mm[axis]
            inside.append((grid >= -0.5) & (grid <= self.shape[axis] - 0.5))
            # A margin of voxels lets the interpolation see beyond the frame.
            low = int(np.clip(np.floor(grid.min()) - 2, 0, self.shape[axis] - 1))
            high = int(np.clip(np.ceil(grid.max()) + 3, low + 1, self.shape[axis]))
            index[axis] = slice(low, high)
            grids.append(grid - low)
        values = self.box(tuple(index))
        if value is not None:
            values = (values == value).astype(np.float32)
        picture = map_coordinates(values, np.meshgrid(*grids), order=order, mode="nearest")
        picture[~(inside[1][:, None] & inside[0][None, :])] = fill
        return picture


def lesion_focus(
    labels: OrientedVolume, value: int, point_mm: Sequence[float], reach_mm: float
) -> np.ndarray:
    """Return the array index (3,) at which the three planes show a lesion best.

    That is the largest cross-section, along each axis, of the component nearest to the point (its
    recorded centre, RAS mm) in a cube of half width ``reach_mm``; the point itself where there is
    no voxel of this label value.
    """
    point = labels.index_of(point_mm)
    reach = reach_mm / labels.spacing_mm
    low = np.clip(np.floor(point - reach), 0, np.array(labels.shape) - 1).astype(int)
    high = np.clip(np.ceil(point + reach) + 1, low + 1, labels.shape).astype(int)
    marked = labels.box(tuple(map(slice, low, high))) == value
    if not marked.any():
        return point
    part = _nearest_part(marked, (point - low) * labels.spacing_mm, labels.spacing_mm)
    centre = np.array(center_of_mass(part))
    for axis in range(3):
        area = part.sum(axis=tuple(other for other in range(3) if other != axis))
        largest = np.flatnonzero(area == area.max())
        centre[axis] = largest[np.argmin(np.abs(largest - centre[axis]))]
    return centre + low


def _nearest_part(marked: np.ndarray, point_mm: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Return the connected part of a mask nearest to a point, in mm from its first voxel."""
    parts, _ = label(marked, np.ones((3, 3, 3)))
    voxels = np.argwhere(parts)
    if not len(voxels):
        return marked
    nearest = voxels[np.argmin(((voxels * spacing_mm - point_mm) ** 2).sum(axis=1))]
    return parts == parts[tuple(nearest)]


def lesion_views(
    labels: OrientedVolume, value: int, focus: np.ndarray, field_mm: float, shared: bool = False
) -> tuple[float, list[tuple[Plane, np.ndarray]]]:
    """Return the width of the pictures of a lesion, and their planes, each with its middle.

    These are the three planes through the focus. In a scan of thick slices they are up to three of
    its slices, spread over the lesion and wide enough for all that is labelled; ``field_mm`` is the
    least width. Where the value is ``shared`` with other lesions, only the piece nearest to the
    focus belongs to this one.
    """
    spacing = labels.spacing_mm
    if spacing.max() < THICK * spacing.min():
        return field_mm, [(plane, focus) for plane in PLANES]
    plane = next(plane for plane in PLANES if plane.axis == int(spacing.argmax()))
    whole = labels.box((slice(None),) * 3)
    if shared:
        whole = np.where(_nearest_part(whole == value, focus * spacing, spacing), whole, 0)
    marked = np.argwhere(whole > 0)
    levels = {round(float(focus[plane.axis]))}
    if len(marked):
        sides = (np.ptp(marked, axis=0) + 1) * spacing
        field_mm = max(field_mm, float(np.ceil(1.5 * max(sides[plane.across], sides[plane.down]))))
        focus = (marked.min(0) + marked.max(0)) / 2
        held = np.argwhere(whole == value)[:, plane.axis]
        levels |= {int(n) for n in np.quantile(held, (0.1, 0.9), method="nearest")}
    views = []
    for level in sorted(levels):
        name = f"slice {level + 1} of {labels.shape[plane.axis]}"
        place = np.where(np.arange(3) == plane.axis, level, focus)
        views.append((replace(plane, name=name), place))
    return field_mm, views


def changed_outside(
    before: OrientedVolume,
    after: OrientedVolume,
    labels: OrientedVolume,
    margin_mm: float = 0.0,
    in_reach: Callable[[np.ndarray], np.ndarray] | None = None,
) -> int:
    """Return how many voxels differ between two scans where the label is 0; NaN equals NaN.

    Only voxels count whose middle lies ``margin_mm`` or more from that of the nearest labelled one,
    and of points ``(n, 3)`` in RAS mm only those that are not ``in_reach`` of anything.
    """
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for level in range(before.shape[2]):
        plane = (slice(None), slice(None), level)
        old, new = (volume.box(plane) for volume in (before, after))
        inside = labels.box(plane) != 0
        same = (old == new) | (np.isnan(old) & np.isnan(new))
        for voxels, there in zip(found, (~same & ~inside, inside), strict=True):
            flat = np.argwhere(there)
            voxels.append(np.column_stack([flat, np.full(len(flat), level)]))
    places, label_places = (apply_affine(before.affine, np.concatenate(part)) for part in found)
    if in_reach is not None:
        places = places[~in_reach(places)]
    if margin_mm == 0 or not len(places) or not len(label_places):
        return len(places)
    distance, _ = cKDTree(label_places).query(places)
    # rounding of a millimetre's millionth must not count a voxel that lies at the margin as nearer
    return int(np.count_nonzero(distance > margin_mm - 1e-6))


def to_grey(values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Return uint8 grey values: the window maps linearly to 0 to 255, NaN to 0."""
    low, high = window
    scaled = np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0.0, 1.0)
    return np.round(scaled * 255).astype(np.uint8)


def grey_uri(grey: np.ndarray) -> str:
    """Return a lossless PNG of uint8 grey values as a data URI."""
    return _uri(Image.fromarray(grey), "PNG", compress_level=PNG_LEVEL)


def photo_uri(grey: np.ndarray) -> str:
    """Return a JPEG of uint8 grey values as a data URI, for overviews only."""
    return _uri(Image.fromarray(grey), "JPEG", quality=84, optimize=True)


def smaller_uri(photo: str) -> str:
    """Return a small copy of a picture of :func:`photo_uri`, for an index of many."""
    image = Image.open(io.BytesIO(base64.b64decode(photo.partition(",")[2])))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return _uri(image, "JPEG", quality=80, optimize=True)


def patch_uri(before: np.ndarray, after: np.ndarray) -> str:
    """Return a PNG that, laid over ``before``, shows ``after``; transparent where they agree."""
    alpha = maximum_filter((before != after).astype(np.uint8) * 255, 3)
    pair = np.stack([np.where(alpha > 0, after, 0).astype(np.uint8), alpha], axis=-1)
    return _uri(Image.fromarray(pair), "PNG", compress_level=PNG_LEVEL)


def difference_uri(difference: np.ndarray, limit: float) -> str:
    """Return a palette PNG of differences, -``limit`` to ``limit``, in diverging colours."""
    scaled = (np.clip(np.nan_to_num(difference) / limit, -1, 1) + 1) * 127.5
    colours = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in DIFFERENCE_COLOURS])
    places = np.linspace(0, len(colours) - 1, 256)
    channels = [np.interp(places, range(len(colours)), channel) for channel in colours.T]
    palette = np.stack(channels, 1)
    image = Image.fromarray(np.round(scaled).astype(np.uint8))
    image.putpalette(np.round(palette).astype(np.uint8).tobytes())
    return _uri(image, "PNG", compress_level=PNG_LEVEL)


def outline_path(mask: np.ndarray) -> str:
    """Return the 0.5 contour of a mask (rows, columns) as SVG path data in pixels."""
    lines = find_contours(np.pad(mask, 1), 0.5)
    # Contours count from pixel centres and pad added one pixel; SVG counts from the edge.
    shifted = [line[::2, ::-1] - 0.5 for line in lines if len(line) > 3]
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) + "Z" for line in shifted)


def _uri(image: Image.Image, kind: str, **options: int | bool) -> str:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
