"""Readers' outlines to masks, masks to nodules, nodules to one consensus each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from nibabel.affines import apply_affine
from skimage.draw import line, polygon2mask

from tools.dicom.series import DicomSeries
from tools.prepare.lidc_xml import RATINGS, READERS, Outline, Reading

__all__ = [
    "ReadingMask",
    "cluster_readings",
    "consensus",
    "enclosed",
    "nodule_ratings",
    "reading_mask",
    "scan_nodules",
]


class ReadingMask(NamedTuple):
    """The voxels of a nodule in a box of the scan.

    Attributes:
        start: first voxel of the box, (column, row, slice).
        mask: bool, shape of the box.
        reading: who marked it, and how it was rated; None for a consensus.
    """

    start: np.ndarray
    mask: np.ndarray
    reading: Reading | None

    def centroid_mm(self, affine: np.ndarray) -> np.ndarray:
        """Return the mean position of the voxels, RAS mm."""
        return apply_affine(affine, self.start + np.argwhere(self.mask).mean(0))

    def bounds_mm(self, affine: np.ndarray) -> np.ndarray:
        """Return the lowest and the highest corner of the voxels, RAS mm, shape (2, 3)."""
        voxels = np.argwhere(self.mask)
        edges = self.start + np.stack([voxels.min(0) - 0.5, voxels.max(0) + 0.5])
        corners = np.array(np.meshgrid(*edges.T)).reshape(3, -1).T
        reached = apply_affine(affine, corners)
        return np.stack([reached.min(0), reached.max(0)])


def enclosed(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels inside a closed chain, without the chain itself.

    The readers' chain runs through the first pixels outside the nodule, so it is no part of it;
    where two neighbours of the chain do not touch, the straight line between them belongs to it.

    Args:
        points: integer (column, row), shape (n, 2); fewer than three enclose nothing.

    Returns:
        First (column, row) of the bounding box; bool mask of the box.

    Example:
        >>> ring = np.array([[4, 4], [7, 4], [7, 7], [4, 7]])
        >>> start, mask = enclosed(ring)
        >>> start.tolist(), np.argwhere(mask).tolist()
        ([4, 4], [[1, 1], [1, 2], [2, 1], [2, 2]])
    """
    start = points.min(0)
    chain = points - start
    mask = polygon2mask(tuple(chain.max(0) + 1), chain)
    for here, there in zip(chain, np.roll(chain, -1, axis=0), strict=True):
        mask[line(*here, *there)] = False
    return start, mask


def reading_mask(reading: Reading, series: DicomSeries) -> ReadingMask | None:
    """Return what a reader outlined on all slices: inclusions together, less the exclusions.

    Args:
        reading: a nodule of at least 3 mm.
        series: the scan; slices are found by their SOP instance UID.

    Returns:
        The mask; None if the outlines enclose no voxel.

    Raises:
        ValueError: if an outline lies on a slice that the series lacks, or beyond its border.
    """
    place = {uid: k for k, uid in enumerate(series.sop_uids)}
    for outline in reading.outlines:
        _check_outline(outline, reading.nodule_id, place, series)
    outlines = [outline for outline in reading.outlines if len(outline.points) > 2]
    if not outlines:
        return None
    slices = np.array([place[outline.sop_uid] for outline in outlines])
    points = np.concatenate([outline.points for outline in outlines])
    start = np.append(points.min(0), slices.min())
    mask = np.zeros(np.append(points.max(0), slices.max()) - start + 1, bool)
    for inclusion in (True, False):  # exclusions last, whatever the order of the file
        for k, outline in zip(slices - start[2], outlines, strict=True):
            if outline.inclusion is inclusion:
                (i, j), inside = enclosed(outline.points)
                i, j = i - start[0], j - start[1]
                mask[i : i + inside.shape[0], j : j + inside.shape[1], k][inside] = inclusion
    return ReadingMask(start, mask, reading) if mask.any() else None


def _check_outline(
    outline: Outline, nodule_id: str, place: dict[str, int], series: DicomSeries
) -> None:
    if outline.sop_uid not in place:
        raise ValueError(
            f"outlines must lie on slices of the series, got nodule {nodule_id} "
            f"on {outline.sop_uid}, which series {series.series_uid} lacks"
        )
    points = outline.points
    if len(points) and (points.min() < 0 or (points >= series.image.shape[:2]).any()):
        raise ValueError(
            f"outlines must lie inside slices of {series.image.shape[:2]} pixels, got nodule "
            f"{nodule_id} from {points.min(0).tolist()} to {points.max(0).tolist()}"
        )


