"""What a host does round a lesion: tissue drawn toward a scar, a strand from it to the pleura."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from tools.kinds import record_of
from tools.organs.organ import Organ
from tools.scans.scan import Scan
from tools.synthesis.records import ScanRecord

__all__ = ["REACTIONS", "Moved", "PleuralTag", "Retraction", "in_reach", "reaction_of"]

PEAK = 0.64 / np.sqrt(5)  # of t (1 - t^2)^2, at t = 1 / sqrt(5)
STRONGEST = 0.2  # of the outer radius
TAPER = 0.5  # likewise: the width over which the field ends at the border of the organ
STILL_MM = 1e-3  # what moves less stays bit for bit
CLOSED_MM = 3.0  # half the width of vessels that a mask of the lung may leave out
FLARE_MM = 4.0  # over which a tag grows to twice its width at the pleura
BLUR_MM = 0.6  # standard deviation, of a scanner
TAIL = 3.0  # standard deviations from the axis at which a tag ends
PARTS = (-1 / 3, 0.0, 1 / 3)  # of a voxel along each axis, for partial volumes

logger = logging.getLogger(__name__)


class Moved(NamedTuple):
    """What was done to a host, as the record of a lesion says it.

    Attributes:
        name: of the reaction.
        centre_mm: that tissue was drawn to, or the middle of a strand, RAS mm.
        radius_mm: from the centre; all that differs from the scan lies within.
        strength_mm: the largest displacement; of a strand its width.
        voxels: how many differ.
    """

    name: str
    centre_mm: tuple[float, ...]
    radius_mm: float
    strength_mm: float
    voxels: int


@dataclass(frozen=True)
class Retraction:
    r"""Vessels and other tissue drawn toward a lesion, as the fibrous reaction to a cancer does it.

    Radiologists name it at nodules: vascular convergence, with spiculation and pleural indentation
    a sign of cancer (Snoeckx et al., Insights into Imaging 2018, 9:73-86). The formula is ours. The
    voxel at ``x``, ``r`` mm from the lesion's centre in the direction ``e``, gets what lay at

    .. math:: x + w(x) u(r) e, \quad u(r) = s \frac{t (1 - t^2)^2}{0.64 / \sqrt 5}, \quad t = r / R

    with the outer radius ``R``, ``reach_mm`` more than the lesion's, and the largest displacement
    ``s``, ``strength`` times ``R``, at 0.45 R. ``u`` is 0 at the centre, and at ``R`` with its
    slope. ``w`` is 1 inside the organ and falls to 0 at its border over the last R / 2 (smooth
    step): border, pleura and what lies beyond stay, and so do the lesions that were there, of which
    there are label maps.

    Rays stay rays, so the Jacobian's determinant is (1 + d(w u)/dr) (1 + w u / r)^2. Where w falls
    with its steepest slope, 3 / R, along the ray, d(w u)/dr is at least -4.53 ``strength``: at the
    largest ``strength`` of 0.2 the map is one-to-one. Then no voxel gets what lay at the border or
    beyond either, as w u is at most 0.45 times the distance to it.

    Args:
        reach_mm: above 0.
        strength: above 0, at most 0.2.

    Raises:
        ValueError: if one is not.

    Example:
        >>> rule = Retraction(reach_mm=15.0, strength=0.12)
        >>> rule.displacement(np.array([0.0, 22 / 5**0.5, 22.0, 30.0]), radius_mm=22.0).round(2)
        array([0.  , 2.64, 0.  , 0.  ])
    """

    reach_mm: float
    strength: float

    def __post_init__(self) -> None:
        if not self.reach_mm > 0:
            raise ValueError(f"reach_mm must be above 0, got {self.reach_mm}")
        if not 0 < self.strength <= STRONGEST:
            raise ValueError(
                f"strength must be above 0 and at most {STRONGEST}, got {self.strength}"
            )

    def displacement(self, distance_mm: np.ndarray, radius_mm: float) -> np.ndarray:
        """Return ``u`` in mm, far from the border of the organ."""
        t = np.minimum(distance_mm / radius_mm, 1)
        return self.strength * radius_mm / PEAK * t * (1 - t**2) ** 2

    def move(
        self, scan: Scan, inside: np.ndarray, centre_mm: Any, lesion_radius_mm: float
    ) -> Moved:
        """Draw the tissue of a scan toward a point, on the scan's own grid.

        Values are interpolated by splines of order 5. Of the noise's standard deviation 92 to 98 %
        are left where the tissue is drawn out, 102 to 113 % where it is crowded (three places of a
        chest CT with the numbers of the lung's table; order 3: 89 %). Grain that stays where it was
        would keep the edges of vessels that are gone, as ghosts.

        Args:
            scan: whose stored values are written to, see :meth:`tools.scans.scan.Scan.copied`.
            inside: True in what may move, of the scan's shape; the ends of the scan are a border.
            centre_mm: of the lesion, RAS mm.
            lesion_radius_mm: of the sphere with its volume.
        """
        radius = float(lesion_radius_mm + self.reach_mm)
        strength = self.strength * radius
        centre = np.round(np.asarray(centre_mm, float), 3)  # as the record has it
        box = _box(scan, centre, (1 + TAPER) * radius)
        at, to = self._sources(scan, inside, box, centre, radius)
        start = [part.start for part in box]
        block = np.asarray(scan.image[box], np.float64)
        # a spline may swing beyond an edge, but not beyond what is there
        values = ndimage.map_coordinates(block, (to - start).T, order=5, mode="mirror")
        values = scan.stored_values(np.clip(values, block.min(), block.max()))
        places = tuple(at.T)
        before = scan.stored[places]
        scan.stored[places] = scan.storable(values, at)
        changed = int((scan.stored[places] != before).sum())
        where = tuple(centre.tolist())
        return Moved("retraction", where, round(radius, 3), round(strength, 3), changed)

    def _sources(
        self, scan: Scan, inside: np.ndarray, box: Any, centre: np.ndarray, radius: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the voxels that move, ``(n, 3)``, and the index from which each gets its value."""
        # values that stand for what is not finite would spread, and are not written
        free = np.asarray(inside[box], bool) & np.isfinite(scan.stored[box])
        spacing = voxel_sizes(scan.affine)
        depth = ndimage.distance_transform_edt(np.pad(free, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
        voxels = np.argwhere(free)
        depth = np.minimum(depth[free] / (TAPER * radius), 1)
        offset = apply_affine(scan.affine, voxels + [part.start for part in box]) - centre
        distance = np.linalg.norm(offset, axis=1)
        away = depth**2 * (3 - 2 * depth) * self.displacement(distance, radius)
        moves = away > STILL_MM
        at = voxels[moves] + [part.start for part in box]
        shift = offset[moves] * (away / np.maximum(distance, STILL_MM))[moves, None]
        return at, at + shift @ np.linalg.inv(scan.affine[:3, :3]).T


@dataclass(frozen=True)
class PleuralTag:
    r"""A strand of soft tissue from a lesion to the nearest pleura.

    Like vascular convergence a sign of cancer that radiologists name at nodules (Snoeckx et al.,
    Insights into Imaging 2018, 9:73-86). The formula is ours. The strand is straight, from the
    lesion's centre to the nearest border of the organ; holes of its mask up to 6 mm wide, such as
    vessels, and those that it encloses, such as other lesions, are no border. A voxel ``d`` mm from
    the axis is raised by ``w`` times what it lacks of ``tissue_hu`` (the scan smoothed by a voxel;
    vessels and grain stay),

    .. math:: w = \frac{a^2}{2 s^2} e^{-d^2 / 2 s^2}, \quad s^2 = b^2 + a^2 / 4,

    a disc of radius ``a`` blurred by the scanner (``b`` = 0.6 mm), as mean over 27 points of the
    voxel. ``2 a`` is ``width_mm``, and grows to twice that over the last 4 mm, where the pleura is
    drawn out like a tent. What lies outside of the organ stays, and existing lesions do.

    Where the pleura is farther than ``reach_mm`` from the lesion's surface, or the lesion touches
    it, nothing is drawn, and the record says 0 voxels.

    Args:
        reach_mm: above 0.
        width_mm: above 0.
        tissue_hu: of the strand, if it were wide.

    Raises:
        ValueError: if one is not.
    """

    reach_mm: float
    width_mm: float
    tissue_hu: float

    def __post_init__(self) -> None:
        for name in ("reach_mm", "width_mm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    def move(
        self, scan: Scan, inside: np.ndarray, centre_mm: Any, lesion_radius_mm: float
    ) -> Moved:
        """Draw a strand into a scan; arguments as those of :meth:`Retraction.move`."""
        centre = np.asarray(centre_mm, float)
        box = _box(scan, centre, lesion_radius_mm + self.reach_mm + 2 * CLOSED_MM)
        end = self._pleura(scan, np.asarray(inside[box], bool), box, centre)
        length = np.inf if end is None else float(np.linalg.norm(end - centre))
        if end is None or not lesion_radius_mm < length <= lesion_radius_mm + self.reach_mm:
            logger.info(
                "no pleural tag at %s: the pleura is not 0 to %g mm away from the lesion",
                centre.round(1).tolist(),
                self.reach_mm,
            )
            return Moved("pleural_tag", tuple(centre.round(3).tolist()), 0.0, 0.0, 0)
        middle = np.round((centre + end) / 2, 3)
        # twice the width at the pleura: a = width_mm
        reach = length / 2 + TAIL * np.hypot(BLUR_MM, self.width_mm / 2)
        radius = round(float(reach + voxel_sizes(scan.affine).max()), 3)
        free = np.asarray(inside[box], bool) & np.isfinite(scan.stored[box])
        at = np.argwhere(free) + [part.start for part in box]
        away = np.linalg.norm(apply_affine(scan.affine, at) - middle, axis=1)
        at = at[away < radius]
        weight = self._weight(apply_affine(scan.affine, at), scan.affine, centre, end)
        at, weight = at[weight > 0], weight[weight > 0]
        image = np.asarray(scan.image[box], np.float64)
        smooth = ndimage.gaussian_filter(image, 1.0, mode="nearest")
        local = tuple((at - [part.start for part in box]).T)
        values = image[local] + weight * np.maximum(self.tissue_hu - smooth[local], 0)
        places = tuple(at.T)
        before = scan.stored[places]
        scan.stored[places] = scan.storable(scan.stored_values(values), at)
        changed = int((scan.stored[places] != before).sum())
        return Moved("pleural_tag", tuple(middle.tolist()), radius, self.width_mm, changed)

    @staticmethod
    def _pleura(scan: Scan, inside: np.ndarray, box: Any, centre: np.ndarray) -> np.ndarray | None:
        """Return the nearest point of the organ's border in a box, RAS mm; None: there is none."""
        spacing = voxel_sizes(scan.affine)
        width = np.ceil(CLOSED_MM / spacing).astype(int) + 1
        wide = np.pad(inside, [(n, n) for n in width], mode="edge")
        if not wide.any() or wide.all():
            return None
        grown = ndimage.distance_transform_edt(~wide, sampling=spacing) <= CLOSED_MM
        if grown.all():
            return None
        closed = ndimage.distance_transform_edt(grown, sampling=spacing) > CLOSED_MM
        parts, _ = ndimage.label(~(closed | wide))
        faces = [np.take(parts, end, axis) for axis in range(3) for end in (0, -1)]
        open_parts = np.setdiff1d(np.concatenate([face.ravel() for face in faces]), [0])
        border = np.argwhere(np.isin(parts, open_parts)) - width
        if not len(border):
            return None
        points = apply_affine(scan.affine, border + [part.start for part in box])
        return np.asarray(points[np.linalg.norm(points - centre, axis=1).argmin()])

    def _weight(
        self, points: np.ndarray, affine: np.ndarray, start: np.ndarray, end: np.ndarray
    ) -> np.ndarray:
        """Return ``w`` of voxels about points ``(n, 3)``, RAS mm."""
        length = float(np.linalg.norm(end - start))
        axis = (end - start) / length
        found = np.zeros(len(points))
        for part in np.stack(np.meshgrid(PARTS, PARTS, PARTS), -1).reshape(-1, 3):
            offset = points + affine[:3, :3] @ part - start
            along = offset @ axis
            away = np.linalg.norm(offset - along[:, None] * axis, axis=1)
            flare = np.clip(1 - (length - along) / FLARE_MM, 0, 1)
            size = self.width_mm / 2 * (1 + flare)
            variance = BLUR_MM**2 + size**2 / 4
            weight = size**2 / (2 * variance) * np.exp(-(away**2) / (2 * variance))
            weight[(along < 0) | (away > TAIL * np.sqrt(variance))] = 0
            found += weight / len(PARTS) ** 3
        return found


REACTIONS = {"retraction": Retraction, "pleural_tag": PleuralTag}


def reaction_of(organ: Organ, name: str) -> Retraction | PleuralTag | None:
    """Return a reaction with the numbers of the organ's table; None of "none".

    Raises:
        ValueError: if the organ does not know it, or its numbers break a rule.
    """
    known = ["none", *(word for word in REACTIONS if word in organ.host_reactions)]
    if name not in known:
        words = " or ".join(known)
        raise ValueError(f"host_reaction must be {words} in a {organ.name}, got {name!r}")
    numbers = organ.host_reactions.get(name)
    if name == "none":
        return None
    return record_of(REACTIONS[name], numbers if isinstance(numbers, Mapping) else {})


def in_reach(record: ScanRecord, points_mm: np.ndarray) -> np.ndarray:
    """Return which points ``(n, 3)``, RAS mm, lie where hosts reacted, as their record says.

    Raises:
        ValueError: if the record does not say it as it should.
    """
    found = np.zeros(len(points_mm), bool)
    for lesion in record.lesions:
        told = lesion.sampler.get("host_reaction")
        if told is not None:
            where = record_of(_Sphere, told if isinstance(told, Mapping) else {})
            found |= np.linalg.norm(points_mm - where.centre_mm, axis=1) < where.radius_mm
    return found


@dataclass(frozen=True)
class _Sphere:
    centre_mm: Sequence[float]
    radius_mm: float


def _box(scan: Scan, centre: np.ndarray, reach_mm: float) -> tuple[slice, slice, slice]:
    """Return the part of a scan that holds a sphere, with two voxels more."""
    to_index = np.linalg.inv(scan.affine)
    # the sphere's extent along each axis of the array, also of one whose axes lean
    reach = reach_mm * np.linalg.norm(to_index[:3, :3], axis=1) + 2
    middle = apply_affine(to_index, centre)
    low = np.clip(np.floor(middle - reach), 0, np.array(scan.shape) - 1).astype(int)
    high = np.clip(np.ceil(middle + reach) + 1, low + 1, scan.shape).astype(int)
    first, second, third = map(slice, low.tolist(), high.tolist())
    return first, second, third
