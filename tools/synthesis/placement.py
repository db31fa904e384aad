"""Where lesions go: inside an organ or at its surface, off the vessels, apart from each other."""

from collections.abc import Mapping, Sequence
from typing import Literal

import nibabel as nib
import numpy as np

from tools.synthesis.placement_field import Limits, PlacementField, Site, triple

__all__ = ["Mode", "Site", "choose_sites"]

Mode = Literal["interior", "subpleural", "mixed", "anywhere"]
MODES = ("mixed", "interior", "subpleural", "anywhere")
RESTARTS = 5


def choose_sites(
    image_hu: np.ndarray,
    organ_mask: np.ndarray | None,
    affine: np.ndarray,
    radii_mm: Sequence[float],
    rng: np.random.Generator,
    mode: Mode = "mixed",
    lesion_mask: np.ndarray | None = None,
    site_mm: Sequence[float] | Sequence[Sequence[float]] | None = None,
    min_gap_mm: float = 4.0,
    erosion_mm: float | None = None,
    region_mask: np.ndarray | None = None,
    fewer: bool = False,
) -> list[Site | None]:
    """Choose one site per radius so that spheres of these radii fit into the organ.

    Interior: the sphere keeps 2 mm from the surface of the organ. Sub-pleural: it cuts the
    surface with its centre 0.5 to 0.95 radii below, so that at least 84 % of it are inside for
    a flat surface. Anywhere: half of the sphere or more lies in the organ, its centre in the middle
    slices where they have room (the shares of DiffTumor, 30 to 70 %, then wider); the rest of the
    lesion is cut off. Spheres stay inside the volume, ``min_gap_mm`` apart from each other and from
    ``lesion_mask``. In an aerated organ at most 5 % of the sphere may be vessel (brighter than
    -500 HU in means of about 2 mm) and no vessel thicker than 5 mm may pass its core; where all
    candidates fail, the best is taken and marked ``clean=False``. Distances are measured on
    blocks of about 2 mm, so they hold to about 1 mm.

    Args:
        image_hu: CT in HU, shape (i, j, k).
        organ_mask: True inside the organ, same shape; None only if ``site_mm`` places all.
        affine: voxel to RAS mm, shape (4, 4); anisotropic and oblique allowed.
        radii_mm: radius of the equivalent sphere of each lesion, > 0.
        rng: source of randomness; the same state gives the same sites.
        mode: "interior", "subpleural", "mixed" (even odds of these; the other one where it is full)
            or "anywhere".
        lesion_mask: existing lesions to keep away from, same shape; empty or None: none.
        site_mm: the user's point (x, y, z) in RAS mm, or several; they serve the first radii.
        min_gap_mm: least distance between two surfaces, >= 0.
        erosion_mm: depth of a shell under the surface of the organ, > 0: centres of interior
            lesions, and anywhere, lie below it, as in the mask eroded by that much, centres of
            sub-pleural ones in
            it, so that at least half of them does; both rules come on top of those above. None: no
            shell.
        region_mask: part of the organ, a lobe, that lesions may lie in, same shape: interior
            spheres keep 2 mm from its border, sub-pleural ones lie in it with their centre and half
            a radius round it. The surface stays that of the organ. None: all of it.
        fewer: if not all fit, give None to those that do not.

    Returns:
        Sites in the order of ``radii_mm``.

    Raises:
        ValueError: if arguments do not fit each other, a given point lies outside the volume or
            the organ, or not all lesions fit (the message says how many did).

    Example:
        >>> import numpy as np
        >>> scan, organ = np.full((40, 40, 40), -850.0), np.zeros((40, 40, 40), bool)
        >>> organ[4:36, 4:36, 4:36] = True
        >>> affine = np.diag([2.0, 2.0, 2.0, 1.0])
        >>> len(choose_sites(scan, organ, affine, [5, 8], np.random.default_rng(0)))
        2
    """
    masks = {"organ_mask": organ_mask, "lesion_mask": lesion_mask, "region_mask": region_mask}
    _check(image_hu, radii_mm, mode, masks, min_gap_mm, erosion_mm)
    given = _given_sites(image_hu.shape, masks, affine, radii_mm, site_mm, min_gap_mm)
    if len(given) == len(radii_mm):
        return list(given)
    if organ_mask is None:
        raise ValueError(
            "organ_mask must be given where site_mm does not place all lesions, got None for "
            f"{len(radii_mm) - len(given)} of {len(radii_mm)} lesions"
        )
    _require_volume(organ_mask, affine, [] if fewer else radii_mm)
    limits = Limits(min_gap_mm, erosion_mm)
    field = PlacementField(image_hu, organ_mask, affine, lesion_mask, limits, region_mask)
    best: dict[int, Site] = {}
    for _ in range(RESTARTS):  # an unlucky first site may block the rest
        placed = dict(enumerate(given))
        # Large ones first: they have the fewest places.
        for lesion in sorted(range(len(given), len(radii_mm)), key=lambda n: -radii_mm[n]):
            taken = [(site.point_mm, radii_mm[n]) for n, site in placed.items()]
            site = field.draw(radii_mm[lesion], mode, taken, rng)
            if site is not None:
                placed[lesion] = site
        if len(placed) == len(radii_mm):
            return [placed[n] for n in range(len(radii_mm))]
        best = max(best, placed, key=len)
    if fewer:
        return [best.get(n) for n in range(len(radii_mm))]
    raise ValueError(
        f"organ_mask must have room for all lesions, but {len(best)} of {len(radii_mm)} fitted "
        f"(radii_mm {[round(float(r), 1) for r in radii_mm]}, mode {mode!r}, "
        f"min_gap_mm {min_gap_mm:g}"
        f"{'' if erosion_mm is None else f', erosion_mm {erosion_mm:g}'}); "
        "what helps: a smaller diameter_mm or count, a site, another organ_mask, or if_impossible "
        "fewer"
    )


