"""From a lesion's mask to what a shape model is trained on: target, control sphere, condition."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from scipy import ndimage
from torch import Tensor

from tools.transforms.shape_grid import (
    FILL,
    REGION_MARGIN,
    SMALLEST_RADIUS_MM,
    half_voxel_mm,
    shape_grid,
)
from tools.transforms.signed_distance import signed_distance
from tools.transforms.sphere import (
    DIAMETER_BINS,
    Sphere,
    attribute_condition,
    enclosing_sphere,
    sphere_mask,
)
from tools.transforms.window import cut_window

__all__ = ["ControlSphered", "RandBoundaryd", "RandDropScoresd", "ShapeWindowd"]

SMOOTHING_VOXELS = 0.3  # takes the staircase of the outline's own grid away, not its lobes


class ShapeWindowd(MapTransform):
    """Cut each lesion mask to a window scaled to its own smallest enclosing sphere.

    Lesions of 4 and of 30 mm so become alike in size, and one small network learns from all of
    them; how large the lesion is goes into ``condition``.

    Args:
        keys: masks, channel first with an affine (MetaTensor); become ``(1, N, N, N)``,
            soft: 0 far outside, the outline at 0.5, 1 and more inside.
        size: voxels per side of the window, N, or one number per axis.
        fill: diameter of the sphere over the side of the window.
        spacing_mm: voxel size of the window instead of one that follows from ``fill``.
        rating_keys: entries of the sample with the scores of spiculation and lobulation; where they
            are missing, so is the score.
        condition_key: where to write the condition, see
            :func:`tools.transforms.sphere.attribute_condition`.
        radius_key: where to write the radius of the sphere in voxels of the window.
        allow_missing_keys: skip samples without the mask.

    Raises:
        ValueError: if a mask is empty.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: int | Sequence[int] = 24,
        fill: float = FILL,
        spacing_mm: float | None = None,
        rating_keys: tuple[str, str] = ("spiculation", "lobulation"),
        condition_key: str = "condition",
        radius_key: str = "sphere_radius",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size, self.fill, self.spacing_mm = size, fill, spacing_mm
        self.rating_keys = tuple(rating_keys)
        self.condition_key, self.radius_key = condition_key, radius_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with windows in place of masks, and with the condition."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            affine = np.asarray(sample[key].affine, float)
            mask = np.asarray(sample[key][0]) > 0
            centre, radius = enclosing_sphere(mask, affine)
            # voxels reach half their width beyond their centres
            radius += half_voxel_mm(affine)
            grid = shape_grid(centre, radius, self.size, self.fill, self.spacing_mm)
            smooth = ndimage.gaussian_filter(mask.astype(np.float32), SMOOTHING_VOXELS)
            window = cut_window(smooth, affine, grid, beyond=0.0)
            sample[key] = torch.from_numpy(window * (0.5 / _level(smooth, mask)))[None]
            first, second = (sample.get(name) for name in self.rating_keys)
            values = attribute_condition(
                2 * radius,
                None if first is None else float(first),
                None if second is None else float(second),
            )
            sample[self.condition_key] = torch.from_numpy(values)
            sample[self.radius_key] = max(radius, SMALLEST_RADIUS_MM) / grid.affine[0, 0]
        return sample


def _level(smooth: np.ndarray, mask: np.ndarray) -> float:
    """Return the level whose surface holds as many voxels as the mask, at most half the peak.

    The smallest lesions are little but peak once they are smoothed.
    """
    place = smooth.size - int(mask.sum())
    same_volume = np.partition(smooth, place, axis=None)[place]
    return float(min(same_volume, smooth.max() / 2))


