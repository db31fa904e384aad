"""Where the shapes come from that are compared: real masks, ellipsoids, a shape model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage
from tqdm import tqdm

from tools.phantoms.datasets import lesion_datalist
from tools.synthesis.shapes import EllipsoidShapes
from tools.transforms.spheres import Sphere, enclosing_sphere, sphere_mask

__all__ = [
    "DrawShape",
    "PlacedMask",
    "RealShape",
    "draw_ellipsoid",
    "load_shapes",
    "nearest_shapes",
    "place_on",
]

# Below this diameter an ellipsoid's deformation grows with its size, so a large one may be shrunk;
# a small one is coarse on its window of 1 mm.
ELLIPSOID_MM, FITS = 16.0, 6


# (sphere, affine, shape, seed, within=None), for a shape model spiculation and lobulation too, to a
# bool mask on the grid; empty or a ValueError where there is none
DrawShape = Callable[..., np.ndarray]


class PlacedMask(NamedTuple):
    """A mask on a grid of its own.

    Attributes:
        mask: bool, 3-D, not empty.
        affine: voxel index to RAS mm, 4x4.
    """

    mask: np.ndarray
    affine: np.ndarray


class RealShape(NamedTuple):
    """A real lesion on a grid that holds its whole sphere.

    Attributes:
        name: of the file.
        patient: lesions of one patient never lie on both sides of a split.
        placed: the mask.
        sphere: smallest sphere about the mask, RAS mm.
        scores: radiologists' scores of spiculation and lobulation, as far as known.
    """

    name: str
    patient: str
    placed: PlacedMask
    sphere: Sphere
    scores: dict[str, float]


def load_shapes(
    dataset_dir: str, section: str = "validation", limit: int | None = None
) -> list[RealShape]:
    """Return the masks of a datalist, each cut or padded to the grid round its sphere.

    Args:
        dataset_dir: folder made by ``prepare scans``.
        section: of its ``datalist.json``.
        limit: number of masks, evenly spread over the list; None takes all.

    Raises:
        FileNotFoundError: if the dataset does not exist.
        ValueError: if ``limit`` is not positive.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    entries = lesion_datalist(dataset_dir, section)
    if limit is not None and limit < len(entries):
        entries = [entries[int(i)] for i in np.linspace(0, len(entries) - 1, limit).round()]
    return [_load(entry) for entry in tqdm(entries, desc=f"reading {section} masks")]


def _load(entry: dict[str, Any]) -> RealShape:
    volume = nib.load(entry["label"])
    mask = np.asarray(volume.dataobj) > 0
    sphere = enclosing_sphere(mask, volume.affine)
    scores = {k: float(entry[k]) for k in ("spiculation", "lobulation") if entry.get(k) is not None}
    name = str(entry["label"])
    placed = _round_sphere(mask, volume.affine, sphere)
    return RealShape(name, str(entry.get("patient", name)), placed, sphere, scores)


def _round_sphere(
    mask: np.ndarray, affine: np.ndarray, sphere: Sphere, margin: int = 2
) -> PlacedMask:
    """Return the mask on the part of its lattice that holds the sphere and ``margin`` voxels."""
    inverse = np.linalg.inv(affine)
    middle = apply_affine(inverse, sphere.centre_mm)
    reach = sphere.radius_mm * np.linalg.norm(inverse[:3, :3], axis=1)
    low = np.floor(middle - reach).astype(int) - margin
    high = np.ceil(middle + reach).astype(int) + margin + 1
    voxels = np.argwhere(mask) - low
    window = np.zeros(high - low, bool)
    window[tuple(voxels.T)] = True
    moved = np.array(affine, float)
    moved[:3, 3] = apply_affine(affine, low)
    return PlacedMask(window, moved)


def draw_ellipsoid(
    sphere: Sphere,
    affine: np.ndarray,
    shape: Sequence[int],
    seed: int,
    within: np.ndarray | None = None,
) -> np.ndarray:
    """Draw a deformed ellipsoid (:class:`tools.synthesis.shapes.EllipsoidShapes`) into a sphere.

    Size and place are fitted in a few steps until the smallest sphere about its voxels is the one
    asked for; the ellipsoid keeps its form.

    Args:
        sphere: RAS mm.
        affine: voxel index to RAS mm, 4x4.
        shape: voxels per axis.
        seed: the same seed gives the same mask.
        within: True where the lesion may lie; None: everywhere.
    """
    wanted = max(1.6 * sphere.radius_mm, ELLIPSOID_MM)
    drawn = EllipsoidShapes().draw(wanted, np.random.default_rng(seed))
    own = enclosing_sphere(drawn.sdf > 0, np.eye(4))
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    offsets = apply_affine(affine, index) - sphere.centre_mm
    allowed = sphere_mask(sphere, affine, shape)
    scale, shift = sphere.radius_mm / own.radius_mm, np.zeros(3)
    best, least = np.linalg.norm(offsets, axis=-1) <= np.linalg.norm(offsets, axis=-1).min(), np.inf
    for _ in range(FITS):
        points = (offsets - shift) / max(scale, 1e-6) + own.centre_mm
        level = ndimage.map_coordinates(drawn.sdf, np.moveaxis(points, -1, 0), order=1, cval=-1.0)
        mask = (level > 0) & allowed
        if not mask.any():
            scale *= 1.2
            continue
        found = enclosing_sphere(mask, affine)
        drift = np.subtract(sphere.centre_mm, found.centre_mm)
        error = abs(sphere.radius_mm - found.radius_mm) + float(np.linalg.norm(drift))
        if error < least:
            best, least = mask, error
        scale *= (sphere.radius_mm + 0.5) / (found.radius_mm + 0.5)
        shift = shift + drift
    return best if within is None else best & (np.asarray(within) > 0)


def nearest_shapes(
    lesions: Sequence[RealShape], library: Sequence[RealShape], seed: int = 0
) -> list[RealShape]:
    """Return for each lesion one of the library of nearly its size, mirrored in-plane at random.

    None is taken twice while there are others; it is moved so that both spheres have one centre.

    Args:
        lesions: whose spheres are to be met.
        library: other lesions, at least one.
        seed: of the order of choice and of the mirrors.
    """
    rng = np.random.default_rng(seed)
    radii = np.array([item.sphere.radius_mm for item in library])
    free = np.ones(len(library), bool)
    found: dict[int, RealShape] = {}
    for i in rng.permutation(len(lesions)):
        if not free.any():
            free[:] = True
        distance = np.where(free, np.abs(radii - lesions[i].sphere.radius_mm), np.inf)
        chosen = int(distance.argmin())
        free[chosen] = False
        found[int(i)] = place_on(library[chosen], lesions[i].sphere, rng)
    return [found[i] for i in range(len(lesions))]


def place_on(item: RealShape, sphere: Sphere, rng: np.random.Generator) -> RealShape:
    """Return a lesion mirrored in-plane at random, its sphere about the centre of another one."""
    mask, affine = item.placed
    for axis in range(2):
        mask = np.flip(mask, axis) if rng.random() < 0.5 else mask
    own = enclosing_sphere(mask, affine)
    moved = np.array(affine, float)
    moved[:3, 3] += np.subtract(sphere.centre_mm, own.centre_mm)
    placed = PlacedMask(np.ascontiguousarray(mask), moved)
    return item._replace(placed=placed, sphere=Sphere(sphere.centre_mm, own.radius_mm))
