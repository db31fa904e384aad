"""Shapes drawn by a mask diffusion model within a control sphere and a boundary (LeFusion, 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from nibabel.affines import apply_affine
from scipy import ndimage

from tools.bundle import Bundle, sha256_file
from tools.shapes.shape import (
    LabelShape,
    Place,
    Point,
    Shape,
    as_point,
    check_diameter,
    shape_from_mask,
)
from tools.shapes.wall import coordinates, settle, site_in_wall, size_range
from tools.transforms.cleaning import clean_level, drawn_out
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


class ShapeGenerator:
    """Draw lesion masks with the ``inference.json`` of a bundle such as ``diffmask``.

    Raises:
        FileNotFoundError: if the bundle (name or folder) or its weights do not exist.
        ValueError: if the bundle makes no shapes.
    """

    def __init__(self, bundle: str = "diffmask", device: str | torch.device = "auto") -> None:
        opened = Bundle(bundle, device, required=("shape_window",))
        self.device, self.weights = opened.device, opened.weights
        self.network, self.inferer = opened.network(), opened.get("inferer")
        arguments = opened.get("shape_window")
        self.stretch: float | list[float] = opened.get("stretch")
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

        The centres of the lesion's voxels do not leave the sphere (RAS mm), and lie where
        ``within`` is above 0 (an organ, on the scan's grid). Scores go from 1 (none) to 5 (marked);
        None leaves them to the model. An empty prediction is drawn again with another seed, a few
        times.

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
            level = clean_level(result[0, 0].float().cpu().numpy())
            yield np.where(window.region > 0, drawn_out(level, self.stretch), -1.0)

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
    the model returns is scaled to the exact volume. Other weights are another source.

    References:
        LeFusion, Zhang et al., ICLR 2025, section 3.3. https://arxiv.org/abs/2403.14066
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

    def draw(self, diameter_mm: float, rng: np.random.Generator, place: Place) -> Shape:
        """Return a new shape with the volume of a sphere; the organ of the place is kept."""
        check_diameter(diameter_mm)
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
        return replace(shape, centre=as_point(np.asarray(shape.centre) + offset))


class DiffMaskWallShapes:
    """Lesions of a mask diffusion model that sees the wall of an organ and a control sphere.

    What patients have that the model was trained on - how often and how much of the lesion is of
    the inner class, how far inward the sphere of a large one lies - is in its overlay
    (``inner_share``, ``sphere_centre``). Other weights are another source.

    References:
        LeFusion, Zhang et al., ICLR 2025, section 3.3. https://arxiv.org/abs/2403.14066

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
        self, diameter_mm: float | Sequence[float], rng: np.random.Generator, place: Place
    ) -> LabelShape:
        """Return a new lesion; an empty one is drawn again with another seed, a few times.

        The model keeps within a sphere of that diameter, which lies inward of the place's point,
        the more the larger it is; the smallest sphere round the result can be smaller. Without a
        point a voxel of the wall is drawn. The share of the inner class is met but for rounding.

        Raises:
            ValueError: if there is no wall, the point is far from it, or all attempts are empty.
        """
        wall = coordinates(place)
        diameter = float(rng.uniform(*size_range(diameter_mm)))
        share = self._draw_share(place, rng)
        voxel = wall.voxels[int(rng.integers(len(wall.voxels)))]
        seed = int(rng.integers(2**31))
        if place.point_mm is None:
            site = as_point(apply_affine(place.affine, voxel))
        else:
            site = site_in_wall(place, wall)
        sphere = Sphere(self._inward(place, site, diameter), diameter / 2)
        region = wall_region(wall, place.affine, sphere)
        for attempt in range(MAX_ATTEMPTS):
            label = self._sample(region, place, diameter, share, seed + attempt * SEED_STEP)
            if label.any():
                settled = settle(label, place.values)
                return LabelShape.measure(settled, place, "diffmask", diameter)
        raise ValueError(
            f"diameter_mm must leave room for a lesion, got {diameter:.1f} and none in "
            f"{MAX_ATTEMPTS} attempts at {tuple(round(value, 1) for value in site)}"
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

    def _inward(self, place: Place, site_mm: Point, diameter_mm: float) -> Point:
        """Return the middle of the sphere of a lesion: a large one bends round the cavity."""
        slices = np.flatnonzero(place.organ_mask.any((0, 1)))
        voxel = apply_affine(np.linalg.inv(place.affine), site_mm)
        k = int(slices[np.abs(slices - voxel[2]).argmin()])
        middle = np.argwhere((place.organ_mask | place.cavity)[..., k]).mean(0)
        radii = self._centre["radii"]
        part = float(np.interp(diameter_mm, self._centre["diameters_mm"], radii))
        moved = middle + part * (voxel[:2] - middle)
        return as_point(apply_affine(place.affine, (*moved, voxel[2])))


def _nothing_drawn(sphere: Sphere) -> ValueError:
    return ValueError(
        f"sphere must have room for a lesion, got none in {MAX_ATTEMPTS} attempts at {sphere}"
    )
