"""What is asked of a source of infarcts, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage
from scipy.spatial import KDTree

from tools.transforms.spheres import enclosing_sphere
from tools.transforms.wall import WallCoordinates, wall_coordinates

__all__ = [
    "INFARCT",
    "NO_REFLOW",
    "Heart",
    "HeartRequest",
    "HeartShape",
    "HeartShapeSource",
    "draw_no_reflow_share",
    "heart_shape",
    "settle",
    "site_in_wall",
]

INFARCT, NO_REFLOW = 3, 4
# 37 patients with an infarct (EMIDEC, training): a tenth of the spheres is smaller, a tenth larger
DIAMETER_MM = (45.0, 105.0)
# 22 of them have no-reflow; its share of the lesion there, from the smallest to the largest
NO_REFLOW_FREQUENCY = 22 / 37
NO_REFLOW_QUANTILES = (0.015, 0.02, 0.04, 0.065, 0.11, 0.14, 0.2, 0.26, 0.35)
SITE_TOLERANCE_MM = 20.0


class Heart(NamedTuple):
    """The left ventricle of a scan, slices along the last axis.

    Attributes:
        wall: True in the myocardium, whatever else lies in it, on the scan's grid.
        cavity: True in the cavity, same shape.
        affine: voxel index to RAS mm, 4x4.
    """

    wall: np.ndarray
    cavity: np.ndarray
    affine: np.ndarray

    def coordinates(self) -> WallCoordinates:
        """Return angle and depth of each voxel of the wall.

        Raises:
            ValueError: if there is no wall.
        """
        return wall_coordinates(self.wall, self.affine, self.cavity)


class HeartShape(NamedTuple):
    """An infarct in the wall of a heart.

    Attributes:
        label: uint8 on the scan's grid: 0, 3 infarct, 4 no-reflow; never empty.
        source: where it came from, for the record.
        diameter_mm: of the smallest sphere round it.
        no_reflow_share: share of the lesion that is no-reflow, 0..1.
    """

    label: np.ndarray
    source: str
    diameter_mm: float
    no_reflow_share: float


@dataclass(frozen=True)
class HeartRequest:
    """An infarct that is wanted.

    Args:
        diameter_mm: smallest and largest diameter of the smallest sphere round the lesion.
        no_reflow_share: smallest and largest share of the lesion that is no-reflow, 0..1; None: as
            patients have it, two in five without.
        site_mm: RAS mm, in or near the wall; None: anywhere in it.

    Raises:
        ValueError: if a range is not one, or the site is not a point.

    Example:
        >>> HeartRequest(diameter_mm=(40.0, 60.0), no_reflow_share=(0.1, 0.1)).site_mm is None
        True
    """

    diameter_mm: tuple[float, float] = DIAMETER_MM
    no_reflow_share: tuple[float, float] | None = None
    site_mm: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if not (_is_point(self.diameter_mm, 2) and 0 < self.diameter_mm[0] <= self.diameter_mm[1]):
            raise ValueError(
                f"diameter_mm must be two numbers, 0 < low <= high, got {self.diameter_mm!r}"
            )
        share = self.no_reflow_share
        if share is not None and not (_is_point(share, 2) and 0 <= share[0] <= share[1] <= 1):
            raise ValueError(
                f"no_reflow_share must be two numbers, 0 <= low <= high <= 1, got {share!r}"
            )
        if self.site_mm is not None and not _is_point(self.site_mm, 3):
            raise ValueError(f"site_mm must be three numbers (RAS mm), got {self.site_mm!r}")


class HeartShapeSource(Protocol):
    """Anything that draws infarcts."""

    def draw(self, heart: Heart, request: HeartRequest, rng: np.random.Generator) -> HeartShape:
        """Return an infarct in the wall of a heart."""
        ...


def draw_no_reflow_share(request: HeartRequest, rng: np.random.Generator) -> float:
    """Return a share within the range asked for, or one that patients have.

    Example:
        >>> draw_no_reflow_share(HeartRequest(no_reflow_share=(0.2, 0.2)), np.random.default_rng(0))
        0.2
    """
    if request.no_reflow_share is not None:
        return float(rng.uniform(*request.no_reflow_share))
    present, rank = rng.random(2)
    if present >= NO_REFLOW_FREQUENCY:
        return 0.0
    return float(np.interp(rank, np.linspace(0, 1, len(NO_REFLOW_QUANTILES)), NO_REFLOW_QUANTILES))


def site_in_wall(
    heart: Heart, place: WallCoordinates, site_mm: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Return the voxel of the wall nearest to a point, RAS mm.

    Raises:
        ValueError: if the point lies farther than 20 mm from the wall.
    """
    points = apply_affine(heart.affine, place.voxels)
    distance, nearest = KDTree(points).query(site_mm)
    if distance > SITE_TOLERANCE_MM:
        raise ValueError(
            f"site_mm must lie within {SITE_TOLERANCE_MM:g} mm of the wall, got {site_mm} at "
            f"{distance:.0f} mm"
        )
    x, y, z = (float(value) for value in points[nearest])
    return x, y, z


def settle(label: np.ndarray) -> np.ndarray:
    """Return a label map in which pieces of nothing but no-reflow have become infarct.

    No-reflow is the core of an infarct; a lesion that is no-reflow throughout stays as it is.

    Args:
        label: 0, 3 and 4, 3-D.

    Example:
        >>> settle(np.array([[[3, 4, 0, 4]]], np.uint8)).tolist()
        [[[3, 4, 0, 3]]]
    """
    parts, _ = ndimage.label(label > 0, np.ones((3, 3, 3)))
    infarcts = np.unique(parts[label == INFARCT])
    alone = (parts > 0) & ~np.isin(parts, infarcts)
    return np.where(alone, INFARCT, label).astype(np.uint8) if len(infarcts) else label


def heart_shape(label: np.ndarray, heart: Heart, source: str) -> HeartShape:
    """Return a shape with what is measured on it.

    Args:
        label: 0, 3 and 4 on the heart's grid, inside the wall.
        heart: in which it lies.
        source: for the record.

    Raises:
        ValueError: if the label is empty.
    """
    diameter = 2 * enclosing_sphere(label, heart.affine).radius_mm
    share = (label == NO_REFLOW).sum() / (label > 0).sum()
    return HeartShape(label.astype(np.uint8), source, float(diameter), float(share))


def _is_point(values: object, size: int) -> bool:
    if not isinstance(values, tuple | list) or len(values) != size:
        return False
    return all(isinstance(v, int | float | np.number) and np.isfinite(v) for v in values)
