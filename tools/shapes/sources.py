"""Sources of lesion shapes: deformed ellipsoids, a library of real shapes, the user's mask."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline

from tools.files import listed_path, read_entries
from tools.scans.reader import bare_name, existing_files, is_image_name
from tools.scans.scan import read_labels
from tools.shapes import contours
from tools.shapes.shape import (
    LabelShape,
    Place,
    Shape,
    as_point,
    check_diameter,
    largest_piece,
    shape_from_mask,
)

__all__ = [
    "EllipsoidShapes",
    "LibraryShapes",
    "MaskFileShape",
    "ShapeSource",
    "SizedShapes",
    "deformed_ellipsoid",
    "listed_labels",
    "read_label",
]

# Base radius in mm -> range of the displacement of a control point in mm (four tumour classes).
DEFORMATION_MM = {4: (0.5, 1.0), 8: (1.0, 2.0), 16: (3.0, 6.0), 32: (5.0, 10.0)}
SEMI_AXIS_FACTOR = (0.75, 1.25)
NEIGHBOURS = 16
MIN_VOLUME_MM3 = 14.0  # a ball of 3 mm
RADIOLOGIST_SHAPES = 300

# mask (bool, cropped), linear part of its affine as (4, 4), name
Item = tuple[np.ndarray, np.ndarray, str]


class ShapeSource(Protocol):
    """Anything that draws lesion shapes of a wanted size."""

    def draw(
        self, diameter_mm: Any, rng: np.random.Generator, place: Place, /
    ) -> Shape | LabelShape:
        """Return a shape for a place, of a size as the organ's table means it.

        In a box that is one number, the diameter of the sphere with the same volume; in a wall the
        smallest and the largest. What is no size raises a ValueError.
        """
        ...


@runtime_checkable
class SizedShapes(Protocol):
    """A source of shapes with a distribution of sizes of its own."""

    def draw_diameter(self, rng: np.random.Generator, /) -> float:
        """Return the diameter in mm that the next shape shall be asked for with."""
        ...


class EllipsoidShapes:
    r"""Ellipsoids with independent semi-axes, deformed in three planes.

    Semi-axes :math:`a_i = r\,u_i`, :math:`u_i \sim U(0.75, 1.25)`, then for the planes (0,1),
    (1,2), (0,2) a displacement given at 3 x 3 control points over four semi-axes by
    :math:`N(0, \sigma)` and interpolated by a spline. Deviates from the paper: the semi-axes are
    continuous instead of whole millimetres, :math:`\sigma` is interpolated between its four size
    classes, and the result is scaled to the wanted volume.

    References:
        DiffTumor, Chen et al., CVPR 2024. https://arxiv.org/abs/2402.19470

    Args:
        deformation: factor on :math:`\sigma`; 0 gives plain ellipsoids.

    Example:
        >>> shape = EllipsoidShapes().draw(10.0, np.random.default_rng(0))
        >>> abs(float(shape.mask.sum()) / shape.volume_mm3 - 1) < 0.01
        True
    """

    def __init__(self, deformation: float = 1.0) -> None:
        if deformation < 0:
            raise ValueError(f"deformation must be >= 0, got {deformation}")
        self.deformation = deformation

    def draw(
        self, diameter_mm: float, rng: np.random.Generator, place: Place | None = None
    ) -> Shape:
        """Return a new ellipsoid, whatever the place."""
        check_diameter(diameter_mm)
        semi_axes = diameter_mm / 2 * rng.uniform(*SEMI_AXIS_FACTOR, size=3)
        sigma = self.deformation * _displacement_mm(diameter_mm / 2, rng)
        return deformed_ellipsoid(semi_axes, sigma, rng, "ellipsoid", diameter_mm)


def deformed_ellipsoid(
    semi_axes: np.ndarray,
    sigma_mm: float,
    rng: np.random.Generator,
    source: str,
    diameter_mm: float | None = None,
) -> Shape:
    """Return an ellipsoid deformed in three planes, see :class:`EllipsoidShapes`.

    Scaled to the volume of a sphere of ``diameter_mm``; None leaves what deformation makes of it.
    """
    # finer than the 1 mm window: small lesions have few voxels there
    radius = float(np.cbrt(semi_axes.prod())) if diameter_mm is None else diameter_mm / 2
    step = radius / 12
    half = np.ceil(2 * semi_axes / step).astype(int)
    points = np.stack(
        np.meshgrid(*[np.arange(-n, n + 1) * step for n in half], indexing="ij")
    ).astype(np.float64)
    for a, b in ((0, 1), (1, 2), (0, 2)):
        shift = rng.normal(0.0, sigma_mm, size=(2, 3, 3)) if sigma_mm > 0 else np.zeros((2, 3, 3))
        knots = [np.linspace(-2 * semi_axes[c], 2 * semi_axes[c], 3) for c in (a, b)]
        moved = [RectBivariateSpline(*knots, s, kx=2, ky=2) for s in shift]
        # Points beyond the control points take the displacement of the nearest one.
        u, v = (np.clip(points[c], k[0], k[-1]) for c, k in zip((a, b), knots, strict=True))
        delta = [spline.ev(u, v) for spline in moved]
        points[a] += delta[0]
        points[b] += delta[1]
    inside = np.square(points / semi_axes[:, None, None, None]).sum(axis=0) <= 1
    affine = np.diag([step, step, step, 1.0])
    return shape_from_mask(largest_piece(inside), affine, source, diameter_mm)


class LibraryShapes:
    """Real lesion shapes: one near the wanted size, turned about z, mirrored, scaled exactly.

    One of the 16 shapes nearest in size is taken, so that its roughness is that of the size.

    Args:
        source: folder of label NIfTIs, datalist.json (its "training" labels), or a list of masks at
            1 mm isotropic. None: nodules outlined by radiologists, from the optional contour
            package.
        seed: chooses among the radiologists' nodules.

    Raises:
        ValueError: if ``source`` cannot be read or holds no lesion.

    Example:
        >>> cube = np.zeros((20, 20, 20), bool)
        >>> cube[5:15, 5:15, 5:15] = True
        >>> shape = LibraryShapes([cube]).draw(12.0, np.random.default_rng(0))
        >>> round(float(shape.mask.sum())) == round(shape.volume_mm3)
        True
    """

    def __init__(
        self, source: str | Path | Sequence[np.ndarray] | None = None, seed: int = 0
    ) -> None:
        if source is None:
            items = _radiologist_items(seed)
        elif isinstance(source, str | Path):
            items = _read_library(Path(source))
        else:
            items = [(np.asarray(m) > 0, np.eye(4), str(n)) for n, m in enumerate(source)]
        self.items = [item for item in items if item[0].any()]
        if not self.items:
            raise ValueError(f"source must hold at least one lesion mask, got none in {source}")
        volumes = [m.sum() * abs(np.linalg.det(a[:3, :3])) for m, a, _ in self.items]
        self.diameters_mm = np.cbrt(6 / np.pi * np.array(volumes))

    def draw(
        self, diameter_mm: float, rng: np.random.Generator, place: Place | None = None
    ) -> Shape:
        """Return a shape of the library in a random pose, whatever the place."""
        check_diameter(diameter_mm)
        order = np.argsort(np.abs(np.log(self.diameters_mm / diameter_mm)), kind="stable")
        mask, affine, name = self.items[int(rng.choice(order[:NEIGHBOURS]))]
        angle = rng.uniform(0, 2 * np.pi)
        cosine, sine = np.cos(angle), np.sin(angle)
        turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        turn = turn @ np.diag(rng.choice([-1.0, 1.0], size=3))
        return shape_from_mask(mask, affine, f"library:{name}", diameter_mm, turn)


class MaskFileShape:
    """The user's mask; all positive voxels are one lesion.

    On its own grid, at its own place and size the mask is used voxel by voxel. ``point_mm`` is its
    centroid in RAS mm, the site that leaves it where it lies; ``content``, mask and affine, is for
    one that is in memory, whose ``path`` is but a name for the record. ``largest_mm`` is the
    largest diameter of a lesion; twice as long may one that is no ball be.

    Raises:
        ValueError: if the file is missing, not three-dimensional or empty, or its mask too large.
    """

    def __init__(
        self,
        path: str | Path,
        content: tuple[np.ndarray, np.ndarray] | None = None,
        largest_mm: float = np.inf,
    ) -> None:
        self.path = Path(path)
        mask, self.affine = read_label(self.path) if content is None else content
        if not mask.any():
            raise ValueError(f"shape must hold a mask with positive voxels, got none in {path}")
        self._mask = mask > 0
        _require_lesion(self._mask, self.affine, largest_mm, self.path)
        own = shape_from_mask(self._mask, self.affine, f"mask:{self.path.name}")
        self.point_mm = as_point(
            nib.affines.apply_affine(self.affine, ndimage.center_of_mass(self._mask))
        )
        self.diameter_mm = own.diameter_mm
        self._own = replace(own, original=(self._mask, self.affine, self.point_mm))

    def draw(self, diameter_mm: float | None = None, *_: Any) -> Shape:
        """Return the mask, scaled to a size if one is given; neither chance nor place matter."""
        if diameter_mm is None or np.isclose(diameter_mm, self.diameter_mm):
            return self._own
        return shape_from_mask(self._mask, self.affine, self._own.source, diameter_mm)


def _require_lesion(mask: np.ndarray, affine: np.ndarray, largest_mm: float, path: Path) -> None:
    """Refuse what is no lesion, an organ maybe, before windows round it take gigabytes."""
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    spacing = nib.affines.voxel_sizes(affine)
    length = max((part.stop - part.start) * mm for part, mm in zip(box, spacing, strict=True))
    diameter = float(np.cbrt(6 / np.pi * np.count_nonzero(mask) * spacing.prod()))
    if diameter > largest_mm or length > 2 * largest_mm:
        raise ValueError(
            f"shape must be a lesion of at most {largest_mm:g} mm (the sphere of its volume) and "
            f"{2 * largest_mm:g} mm long, got {diameter:.0f} mm and {length:.0f} mm in {path}"
        )


def _displacement_mm(radius: float, rng: np.random.Generator) -> float:
    """Draw the displacement of the size class; below the smallest it shrinks with the radius."""
    radii = list(DEFORMATION_MM)
    low, high = (np.interp(radius, radii, [v[n] for v in DEFORMATION_MM.values()]) for n in (0, 1))
    return float(rng.uniform(low, high) * min(1.0, radius / radii[0]))


def read_label(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a label map: uint8 labels, shape (i, j, k), and the affine to RAS mm.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is unreadable, not three-dimensional, or not of labels from 0 to 255.
    """
    labels, affine = read_labels(path, "shape")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 255:
        raise ValueError(f"shape must hold labels from 0 to 255, got {low} to {high} in {path}")
    return labels.astype(np.uint8), affine


