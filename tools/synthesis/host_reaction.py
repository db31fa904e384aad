"""What a host does round a lesion: the tissue that a scar draws toward itself."""

from __future__ import annotations

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

__all__ = ["REACTIONS", "Moved", "Retraction", "in_reach", "reaction_of"]

PEAK = 0.64 / np.sqrt(5)  # of t (1 - t^2)^2, at t = 1 / sqrt(5)
STRONGEST = 0.2  # of the outer radius
TAPER = 0.5  # likewise: the width over which the field ends at the border of the organ
STILL_MM = 1e-3  # what moves less stays bit for bit


class Moved(NamedTuple):
    """What was done to a host, as the record of a lesion says it.

    Attributes:
        name: of the reaction.
        centre_mm: that tissue was drawn to, RAS mm.
        radius_mm: from the centre; all that differs from the scan lies within.
        strength_mm: the largest displacement.
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


REACTIONS = {"retraction": Retraction}


def reaction_of(organ: Organ, name: str) -> Retraction | None:
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