class ControlSphered(MapTransform):
    """Turn a soft mask into the target of a shape model and the region in which it is generated.

    The region is the sphere that :class:`ShapeWindowd` centred in the window, so turn and mirror
    windows only. It is wider by ``margin``, so that the surface of a lesion that touches it can be
    told from both sides. Outside the region the target is -1, no lesion.

    Args:
        keys: soft masks ``(1, N, N, N)``, the outline at 0.5; become the target in [-1, 1],
            positive inside the lesion.
        sphere_key: where to write the region, 1 inside.
        band: the target is the distance to the outline, positive inside, divided by this many
            voxels and clipped; None gives the mask itself in {-1, 1} (LeFusion, section 3.3).
        radius_key: entry with the radius of the sphere in voxels.
        margin: voxels round the sphere.
        allow_missing_keys: skip samples without the mask.

    Raises:
        ValueError: if nothing of a mask is above 0.5, or ``band`` is not positive.
    """

    def __init__(
        self,
        keys: KeysCollection,
        sphere_key: str = "label",
        band: float | None = 3.0,
        radius_key: str = "sphere_radius",
        margin: float = REGION_MARGIN,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if band is not None and not band > 0:
            raise ValueError(f"band must be > 0 voxels, got {band}")
        self.sphere_key, self.radius_key = sphere_key, radius_key
        self.band, self.margin = band, margin

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with target and region."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            inside = torch.as_tensor(sample[key]).as_subclass(Tensor)[0].numpy() >= 0.5
            if not inside.any():
                raise ValueError(f"{key} must hold a lesion, got none above 0.5")
            radius = float(sample[self.radius_key])
            x, y, z = ((n - 1) / 2 for n in inside.shape)
            region = sphere_mask(Sphere((x, y, z), radius + self.margin), np.eye(4), inside.shape)
            target = np.where(region, self._target(inside), -1.0).astype(np.float32)
            sample[key] = torch.from_numpy(target)[None]
            sample[self.sphere_key] = torch.from_numpy(region).float()[None]
        return sample

    def _target(self, inside: np.ndarray) -> np.ndarray:
        if self.band is None:
            return inside * 2.0 - 1.0
        return np.clip(signed_distance(inside) / self.band, -1, 1)


class RandDropScoresd(Randomizable, MapTransform):
    """Take the scores out of a condition, so that a model also works where nobody rated a lesion.

    Args:
        keys: conditions of :func:`tools.transforms.sphere.attribute_condition`.
        prob: probability that both scores are left out.
        allow_missing_keys: skip samples without the condition.
    """

    def __init__(
        self, keys: KeysCollection, prob: float = 0.3, allow_missing_keys: bool = False
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.prob = prob

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample, its scores unknown with probability ``prob``."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            if self.R.random() < self.prob:
                sample[key] = sample[key].clone()
                sample[key][DIAMETER_BINS:] = 0
        return sample


class RandBoundaryd(Randomizable, MapTransform):
    """Cut the region by a plane that spares the lesion, as the pleura would.

    Trained so, a model keeps within what is left of the sphere and shapes the lesion to it. A
    sample without a lesion is left as it is.

    Args:
        keys: regions ``(1, N, N, N)``.
        target_key: the target, positive inside the lesion; becomes -1 outside what is left.
        prob: probability of a cut.
        allow_missing_keys: skip samples without the region.
    """

    def __init__(
        self,
        keys: KeysCollection,
        target_key: str = "image",
        prob: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.target_key, self.prob = target_key, prob

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with cut regions and the target within them."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            if self.R.random() >= self.prob:
                continue
            normal = self.R.normal(size=3)
            normal /= np.linalg.norm(normal)
            axes = [torch.arange(n, dtype=torch.float32) for n in sample[key].shape[1:]]
            grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
            heights = grid @ torch.as_tensor(normal, dtype=torch.float32)
            target = sample[self.target_key]
            if not (target[0] > 0).any():
                continue
            top = heights[target[0] > 0].max()
            kept = heights <= top + float(self.R.exponential(1.0))
            sample[key] = sample[key] * kept
            sample[self.target_key] = torch.where(kept, target, -1.0)
        return sample
