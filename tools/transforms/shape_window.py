"""From a lesion's mask to what a shape model is trained on: target, control sphere, condition."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from scipy import ndimage
from torch import Tensor

from tools.transforms.sphere import attribute_condition, enclosing_sphere, sphere_mask
from tools.transforms.window import WindowGrid, cut_window

__all__ = ["ControlSphered", "RandBoundaryd", "ShapeWindowd", "shape_grid"]

SMOOTHING_VOXELS = 0.6  # takes the staircase of the outline's own grid away, not its lobes
SMALLEST_RADIUS_MM = 1.5


def shape_grid(
    centre_mm: tuple[float, float, float], radius_mm: float, size: int = 32, fill: float = 0.75
) -> WindowGrid:
    """Return the window of a shape: its sphere fills the same part of it whatever its size.

    Args:
        centre_mm: of the control sphere, RAS mm.
        radius_mm: of the control sphere.
        size: voxels per side.
        fill: diameter of the sphere over the side of the window.
    """
    return WindowGrid.around(centre_mm, (size,) * 3, 2 * radius_mm / (fill * size))


class ShapeWindowd(MapTransform):
    """Cut each lesion mask to a window scaled to its own smallest enclosing sphere.

    Lesions of 4 and of 30 mm so become alike in size, and one small network learns from all of
    them; how large the lesion is goes into ``condition``.

    Args:
        keys: masks, channel first with an affine (MetaTensor); become ``(1, N, N, N)`` in [0, 1].
        size: voxels per side of the window, N.
        fill: diameter of the sphere over the side of the window.
        rating_keys: entries of the sample with the scores of spiculation and lobulation; where they
            are missing, so is the score.
        condition_key: where to write the condition, see
            :func:`tools.transforms.sphere.attribute_condition`.
        allow_missing_keys: skip samples without the mask.

    Raises:
        ValueError: if a mask is empty.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: int = 32,
        fill: float = 0.75,
        rating_keys: tuple[str, str] = ("spiculation", "lobulation"),
        condition_key: str = "condition",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size, self.fill = size, fill
        self.rating_keys, self.condition_key = tuple(rating_keys), condition_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with windows in place of masks, and with the condition."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            affine = np.asarray(sample[key].affine, float)
            mask = np.asarray(sample[key][0]) > 0
            centre, radius = enclosing_sphere(mask, affine)
            # voxels reach half their width beyond their centres
            radius = max(radius + 0.5 * abs(np.linalg.det(affine[:3, :3])) ** (1 / 3), 0.0)
            grid = shape_grid(centre, max(radius, SMALLEST_RADIUS_MM), self.size, self.fill)
            smooth = ndimage.gaussian_filter(mask.astype(np.float32), SMOOTHING_VOXELS)
            window = cut_window(smooth, affine, grid, beyond=0.0)
            sample[key] = torch.from_numpy(window * (0.5 / _level(smooth, mask)))[None]
            scores = [sample.get(name) for name in self.rating_keys]
            values = attribute_condition(
                2 * radius, *(None if s is None else float(s) for s in scores)
            )
            sample[self.condition_key] = torch.from_numpy(values)
        return sample


def _level(smooth: np.ndarray, mask: np.ndarray) -> float:
    """Return the level whose surface holds as many voxels as the mask, at most half the peak.

    The smallest lesions are little but peak once they are smoothed.
    """
    same_volume = np.sort(smooth, axis=None)[-int(mask.sum())]
    return float(min(same_volume, smooth.max() / 2))


class ControlSphered(MapTransform):
    """Turn a soft mask into the target in {-1, 1} and its control sphere.

    Args:
        keys: soft masks ``(1, N, N, N)``, the outline at 0.5; become the target.
        sphere_key: where to write the smallest enclosing sphere, 1 inside.
        allow_missing_keys: skip samples without the mask.

    Raises:
        ValueError: if nothing of a mask is above 0.5.
    """

    def __init__(
        self, keys: KeysCollection, sphere_key: str = "label", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.sphere_key = sphere_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with target and sphere."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            inside = torch.as_tensor(sample[key]).as_subclass(Tensor) >= 0.5
            sphere = enclosing_sphere(inside[0].numpy(), np.eye(4))
            drawn = sphere_mask(sphere, np.eye(4), inside.shape[1:])
            sample[key] = inside.float() * 2 - 1
            sample[self.sphere_key] = torch.from_numpy(drawn).float()[None]
        return sample


class RandBoundaryd(Randomizable, MapTransform):
    """Cut the sphere by a plane that spares the lesion, as the pleura would.

    Trained so, a model keeps within what is left of the sphere and shapes the lesion to it.

    Args:
        keys: control spheres ``(1, N, N, N)``.
        target_key: the lesion in {-1, 1}.
        prob: probability of a cut.
        allow_missing_keys: skip samples without the sphere.
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
        """Return the sample with the cut spheres."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            if self.R.random() >= self.prob:
                continue
            normal = self.R.normal(size=3)
            normal /= np.linalg.norm(normal)
            axes = [torch.arange(n, dtype=torch.float32) for n in sample[key].shape[1:]]
            grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
            heights = grid @ torch.as_tensor(normal, dtype=torch.float32)
            top = heights[sample[self.target_key][0] > 0].max()
            gap = float(self.R.exponential(1.0))
            sample[key] = sample[key] * (heights <= top + gap)
        return sample