def _require_volume(organ: np.ndarray, affine: np.ndarray, radii_mm: Sequence[float]) -> None:
    """Refuse at once what could never fit: to find it out by placing takes minutes."""
    room = float(organ.sum()) * abs(float(np.linalg.det(affine[:3, :3])))
    wanted = sum(4 / 3 * np.pi * float(radius) ** 3 for radius in radii_mm)
    if wanted > room > 0:
        raise ValueError(
            f"organ_mask must have room for all lesions, got {room:.0f} mm3 for {len(radii_mm)} of "
            f"together {wanted:.0f} mm3; what helps: a smaller diameter_mm or count"
        )


def _check(
    image_hu: np.ndarray,
    radii_mm: Sequence[float],
    mode: str,
    masks: Mapping[str, np.ndarray | None],
    min_gap_mm: float,
    erosion_mm: float | None,
) -> None:
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if len(radii_mm) == 0 or not all(np.isfinite(r) and r > 0 for r in radii_mm):
        raise ValueError(f"radii_mm must be numbers > 0, at least one, got {list(radii_mm)}")
    if min_gap_mm < 0:
        raise ValueError(f"min_gap_mm must be >= 0, got {min_gap_mm}")
    if erosion_mm is not None and not erosion_mm > 0:
        raise ValueError(f"erosion_mm must be > 0, got {erosion_mm}")
    if image_hu.ndim != 3:
        raise ValueError(f"image_hu must have 3 dimensions, got shape {image_hu.shape}")
    for name, mask in masks.items():
        if mask is not None and mask.shape != image_hu.shape:
            raise ValueError(
                f"{name} must have the shape of image_hu {image_hu.shape}, got {mask.shape}"
            )


def _given_sites(
    shape: tuple[int, ...],
    masks: Mapping[str, np.ndarray | None],
    affine: np.ndarray,
    radii_mm: Sequence[float],
    site_mm: Sequence[float] | Sequence[Sequence[float]] | None,
    min_gap_mm: float,
) -> list[Site]:
    """Check the user's points and turn them into sites."""
    if site_mm is None:
        return []
    points = np.atleast_2d(np.asarray(site_mm, dtype=float))
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise ValueError(f"site_mm must be points x,y,z in mm, got {site_mm}")
    if len(points) > len(radii_mm):
        raise ValueError(
            f"site_mm must not hold more points than lesions ({len(radii_mm)}), got {len(points)}"
        )
    sites: list[Site] = []
    for number, point in enumerate(points):
        index = _checked_index(point, shape, masks, affine)
        for earlier, other in enumerate(sites):
            wanted = radii_mm[earlier] + radii_mm[number] + min_gap_mm
            apart = float(np.linalg.norm(point - np.array(other.point_mm)))
            if apart < wanted:
                raise ValueError(
                    f"site_mm must hold points {wanted:.1f} mm apart for these radii, "
                    f"got {apart:.1f} mm"
                )
        sites.append(Site(triple(index), triple(point), "given"))
    return sites


def _checked_index(
    point: np.ndarray,
    shape: tuple[int, ...],
    masks: Mapping[str, np.ndarray | None],
    affine: np.ndarray,
) -> np.ndarray:
    """Return the voxel index of a point that lies in the volume and in the organ."""
    text = tuple(round(float(x), 2) for x in point)
    index = nib.affines.apply_affine(np.linalg.inv(affine), point)
    if (index < -0.5).any() or (index > np.array(shape) - 0.5).any():
        ends = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1).T
        corners = nib.affines.apply_affine(affine, ends)
        low, high = corners.min(axis=0).round(1).tolist(), corners.max(axis=0).round(1).tolist()
        raise ValueError(f"site must lie inside the volume ({low} to {high} mm), got {text}")
    nearest = np.clip(np.rint(index).astype(int), 0, np.array(shape) - 1)
    for name in ("organ_mask", "region_mask"):
        mask = masks[name]
        if mask is not None and not mask[tuple(nearest)]:
            raise ValueError(f"site_mm must lie inside {name}, got {text}")
    return index