def scan_nodules(readings: Sequence[Reading], series: DicomSeries) -> list[list[ReadingMask]]:
    """Return the nodules of a scan; outlines that enclose no voxel are left out.

    Args:
        readings: of all readers.
        series: the scan; its pixels are not used.

    Raises:
        ValueError: as :func:`reading_mask` does.
    """
    masks = [reading_mask(reading, series) for reading in readings]
    return cluster_readings([mask for mask in masks if mask is not None], series.affine)


def cluster_readings(masks: Sequence[ReadingMask], affine: np.ndarray) -> list[list[ReadingMask]]:
    """Gather the readings that mean one nodule.

    Two readings of different readers may be one nodule if they share a voxel, or if their
    centroids are closer than the larger equivalent radius (or one slice). Pairs are joined from
    the largest Dice overlap down, then from the smallest distance up; a nodule never gets two
    readings of one reader, nor more than four (which tells where readers are not known apart).

    Args:
        masks: all readings of a scan.
        affine: voxel index to RAS mm.

    Returns:
        Nodules in the order of their first reading.
    """
    sizes = np.abs(np.linalg.det(affine[:3, :3])) * np.array([m.mask.sum() for m in masks])
    radii = (3 * sizes / (4 * np.pi)) ** (1 / 3)
    centres = [mask.centroid_mm(affine) for mask in masks]
    slice_mm = np.linalg.norm(affine[:3, 2])
    pairs = []
    for a, b in combinations(range(len(masks)), 2):
        distance = float(np.linalg.norm(centres[a] - centres[b]))
        dice = _dice(masks[a], masks[b])
        if dice > 0 or distance <= max(radii[a], radii[b], slice_mm):
            pairs.append((-dice, distance, a, b))
    cluster = [{i} for i in range(len(masks))]
    for _, _, a, b in sorted(pairs):
        joined = cluster[a] | cluster[b]
        readers = [_reader(masks[i]) for i in joined]
        if len(set(readers)) == len(readers) <= READERS:
            for i in joined:
                cluster[i] = joined
    return [[masks[i] for i in sorted(c)] for k, c in enumerate(cluster) if min(c) == k]


def _reader(mask: ReadingMask) -> int:
    return mask.reading.reader if mask.reading is not None else 0


def _dice(a: ReadingMask, b: ReadingMask) -> float:
    low = np.maximum(a.start, b.start)
    high = np.minimum(a.start + a.mask.shape, b.start + b.mask.shape)
    if (high <= low).any():
        return 0.0
    parts = [
        m.mask[tuple(slice(*e) for e in zip(low - m.start, high - m.start, strict=True))]
        for m in (a, b)
    ]
    return 2.0 * float((parts[0] & parts[1]).sum()) / float(a.mask.sum() + b.mask.sum())


def consensus(masks: Sequence[ReadingMask], agreement: float = 0.5) -> ReadingMask | None:
    """Return the voxels on which enough of a nodule's readers agree.

    Args:
        masks: the readings of one nodule; those who did not mark it have no vote.
        agreement: a voxel belongs to the nodule if at least this share of the readings holds it.

    Returns:
        The consensus in the box of all readings; None if no voxel finds enough agreement.

    Example:
        >>> start = np.zeros(3, int)
        >>> one = ReadingMask(start, np.ones((2, 1, 1), bool), None)
        >>> two = ReadingMask(start, np.ones((3, 1, 1), bool), None)
        >>> [int(consensus([one, two], share).mask.sum()) for share in (0.5, 0.6)]
        [3, 2]
    """
    start = np.min([m.start for m in masks], axis=0)
    votes = np.zeros(np.max([m.start + m.mask.shape for m in masks], axis=0) - start, int)
    for m in masks:
        box = zip(m.start - start, m.start - start + m.mask.shape, strict=True)
        votes[tuple(slice(*edges) for edges in box)] += m.mask
    agreed = votes >= agreement * len(masks) - 1e-9  # 0.6 * 5 must be reached by 3
    return ReadingMask(start, agreed, None) if agreed.any() else None


def nodule_ratings(nodule: Sequence[ReadingMask]) -> dict[str, Any]:
    """Return the ratings of each reader, 0 where there is none, and the mean of those given.

    Lists of ratings have one place for each possible reader, so that loaders can batch them.

    Args:
        nodule: its readings.

    Returns:
        ``readers`` (their number), ``ratings`` (lists by name), ``ratings_mean`` (by name).
    """
    given = [m.reading.ratings for m in nodule if m.reading is not None]
    values = {name: [ratings.get(name, 0) for ratings in given] for name in RATINGS}
    rated = {name: [v for v in row if v] for name, row in values.items()}
    return {
        "readers": len(given),
        "ratings": {n: row + [0] * (READERS - len(row)) for n, row in values.items()},
        "ratings_mean": {
            n: round(float(np.mean(row)), 3) if row else 0.0 for n, row in rated.items()
        },
    }
