"""Lesions in the wall of a hollow organ: where they lie, moved from other walls, the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage
from scipy.spatial import KDTree
from tqdm import tqdm

from tools.files import entry_file, read_entries
from tools.organs.organ import Organ
from tools.scans.reader import bare_name
from tools.shapes.shape import LabelShape, Place, Point, as_point
from tools.shapes.sources import read_label
from tools.transforms.spheres import enclosing_sphere
from tools.transforms.wall import (
    WallCoordinates,
    middle_angle,
    surest,
    wall_coordinates,
    wall_points,
)

__all__ = ["MaskFileWallShape", "WallLesion", "WallLibrary", "move_lesion"]

SITE_TOLERANCE_MM = 20.0
BAND_MM = 5.0  # distances to an outline count up to here: about half the thickness of a wall
NEIGHBOURS = 4
# mm round a ventricle and through its wall: what one step in angle or depth weighs
WALL_MM = (180.0, 10.0)
MAX_ATTEMPTS = 5
GRID_TOLERANCE_MM = 1e-3


def coordinates(place: Place) -> WallCoordinates:
    """Return angle and depth of each voxel of the wall; where there is none, a ValueError."""
    return wall_coordinates(place.organ_mask, place.affine, place.cavity)


def size_range(diameter_mm: float | Sequence[float]) -> tuple[float, float]:
    """Return a size given as one number or two; a ValueError if it is neither."""
    numbers = np.ravel(np.asarray(diameter_mm, float)).tolist()
    if len(numbers) not in (1, 2) or not 0 < numbers[0] <= numbers[-1] < np.inf:
        raise ValueError(f"diameter_mm must be one number or two, 0 < low <= high, got {numbers}")
    return numbers[0], numbers[-1]


def site_in_wall(place: Place, wall: WallCoordinates) -> Point:
    """Return the voxel of the wall nearest to the place's point, RAS mm.

    Raises:
        ValueError: if the point lies farther than 20 mm from the wall.
    """
    points = apply_affine(place.affine, wall.voxels)
    distance, nearest = KDTree(points).query(place.point_mm)
    if distance > SITE_TOLERANCE_MM:
        raise ValueError(
            f"site must lie within {SITE_TOLERANCE_MM:g} mm of the wall, got {place.point_mm} at "
            f"{distance:.0f} mm"
        )
    return as_point(points[nearest])


def settle(label: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Return a label map in which pieces of nothing but the inner class have become the outer one.

    No-reflow is the core of an infarct; a lesion that is no-reflow throughout stays as it is.

    Example:
        >>> settle(np.array([[[3, 4, 0, 4]]], np.uint8), values=(3, 4)).tolist()
        [[[3, 4, 0, 3]]]
    """
    outer = values[0]
    parts, _ = ndimage.label(label > 0, np.ones((3, 3, 3)))
    with_outer = np.unique(parts[label == outer])
    alone = (parts > 0) & ~np.isin(parts, with_outer)
    return np.where(alone, outer, label).astype(np.uint8) if len(with_outer) else label


class WallLesion(NamedTuple):
    """A lesion in a wall, ready to be moved into others.

    ``levels`` are mm to the outline within wall and slice, positive inside, clipped, at the voxels
    of ``place``: of the lesion, and of its inner class, shape ``(2, n)``.
    """

    name: str
    place: WallCoordinates
    heights: np.ndarray  # of each slice, 0 apex to 1 base
    levels: np.ndarray
    angle: float  # of its middle, radians
    diameter_mm: float  # of the smallest sphere round the lesion
    wall_mm: float  # of that round the wall
    inner_share: float

    @classmethod
    def measure(cls, place: Place, label: np.ndarray, name: str) -> WallLesion:
        """Measure the lesion of a label map; what lies outside the wall does not count.

        Raises:
            ValueError: if there is no lesion in the wall, or no wall.
        """
        wall, mask = coordinates(place), place.organ_mask
        lesion = mask & np.isin(label, place.values)
        if not lesion.any():
            raise ValueError(f"label must hold one of {place.values} in the wall, got none")
        masks = lesion, lesion & (label == place.values[-1])
        levels = np.stack([_levels(each, place)[tuple(wall.voxels.T)] for each in masks])
        angles = wall.angle[lesion[tuple(wall.voxels.T)]]
        return cls(
            name,
            wall,
            _heights(place),
            levels,
            float(np.angle(np.exp(1j * angles).mean())),
            2 * enclosing_sphere(lesion, place.affine).radius_mm,
            2 * enclosing_sphere(mask, place.affine).radius_mm,
            float(masks[1].sum() / lesion.sum()),
        )


