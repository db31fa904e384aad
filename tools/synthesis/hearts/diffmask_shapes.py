"""Infarcts drawn by a learned shape model on the unrolled wall of a heart."""

from __future__ import annotations

import numpy as np
import torch
from nibabel.affines import apply_affine

from tools.synthesis.bundles import choose_device, load_network, read_bundle, resolved
from tools.synthesis.generator import SEED_STEP
from tools.synthesis.hearts.request import (
    INFARCT,
    NO_REFLOW,
    Heart,
    HeartRequest,
    HeartShape,
    draw_no_reflow_share,
    heart_shape,
    settle,
    site_in_wall,
)
from tools.synthesis.records import sha256_file
from tools.transforms.spheres import Sphere
from tools.transforms.wall import WallRegion, lesions_in_wall, wall_condition, wall_region

__all__ = ["DiffMaskHeartShapes"]

OVERLAY = "cardiac_inference.json"
MAX_ATTEMPTS = 5
# how far from the axis of the ventricle the sphere of a lesion has its middle, by its diameter, in
# radii of the wall: means of quarters of 37 patients (EMIDEC, training)
CENTRE_DIAMETERS_MM, CENTRE_RADII = (0.0, 47.0, 68.0, 84.0, 103.0), (1.0, 0.54, 0.39, 0.29, 0.16)


class DiffMaskHeartShapes:
    """Infarcts of a mask diffusion model that sees the wall of the heart and a control sphere.

    References:
        LeFusion, Zhang et al., ICLR 2025, section 3.3. https://arxiv.org/abs/2403.14066

    Args:
        bundle: name or folder, with an overlay ``cardiac_inference.json``.
        device: see :func:`tools.synthesis.generator.choose_device`.

    Attributes:
        weights_sha256: of the model, so that another one is another source.

    Raises:
        FileNotFoundError: if the bundle, the overlay or the weights do not exist.
        ValueError: if the overlay is not one for hearts.
    """

    def __init__(self, bundle: str = "diffmask", device: str = "auto") -> None:
        self.device = choose_device(device)
        weights, parser = read_bundle(bundle, self.device, "wall_size", overlays=(OVERLAY,))
        self.weights_sha256 = sha256_file(weights)
        self.network = load_network(parser, weights, self.device)
        self.inferer = resolved(parser, "inferer")
        self.clean = parser.get_parsed_content("clean")
        angles, depths = parser.get_parsed_content("wall_size")
        self.size = (int(angles), int(depths))
        self.range_mm = parser.get_parsed_content("range_mm")

    def draw(self, heart: Heart, request: HeartRequest, rng: np.random.Generator) -> HeartShape:
        """Return a new infarct; an empty one is drawn again with another seed, a few times.

        Args:
            heart: in whose wall it shall lie.
            request: the diameter is that of the sphere that the model keeps within, so the
                smallest sphere round the result can be smaller; the share of no-reflow is met but
                for rounding to whole voxels. Without a site a voxel of the wall is drawn. Its
                sphere lies inward of the site, the more the larger it is.
            rng: source of randomness.

        Raises:
            ValueError: if the heart has no wall, the site is far from it, or all attempts are
                empty.
        """
        place = heart.coordinates()
        diameter = float(rng.uniform(*request.diameter_mm))
        share = draw_no_reflow_share(request, rng)
        voxel = place.voxels[int(rng.integers(len(place.voxels)))]
        seed = int(rng.integers(2**31))
        if request.site_mm is None:
            x, y, z = (float(value) for value in apply_affine(heart.affine, voxel))
        else:
            x, y, z = site_in_wall(heart, place, request.site_mm)
        centre = _inward(heart, (x, y, z), diameter)
        region = wall_region(place, heart.affine, Sphere(centre, diameter / 2))
        for attempt in range(MAX_ATTEMPTS):
            label = self._sample(region, diameter, share, seed + attempt * SEED_STEP)
            if label.any():
                return heart_shape(settle(label), heart, "diffmask")
        raise ValueError(
            f"diameter_mm must leave room for a lesion, got {diameter:.1f} and none in "
            f"{MAX_ATTEMPTS} attempts at {(round(x, 1), round(y, 1), round(z, 1))}"
        )

    def _sample(self, region: WallRegion, diameter: float, share: float, seed: int) -> np.ndarray:
        inputs = torch.from_numpy(region.inputs(self.size))[None].to(self.device)
        condition = torch.from_numpy(wall_condition(diameter, share, self.range_mm))[None]
        with torch.inference_mode():
            result = self.inferer(inputs, self.network, condition.to(self.device), seeds=[seed])
        levels = self.clean({"pred": result[0].float().cpu()})["pred"].numpy()
        return lesions_in_wall(levels, region, (INFARCT, NO_REFLOW), share)


def _inward(
    heart: Heart, site_mm: tuple[float, float, float], diameter_mm: float
) -> tuple[float, float, float]:
    """Return the middle of the sphere of a lesion at a site: a large one bends round the cavity."""
    slices = np.flatnonzero(heart.wall.any((0, 1)))
    voxel = apply_affine(np.linalg.inv(heart.affine), site_mm)
    k = int(slices[np.abs(slices - voxel[2]).argmin()])
    middle = np.argwhere((heart.wall | heart.cavity)[..., k]).mean(0)
    part = float(np.interp(diameter_mm, CENTRE_DIAMETERS_MM, CENTRE_RADII))
    moved = middle + part * (voxel[:2] - middle)
    x, y, z = (float(v) for v in apply_affine(heart.affine, (*moved, voxel[2])))
    return x, y, z
