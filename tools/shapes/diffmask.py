"""Shapes drawn by a mask diffusion model within a control sphere and a boundary (LeFusion, 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from nibabel.affines import apply_affine
from scipy import ndimage

from tools.bundle import Bundle, sha256_file
from tools.shapes.shape import LabelShape, Place, Shape, shape_from_mask
from tools.shapes.wall import coordinates, label_shape, settle, site_in_wall, size_range
from tools.transforms.cleaning import clean_level
from tools.transforms.spheres import (
    ShapeWindow,
    Sphere,
    attribute_condition,
    fit_grid,
    half_voxel_mm,
    shape_on_scan,
)
from tools.transforms.wall import WallRegion, lesions_in_wall, wall_condition, wall_region

__all__ = ["SEED_STEP", "DiffMaskShapes", "DiffMaskWallShapes", "ShapeGenerator"]

MAX_ATTEMPTS = 5
SEED_STEP = 1_000_003  # between attempts at the same lesion
FREE = Place((0.0, 0.0, 0.0), np.eye(4), None)


class ShapeGenerator:
    """Draw lesion masks with the ``inference.json`` of a bundle such as ``diffmask``.

    Args:
        bundle: name or folder.
        device: see :func:`tools.bundle.choose_device`.

    Raises:
        FileNotFoundError: if the bundle or its weights do not exist.
        ValueError: if the bundle makes no shapes.
    """

    def __init__(self, bundle: str = "diffmask", device: str | torch.device = "auto") -> None:
        opened = Bundle(bundle, device, required=("shape_window",))
        self.device, self.weights = opened.device, opened.weights
        self.network, self.inferer = opened.network(), opened.get("inferer")
        arguments = opened.get("shape_window")
        self.window_arguments = {k: v for k, v in arguments.items() if not k.startswith("_")}
        statistics = opened.get("sphere_ratio")
        self.sphere_ratio = float(statistics["median"]), float(statistics["spread"])

    def sample(
        self,
        sphere: Sphere,
        affine: np.ndarray,
        seed: int,
        within: np.ndarray | None = None,
        spiculation: float | None = None,
        lobulation: float | None = None,
    ) -> tuple[ShapeWindow, np.ndarray]:
        """Return a window round the sphere, and the lesion in it: above 0 inside, in [-1, 1].

        An empty prediction is drawn again with another seed, a few times.

        Args:
            sphere: that the centres of the lesion's voxels must not leave, RAS mm.
            affine: voxel index of the scan to RAS mm, 4x4.
            seed: the same seed gives the same lesion.
            within: above 0 where a lesion may lie (an organ), on the scan's grid; None: everywhere.
            spiculation: radiologists' score 1 (none) to 5 (marked); None leaves it to the model.
            lobulation: likewise.

        Raises:
            ValueError: if the boundary leaves no room, or all attempts are empty.
        """
        window = ShapeWindow.around(sphere, affine, within, **self.window_arguments)
        for level in self._attempts(window, seed, spiculation, lobulation):
            if (level > 0).any():
                return window, level
        raise _nothing_drawn(sphere)

    def _attempts(
        self, window: ShapeWindow, seed: int, spiculation: float | None, lobulation: float | None
    ) -> Iterator[np.ndarray]:
        """Yield clean levels of one window, each of another seed; some may be empty."""
        values = attribute_condition(2 * window.radius_mm, spiculation, lobulation)
        condition = torch.from_numpy(values)[None].to(self.device)
        inputs = torch.from_numpy(window.inputs())[None].to(self.device)
        for attempt in range(MAX_ATTEMPTS):
            with torch.inference_mode():
                seeds = [seed + attempt * SEED_STEP]
                result = self.inferer(inputs, self.network, condition, seeds=seeds)
            yield clean_level(result[0, 0].float().cpu().numpy())

    def draw(
        self,
        sphere: Sphere,
        affine: np.ndarray,
        shape: Sequence[int],
        seed: int,
        within: np.ndarray | None = None,
        spiculation: float | None = None,
        lobulation: float | None = None,
    ) -> np.ndarray:
        """Return a lesion mask on the grid of a scan, not empty; see :meth:`sample`.

        Args:
            sphere: as for :meth:`sample`.
            affine: likewise.
            shape: voxels of the scan per axis.
            seed: as for :meth:`sample`.
            within: likewise.
            spiculation: likewise.
            lobulation: likewise.

        Raises:
            ValueError: if the sphere does not touch the scan or holds no voxel of it, the boundary
                leaves no room, or all attempts are empty.
        """
        window = ShapeWindow.around(sphere, affine, within, **self.window_arguments)
        if not window.has_room(affine, shape, within):
            raise ValueError(f"sphere must hold a voxel of the scan, got none in {sphere}")
        mask = np.zeros(tuple(shape), bool)
        for level in self._attempts(window, seed, spiculation, lobulation):
            # little can fall between the voxels of a coarse scan
            grid = fit_grid(level, window.grid, sphere, affine, within)
            part, box = shape_on_scan(level, grid, sphere, affine, shape, within)
            if part.any():
                mask[box] = part
                return mask
        raise _nothing_drawn(sphere)


class DiffMaskShapes:
    """Shapes of a mask diffusion model within a control sphere and the organ round the site.

    The sphere that encloses a lesion is larger than that of its volume; by how much is drawn as the
    outlines that the model was trained on have it (``sphere_ratio`` of the bundle). The shape that
    the model returns is scaled to the exact volume.

    References:
        LeFusion, Zhang et al., ICLR 2025, section 3.3. https://arxiv.org/abs/2403.14066

    Args:
        generator: the model.
        spiculation: radiologists' score 1 (none) to 5 (marked); None leaves it to the model.
        lobulation: likewise.

    Attributes:
        weights_sha256: of the model, so that another one is another source.
    """

    def __init__(
        self,
        generator: ShapeGenerator,
        spiculation: float | None = None,
        lobulation: float | None = None,
    ) -> None:
        self._generator = generator
        self.weights_sha256 = sha256_file(generator.weights)
        self.spiculation, self.lobulation = spiculation, lobulation

    def draw(
        self, diameter_mm: float, rng: np.random.Generator, place: Place | None = None
    ) -> Shape:
        """Return a new shape.

        Args:
            diameter_mm: diameter of the sphere with the same volume, > 0.
            rng: source of randomness.
            place: site, grid and organ: the model keeps within it; None: no boundary, 1 mm.

        Raises:
            ValueError: if ``diameter_mm`` is not positive.
        """
        if not (np.isfinite(diameter_mm) and diameter_mm > 0):
            raise ValueError(f"diameter_mm must be > 0, got {diameter_mm}")
        place = FREE if place is None else place
        assert place.point_mm is not None
        median, spread = self._generator.sphere_ratio
        ratio = median * float(np.exp(rng.normal(0, spread)))
        radius = max(ratio * diameter_mm / 2 - half_voxel_mm(place.affine), 0.0)
        window, level = self._generator.sample(
            Sphere(place.point_mm, radius),
            place.affine,
            int(rng.integers(2**31)),
            place.organ_mask,
            self.spiculation,
            self.lobulation,
        )
        mask = level > 0
        shape = shape_from_mask(mask, window.grid.affine, "diffmask", diameter_mm)
        # the centre of the sphere goes to the site, not the centroid: so the boundary fits
        centroid = apply_affine(window.grid.affine, ndimage.center_of_mass(mask))
        volume = float(mask.sum()) * window.grid.affine[0, 0] ** 3
        scale = diameter_mm / (6 * volume / np.pi) ** (1 / 3)
        offset = (np.asarray(place.point_mm) - centroid) * scale
        x, y, z = (float(v) for v in np.asarray(shape.centre) + offset)
        return replace(shape, centre=(x, y, z))


class DiffMaskWallShapes:
    """Lesions of a mask diffusion model that sees the wall of an organ and a control sphere.

    What patients have that the model was trained on - how often and how much of the lesion is of
    the inner class, how far inward the sphere of a large one lies - is in its overlay
    (``inner_share``, ``sphere_centre``).

    References:
        LeFusion, Zhang et al., ICLR 2025, section 3.3. https://arxiv.org/abs/2403.14066

    Args:
        bundle: name or folder.
        overlay: config of the bundle for walls.
        device: see :func:`tools.bundle.choose_device`.

    Attributes:
        weights_sha256: of the model, so that another one is another source.

    Raises:
        FileNotFoundError: if the bundle, the overlay or the weights do not exist.
        ValueError: if the overlay is not one for walls.
    """

    def __init__(
        self,
        bundle: str = "diffmask",
        overlay: str = "cardiac_inference.json",
        device: str | torch.device = "auto",
    ) -> None:
        opened = Bundle(bundle, device, (overlay,), required=("wall_size",))
        self.device, self.weights_sha256 = opened.device, sha256_file(opened.weights)
        self.network, self.inferer = opened.network(), opened.get("inferer")
        self.clean, self.range_mm = opened.get("clean"), opened.get("range_mm")
        angles, depths = opened.get("wall_size")
        self._size = (int(angles), int(depths))
        self._share, self._centre = opened.get("inner_share"), opened.get("sphere_centre")

    def draw(
        self,
        diameter_mm: float | Sequence[float],
        rng: np.random.Generator,
        place: Place | None = None,
    ) -> LabelShape:
        """Return a new lesion; an empty one is drawn again with another seed, a few times.

        Args:
            diameter_mm: of the sphere that the model keeps within, smallest and largest: the
                smallest sphere round the result can be smaller.
            rng: source of randomness.
            place: the wall. The share of the inner class is met but for rounding to whole voxels.
                Without a point a voxel of the wall is drawn. The sphere lies inward of the point,
                the more the larger it is.

        Raises:
            ValueError: if there is no wall, the point is far from it, or all attempts are empty.
        """
        assert place is not None
        wall = coordinates(place)
        diameter = float(rng.uniform(*size_range(diameter_mm)))
        share = self._draw_share(place, rng)
        voxel = wall.voxels[int(rng.integers(len(wall.voxels)))]
        seed = int(rng.integers(2**31))
        if place.point_mm is None:
            x, y, z = (float(value) for value in apply_affine(place.affine, voxel))
        else:
            x, y, z = site_in_wall(place, wall)
        region = wall_region(
            wall, place.affine, Sphere(self._inward(place, (x, y, z), diameter), diameter / 2)
        )
        for attempt in range(MAX_ATTEMPTS):
            label = self._sample(region, place, diameter, share, seed + attempt * SEED_STEP)
            if label.any():
                return label_shape(settle(label, place.values), place, "diffmask", diameter)
        raise ValueError(
            f"diameter_mm must leave room for a lesion, got {diameter:.1f} and none in "
            f"{MAX_ATTEMPTS} attempts at {(round(x, 1), round(y, 1), round(z, 1))}"
        )

    def _draw_share(self, place: Place, rng: np.random.Generator) -> float:
        """Return a share within the range asked for, or one that patients have."""
        if place.inner_share is not None:
            return float(rng.uniform(*place.inner_share))
        present, rank = rng.random(2)
        frequency, quantiles = self._share["frequency"], self._share["quantiles"]
        if present >= frequency[0] / frequency[1]:
            return 0.0
        return float(np.interp(rank, np.linspace(0, 1, len(quantiles)), quantiles))

    def _sample(
        self, region: WallRegion, place: Place, diameter: float, share: float, seed: int
    ) -> np.ndarray:
        inputs = torch.from_numpy(region.inputs(self._size))[None].to(self.device)
        condition = torch.from_numpy(wall_condition(diameter, share, self.range_mm))[None]
        with torch.inference_mode():
            result = self.inferer(inputs, self.network, condition.to(self.device), seeds=[seed])
        levels = self.clean({"pred": result[0].float().cpu()})["pred"].numpy()
        return lesions_in_wall(levels, region, place.values, share)

    def _inward(
        self, place: Place, site_mm: tuple[float, float, float], diameter_mm: float
    ) -> tuple[float, float, float]:
        """Return the middle of the sphere of a lesion: a large one bends round the cavity."""
        wall, cavity = place.organ_mask, place.cavity
        assert wall is not None
        assert cavity is not None
        slices = np.flatnonzero(wall.any((0, 1)))
        voxel = apply_affine(np.linalg.inv(place.affine), site_mm)
        k = int(slices[np.abs(slices - voxel[2]).argmin()])
        middle = np.argwhere((wall | cavity)[..., k]).mean(0)
        radii = self._centre["radii"]
        part = float(np.interp(diameter_mm, self._centre["diameters_mm"], radii))
        moved = middle + part * (voxel[:2] - middle)
        x, y, z = (float(v) for v in apply_affine(place.affine, (*moved, voxel[2])))
        return x, y, z


def _nothing_drawn(sphere: Sphere) -> ValueError:
    return ValueError(
        f"sphere must have room for a lesion, got none in {MAX_ATTEMPTS} attempts at {sphere}"
    )
