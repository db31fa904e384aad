"""Lesions of several nested classes inside an organ: what their shape model is trained on."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from tools.transforms.shape_grid import REGION_MARGIN, slice_grid
from tools.transforms.signed_distance import signed_distance
from tools.transforms.sphere import Sphere, attribute_condition, enclosing_sphere, sphere_mask
from tools.transforms.window import cut_window

__all__ = ["OrganTargetd", "OrganWindowd"]


class OrganWindowd(MapTransform):
    """Cut a label map of thick slices to a window round an organ, one soft mask per class.

    Args:
        keys: label maps ``(1, H, W, D)`` with an affine; become ``(K + 1, N, M, S)`` in [0, 1], the
            organ last.
        classes: labels of each lesion class. Nested: those of a class are among those of the one
            before, as no-reflow lies inside an infarct.
        organ: labels of all that is organ, lesions included.
        size: voxels of the window within the slice.
        spacing_mm: voxel size within the slice.
        allow_missing_keys: skip samples without the label map.

    Raises:
        ValueError: if the classes are not nested, or a label map holds no organ.
    """

    def __init__(
        self,
        keys: KeysCollection,
        classes: Sequence[Sequence[int]],
        organ: Sequence[int],
        size: Sequence[int] = (64, 64),
        spacing_mm: float = 1.6,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        for outer, inner in zip([organ, *classes], classes, strict=False):
            if not set(inner) <= set(outer):
                raise ValueError(f"classes must be nested within organ, got {classes} in {organ}")
        self.groups = [list(group) for group in (*classes, organ)]
        self.size, self.spacing_mm = tuple(size), spacing_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with windows in place of label maps."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            affine = np.asarray(sample[key].affine, float)
            label = np.asarray(sample[key][0])
            masks = [np.isin(label, group) for group in self.groups]
            grid = slice_grid(masks[-1], affine, self.size, self.spacing_mm)
            window = np.stack([cut_window(mask, affine, grid, beyond=0.0) for mask in masks])
            sample[key] = MetaTensor(torch.from_numpy(window), affine=torch.from_numpy(grid.affine))
        return sample


class OrganTargetd(MapTransform):
    """Turn soft masks of lesions and organ into the target, the region and the condition.

    The region is the organ within the smallest sphere round the outermost class. Without a lesion
    it is empty and nothing is learned from the sample.

    Args:
        keys: windows of :class:`OrganWindowd`; become targets ``(K, N, M, S)`` in [-1, 1].
        spacing_mm: voxel size along the axes of the window.
        band: the target is the distance to the outline within the slice, positive inside, divided
            by this many voxels and clipped.
        region_key: where to write the region, 1 inside.
        condition_key: where to write the condition, see
            :func:`tools.transforms.sphere.attribute_condition`; it tells the sphere's diameter.
        range_mm: smallest and largest diameter that the model tells apart.
        allow_missing_keys: skip samples without the window.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing_mm: Sequence[float],
        band: float = 2.0,
        region_key: str = "label",
        condition_key: str = "condition",
        range_mm: tuple[float, float] = (10.0, 120.0),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.affine = np.diag([*spacing_mm, 1.0])
        self.band, self.range_mm = band, tuple(range_mm)
        self.region_key, self.condition_key = region_key, condition_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with target, region and condition."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            masks = torch.as_tensor(sample[key]).as_subclass(Tensor).numpy() >= 0.5
            lesions, organ = masks[:-1] & masks[-1:], masks[-1]
            region, diameter = np.zeros_like(organ), 2 * self.range_mm[0]
            if lesions[0].any():
                sphere = enclosing_sphere(lesions[0], self.affine)
                wide = sphere.radius_mm + REGION_MARGIN * self.affine[0, 0]
                within = sphere_mask(Sphere(sphere.centre_mm, wide), self.affine, organ.shape)
                region, diameter = organ & within, max(2 * sphere.radius_mm, 1.0)
            target = np.stack([np.where(region, self._level(mask), -1.0) for mask in lesions])
            condition = attribute_condition(diameter, range_mm=self.range_mm)  # type: ignore[arg-type]
            sample[key] = torch.from_numpy(target.astype(np.float32))
            sample[self.region_key] = torch.from_numpy(region).float()[None]
            sample[self.condition_key] = torch.from_numpy(condition)
        return sample

    def _level(self, mask: np.ndarray) -> np.ndarray:
        """Return the clipped distance within each slice."""
        if not mask.any():
            return np.full(mask.shape, -1.0)
        far = (1.0, 1.0, 10.0 * max(mask.shape))  # other slices never are the nearest
        return np.clip(signed_distance(mask, far, (0.5, 0.5, 0.0)) / self.band, -1, 1)