def _read_library(path: Path) -> list[Item]:
    """Read all lesions of a folder of label NIfTIs or a datalist.json.

    A folder with a datalist.json is read through it; in other folders every NIfTI whose name does
    not contain "image" has to be a label map. Every connected lesion of 14 cubic millimetres or
    more becomes one shape; entries that say ``truncated`` are left out.
    """
    if (path / "datalist.json").is_file():
        path = path / "datalist.json"
    if path.is_dir():
        there = existing_files(sorted(path.rglob("*")))
        files = [f for f in there if is_image_name(f.name) and "image" not in f.name]
    elif path.suffix == ".json" and path.is_file():
        files = listed_labels(path, "library")
    else:
        raise ValueError(f"library must be a folder or a datalist.json, got {path}")
    items = [item for file in files for item in _lesions_of(file)]
    if not items:
        raise ValueError(f"library must hold at least one lesion, got none in {path}")
    return items


def listed_labels(datalist: Path, argument: str) -> list[Path]:
    """Return the labels of the training section of a datalist that are not cut off."""
    return [
        listed_path(entry["label"], "label", datalist.parent, datalist)
        for entry in read_entries(datalist, argument)
        if "label" in entry and not entry.get("truncated")
    ]


def _lesions_of(file: Path) -> list[Item]:
    labels, affine = read_label(file)
    linear = np.eye(4)
    linear[:3, :3] = affine[:3, :3]
    parts, _ = ndimage.label(labels > 0, np.ones((3, 3, 3)))
    voxel_mm3 = abs(np.linalg.det(linear))
    items = []
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        mask = parts[box] == number
        if mask.sum() * voxel_mm3 >= MIN_VOLUME_MM3:
            items.append((mask, linear, f"{bare_name(file.name)} {number}"))
    return items


def _radiologist_items(seed: int) -> list[Item]:
    shapes = contours.outlined_nodules(RADIOLOGIST_SHAPES, seed)
    if shapes is None:
        raise ValueError(
            f"shape 'library' must have contours to read: install {contours.PACKAGE} or give "
            "library:PATH, got neither"
        )
    return [(mask, np.eye(4), f"radiologist {n}") for n, mask in enumerate(shapes)]
