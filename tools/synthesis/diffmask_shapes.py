"""Learned lesion shapes as a source of shapes for ``synthesize``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from tools.synthesis.level_set import Place, Shape, shape_from_mask
from tools.synthesis.records import sha256_file
from tools.synthesis.shape_generator import ShapeGenerator
from tools.transforms.spheres import Sphere, half_voxel_mm

__all__ = ["DiffMaskShapes"]

# Enclosing sphere over sphere of equal volume: median and spread (of the logarithm) of the
# radiologists' nodules that the shipped weights were trained on.
SPHERE_RATIO, RATIO_SPREAD = 1.38, 0.1
FREE = Place((0.0, 0.0, 0.0), np.eye(4), None)


class DiffMaskShapes:
    """Shapes drawn by a mask diffusion model within a control sphere and the organ round the site.

    The sphere that encloses a lesion is larger than that of its volume; by how much is drawn as the
    radiologists' nodules have it. The shape that the model returns is scaled to the exact volume.

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
        ratio = SPHERE_RATIO * float(np.exp(rng.normal(0, RATIO_SPREAD)))
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
