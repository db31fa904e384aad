"""A computed chest CT: the embedded scan on which everything runs without a download."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tools.phantoms.branching import grow_tree
from tools.phantoms.chest_anatomy import Build, Frame, Volume, heart_distance, lung_distance
from tools.phantoms.chest_painter import ChestPainter
from tools.phantoms.ct_noise import ct_noise

__all__ = ["ChestPhantom", "chest_ct"]

_LEAVES = {"artery": 4600, "vein": 4000}
_ROOTS_MM = {
    "artery": ((41.0, -15.0, 11.0), (-45.0, -21.0, 11.0)),
    "vein": ((30.0, -8.0, -10.0), (-36.0, -12.0, -8.0)),
}


class ChestPhantom(NamedTuple):
    """A chest CT with everything known about it.

    Attributes:
        image: HU, int16 ``(I, J, K)``, axes to the right, to the front and to the head (RAS).
        lung_mask: 1 in the lungs, vessels and nodules inside them included.
        vessel_mask: 1 in vessels and airway walls of the lungs.
        lesion_mask: 1 in nodules; all 0 in a healthy phantom.
        affine: ``(4, 4)``, voxel indices to mm.
    """

    image: NDArray[np.int16]
    lung_mask: NDArray[np.uint8]
    vessel_mask: NDArray[np.uint8]
    lesion_mask: NDArray[np.uint8]
    affine: NDArray[np.float64]


def chest_ct(
    shape: tuple[int, int, int] = (192, 160, 144),
    spacing_mm: float | tuple[float, float, float] = 2.0,
    seed: int = 0,
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    noise_hu: float = 25.0,
) -> ChestPhantom:
    """Compute a healthy, unenhanced chest CT of an adult on its back.

    The anatomy is defined in mm in a body-fixed frame, so grids of any spacing, shape and centre
    show the same body (only the noise and the fine texture differ). Lungs with branching arteries,
    veins and airways, fissures, heart, great vessels, bones, muscles, fat, upper abdomen and
    table; blurred by a point-spread function and given noise with a reconstruction's spectrum.

    Args:
        shape: voxels per axis; the default holds the whole chest (384 x 320 x 288 mm).
        spacing_mm: voxel size, one number or one per axis.
        seed: of body, trees and noise.
        centre_mm: position of the grid's centre in the body; (0, 0, 0) lies between the hila.
        noise_hu: standard deviation of the noise in soft tissue; a fifth more in the lungs.

    Raises:
        ValueError: if ``shape`` has an axis below 8 voxels, or the spacing is not positive.

    Example:
        >>> phantom = chest_ct((24, 20, 18), spacing_mm=16.0)
        >>> phantom.image.shape, bool(phantom.lesion_mask.any())
        ((24, 20, 18), False)
    """
    spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=float), 3)
    if len(shape) != 3 or min(shape) < 8:
        raise ValueError(f"shape must be three axes of at least 8 voxels, got {tuple(shape)}")
    if (spacing <= 0).any():
        raise ValueError(f"spacing_mm must be > 0, got {spacing_mm}")
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.asarray(centre_mm) - spacing * (np.array(shape) - 1) / 2
    axes = tuple(affine[a, 3] + spacing[a] * np.arange(shape[a]) for a in range(3))
    rng = np.random.default_rng([seed, 4])
    body, trees = _body(seed)
    sharp, lung, vessel = ChestPainter(axes, body).paint(trees, rng)
    steps = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    image = _acquire(sharp, lung, steps, noise_hu, rng)
    vessel_mask = ((vessel > 0.35) & (lung > 0.5)).astype(np.uint8)
    lung_mask = (lung > 0.5).astype(np.uint8)
    return ChestPhantom(image, lung_mask, vessel_mask, np.zeros(shape, np.uint8), affine)


def _acquire(
    image: Volume,
    lung: Volume,
    spacing_mm: tuple[float, float, float],
    noise_hu: float,
    rng: np.random.Generator,
) -> NDArray[np.int16]:
    """Blur and add noise as a scanner does; values below air are cut off at -1024 HU."""
    blurred = ndimage.gaussian_filter(image, 0.55 / np.array(spacing_mm))
    noise = ct_noise(image.shape, spacing_mm, rng) * np.float32(noise_hu)
    noise *= np.where(image < -990, np.float32(0.6), 1 + np.float32(0.2) * lung)
    return np.clip(np.round(blurred + noise), -1024, 3071).astype(np.int16)


@lru_cache(maxsize=4)
def _body(seed: int) -> tuple[Build, dict[str, NDArray[np.float64]]]:
    """Return the build and the vessel and airway trees of a seed, the same for every grid."""
    rng = np.random.default_rng([seed, 5])
    build = Build.draw(rng)
    axes = tuple(np.arange(-extent, extent, 5.0) for extent in (160.0, 130.0, 150.0))
    frame = Frame(axes, build)
    inside = lung_distance(frame, heart_distance(frame)) > 2.0
    cloud = np.argwhere(inside) * 5.0 + [axis[0] for axis in axes]
    cloud = (cloud + rng.uniform(-2.5, 2.5, cloud.shape)) / build.scale
    trees: dict[str, NDArray[np.float64]] = {}
    for kind, leaves in _LEAVES.items():
        grown = []
        for side, root in zip((1, -1), _ROOTS_MM[kind], strict=True):
            lung = cloud[cloud[:, 0] * side > 0]
            chosen = lung[rng.choice(len(lung), min(leaves, len(lung)), replace=False)]
            radius = 7.0 if kind == "artery" else 6.0
            grown.append(grow_tree(chosen, np.array(root), radius, rng))
        trees[kind] = np.concatenate(grown)
    trees["airway"] = _airways_along(trees["artery"])
    return build, trees


def _airways_along(arteries: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return airways that run beside the arteries, down to a lumen of 1.4 mm."""
    airways = arteries[arteries[:, 7] > 1.0].copy()
    beside = np.array([0.25, -0.55, 0.8])
    airways[:, :3] += 1.75 * airways[:, 6:7] * beside
    airways[:, 3:6] += 1.75 * airways[:, 7:8] * beside
    airways[:, 6:] *= 0.68
    return airways