def move_lesion(lesion: WallLesion, place: Place, turn: float = 0.0) -> np.ndarray:
    """Return a lesion in another wall.

    Each voxel of the wall takes the distance to the lesion's outline from where the source has its
    angle, depth and height, between the source's slices by linear interpolation. Angles are those
    of the scans' RAS axes within the slice, ``turn`` is in radians: both scans must be oriented
    alike. Ends of the organ correspond, whatever the numbers of slices.

    Where the place has a range of shares the inner class shrinks or grows along its outline to meet
    them. The result is uint8 on the grid of the place, 0 and its two values;
    a small lesion may fall between thick slices, then it is empty.
    """
    wall = coordinates(place)
    values = np.empty((2, len(wall.voxels)))
    slices = np.unique(wall.voxels[:, 2])
    sources = np.unique(lesion.place.voxels[:, 2])
    order = sources[np.argsort(lesion.heights[sources])]  # from apex to base
    ranks = np.arange(len(order))
    between = np.interp(_heights(place)[slices], lesion.heights[order], ranks)
    for k, position in zip(slices, between, strict=True):
        here = wall.voxels[:, 2] == k
        angle, depth = wall.angle[here] - turn, wall.depth[here]
        low, high = int(np.floor(position)), int(np.ceil(position))
        values[:, here] = _between(
            _slice_levels(lesion, order[low], angle, depth),
            _slice_levels(lesion, order[high], angle, depth),
            position - low,
        )
    grid = np.full((2, *wall.shape), -BAND_MM)
    grid[(slice(None), *wall.voxels.T)] = values
    outer = grid[0] > 0
    label = np.where(outer, place.values[0], 0).astype(np.uint8)
    label[_inner(grid, outer, lesion, place.inner_share)] = place.values[-1]
    return label


def _between(low: np.ndarray, high: np.ndarray, part: float) -> np.ndarray:
    """Return levels between two slices; a class that ends there ends half-way, without taper."""
    linear = low + part * (high - low)
    nearest = high if part > 0.5 else low
    both = (low.max(1) > 0) & (high.max(1) > 0)
    return np.where(both[:, None], linear, nearest)


def _inner(
    grid: np.ndarray, outer: np.ndarray, lesion: WallLesion, share: tuple[float, float] | None
) -> np.ndarray:
    """Return the inner class, within the range of its share where there is one."""
    inner = outer & (grid[1] > 0)
    if share is None or not outer.any():
        return inner
    found = float(inner.sum() / outer.sum())
    if share[0] <= found <= share[1]:
        return inner
    # without any to grow from it begins in the middle of the lesion
    values = grid[1] + grid[0] / 100 if lesion.inner_share else grid[0]
    return surest(values, outer, float(np.clip(found, *share)))


def _heights(place: Place) -> np.ndarray:
    """Return where slices lie from apex (0) to base (1); the apex is where the organ is thinner."""
    areas = (place.organ_mask | place.cavity).sum((0, 1))
    found = np.flatnonzero(place.organ_mask.any((0, 1)))
    heights = (np.arange(len(areas)) - found[0] + 0.5) / (found[-1] - found[0] + 1)
    third = max(1, len(found) // 3)
    upside_down = areas[found[:third]].sum() > areas[found[-third:]].sum()
    return 1 - heights if upside_down else heights


def _levels(mask: np.ndarray, place: Place) -> np.ndarray:
    """Return mm to the outline within each slice; at the surfaces of the wall there is none."""
    spacing, wall = voxel_sizes(place.affine)[:2], place.organ_mask
    result = np.full(mask.shape, -BAND_MM)
    for k in np.flatnonzero(mask.any((0, 1))):
        inside, healthy = mask[..., k], wall[..., k] & ~mask[..., k]
        outward = ndimage.distance_transform_edt(~inside, sampling=spacing)
        inward = np.full(inside.shape, BAND_MM)
        if healthy.any():
            inward = ndimage.distance_transform_edt(~healthy, sampling=spacing)
        result[..., k] = np.clip(np.where(inside, inward, -outward), -BAND_MM, BAND_MM)
    return result


def _slice_levels(lesion: WallLesion, k: int, angle: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return levels of one slice where angle and depth are those given, shape ``(2, n)``."""
    here = np.flatnonzero(lesion.place.voxels[:, 2] == k)
    source = wall_points(lesion.place.angle[here], lesion.place.depth[here], WALL_MM)
    count = min(NEIGHBOURS, len(here))
    distance, nearest = KDTree(source).query(wall_points(angle, depth, WALL_MM), k=count)
    distance, nearest = distance.reshape(-1, count), nearest.reshape(-1, count)
    weights = 1 / np.maximum(distance, 1e-6) ** 2  # a voxel that is met exactly counts alone
    levels = lesion.levels[:, here[nearest]]
    return (levels * weights).sum(-1) / weights.sum(-1)


class WallLibrary:
    """Lesions of other walls, moved by angle, depth through the wall and height, and turned.

    They come from a folder of ``*_label.nii.gz``, or a datalist.json (also of that folder), whose
    section ``training`` names label maps as the organ's table has them; those without a lesion are
    left out. They are turned round the cavity by up to ``turn_degrees``, either way.

    Raises:
        ValueError: if the folder or file does not exist, a label map cannot be read or lacks the
            heart, no lesion is found, or the turn is negative.
    """

    def __init__(self, path: str | Path, organ: Organ, turn_degrees: float = 15.0) -> None:
        if not (np.isfinite(turn_degrees) and turn_degrees >= 0):
            raise ValueError(f"turn_degrees must be >= 0, got {turn_degrees}")
        self.turn_degrees = float(turn_degrees)
        files = _label_files(Path(path))
        found = [_read_lesion(file, organ) for file in tqdm(files, desc="reading label maps")]
        self.lesions = [lesion for lesion in found if lesion is not None]
        if not self.lesions:
            raise ValueError(f"shape must name a library with lesions, got none in {path}")

    def draw(
        self, diameter_mm: float | Sequence[float], rng: np.random.Generator, place: Place
    ) -> LabelShape:
        """Return one of the library's lesions in a wall.

        Lesions of that diameter, as large as in this wall they will be, are taken; if there is
        none, the nearest. A point is the middle of the lesion in angle; without one the turn is
        drawn. The share of the inner class is that of the lesion, made to fit where a range is
        given.

        Raises:
            ValueError: if there is no wall, the point is far from it, or nothing of the lesions
                meets a slice.
        """
        wanted = size_range(diameter_mm)
        turn = np.radians(rng.uniform(-self.turn_degrees, self.turn_degrees))
        angle = _site_angle(place)
        best: tuple[float, LabelShape] | None = None
        for lesion in self._candidates(place, wanted, rng)[:MAX_ATTEMPTS]:
            by = float(turn) if angle is None else angle - lesion.angle
            label = settle(move_lesion(lesion, place, by), place.values)
            if not label.any():
                continue
            shape = LabelShape.measure(label, place, f"library:{lesion.name} {_degrees(by)}")
            miss = float(_miss(shape.diameter_mm, wanted))
            if best is None or miss < best[0]:
                best = miss, shape
            if miss == 0:
                break
        if best is None:
            raise ValueError(f"diameter_mm must be of lesions that meet a slice, got {wanted}")
        return best[1]

    def _candidates(
        self, place: Place, wanted: tuple[float, float], rng: np.random.Generator
    ) -> list[WallLesion]:
        """Return the lesions, those nearest to the wish first, equals in random order."""
        wall_mm = 2 * enclosing_sphere(place.organ_mask, place.affine).radius_mm
        sizes = np.array([item.diameter_mm * wall_mm / item.wall_mm for item in self.lesions])
        shares = np.array([item.inner_share for item in self.lesions])
        low, high = place.inner_share or (0.0, 1.0)
        unlike = np.maximum(low - shares, shares - high).clip(0)
        chance = rng.permutation(len(self.lesions))
        order = np.lexsort([chance, unlike, _miss(sizes, wanted)])
        return [self.lesions[int(n)] for n in order]


class MaskFileWallShape:
    """The user's label map: where it lies, or moved to the wall of the scan.

    On the scan's own grid with lesions only in its wall it is used voxel by voxel. Otherwise it
    must hold its own organ, from which the lesion is moved, without a turn unless a site is given.
    ``content``, label map and affine, is for one in memory, whose ``path`` is but a name.

    Raises:
        ValueError: if the file is missing, not a label map, or has no lesion.
    """

    def __init__(
        self,
        path: str | Path,
        organ: Organ,
        content: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.path, self.organ = Path(path), organ
        self.label, self.affine = _read(self.path) if content is None else content
        if not np.isin(self.label, organ.values).any():
            classes = " or ".join(f"{each.value} ({each.name})" for each in organ.classes)
            raise ValueError(
                f"shape must hold {classes}, got labels {np.unique(self.label).tolist()} in "
                f"{self.path}"
            )

    def draw(self, diameter_mm: Any, rng: Any, place: Place) -> LabelShape:
        """Return the lesion; no chance is used, size and share stay those of the file.

        Raises:
            ValueError: if the lesion neither lies in the wall nor can be moved to it.
        """
        lesion = np.isin(self.label, self.organ.values)
        same = self.label.shape == place.organ_mask.shape and np.allclose(
            self.affine, place.affine, rtol=0, atol=GRID_TOLERANCE_MM
        )
        if same and not (lesion & ~place.organ_mask).any():
            own = np.where(lesion, self.label, 0)
            return LabelShape.measure(own, place, f"mask:{self.path.name}")
        if not set(self.organ.parts.values()) <= set(np.unique(self.label).tolist()):
            where = "partly outside the wall" if same else "on another grid"
            raise ValueError(
                "shape must lie in the wall on the scan's grid, or hold its own organ "
                f"({self.organ.described_parts}), got a lesion {where} and labels "
                f"{np.unique(self.label).tolist()} in {self.path}"
            )
        source = _measure(self.label, self.affine, self.organ, self.path.name)
        angle = _site_angle(place)
        by = 0.0 if angle is None else angle - source.angle
        label = settle(move_lesion(source, place._replace(inner_share=None), by), place.values)
        if not label.any():
            raise ValueError(f"shape must hold a lesion that meets a slice, got {self.path}")
        return LabelShape.measure(label, place, f"mask:{self.path.name} {_degrees(by)}")


def _degrees(turn: float) -> str:
    return f"turned {np.degrees(np.angle(np.exp(1j * turn))):.0f} degrees"


def _miss(diameter_mm: np.ndarray | float, wanted: Sequence[float]) -> np.ndarray:
    """Return by how much diameters miss a range, as a logarithm; 0 within it."""
    size = np.log(diameter_mm + 1e-9)
    return np.maximum(np.log(wanted[0]) - size, size - np.log(wanted[1])).clip(0)


def _site_angle(place: Place) -> float | None:
    if place.point_mm is None:
        return None
    wall = coordinates(place)
    return middle_angle(wall, place.affine, site_in_wall(place, wall))


def _label_files(path: Path) -> list[Path]:
    listed = path / "datalist.json" if path.is_dir() else path
    if listed.suffix == ".json" and listed.is_file():
        cases = [case for case in read_entries(listed, "shape") if "label" in case]
        return [entry_file(case, "label", listed.parent, "shape") for case in cases]
    if path.is_dir():
        return sorted(path.glob("*_label.nii.gz"))
    raise ValueError(
        f"shape library:PATH must name a folder of *_label.nii.gz or a datalist.json, got {path}"
    )


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        return read_label(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"shape must name label maps: {error}") from error


def _measure(label: np.ndarray, affine: np.ndarray, organ: Organ, name: str) -> WallLesion:
    wall, cavity = np.isin(label, organ.wall), np.isin(label, organ.cavity)
    return WallLesion.measure(Place(None, affine, wall, cavity, organ.values), label, name)


def _read_lesion(path: Path, organ: Organ) -> WallLesion | None:
    """Return the lesion of a label map, or None where there is none."""
    label, affine = _read(path)
    if not np.isin(label, organ.values).any():
        return None
    if not set(organ.parts.values()) <= set(np.unique(label).tolist()):
        raise ValueError(
            f"shape must name label maps with {organ.described_parts}, got "
            f"{np.unique(label).tolist()} in {path}"
        )
    name = bare_name(path.name).removesuffix("_label")
    return _measure(label, affine, organ, name)
