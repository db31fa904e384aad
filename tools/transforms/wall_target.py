"""Lesions of nested classes in the wall of a hollow organ: what their shape model is trained on.

On a grid of angle, depth and slice all walls look alike: thin rings of any size become rectangles,
and a model learns where lesions spread along and through a wall from a few dozen patients.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from tools.transforms.sphere import attribute_condition, enclosing_sphere, sphere_mask
from tools.transforms.wall import to_wall, wall_coordinates, wall_level

__all__ = ["WallTargetd", "wall_condition"]

RANGE_MM = (10.0, 120.0)  # of spheres that a model tells apart
LARGEST_SHARE = 0.5


def wall_condition(
    diameter_mm: float,
    inner_share: float | None = None,
    range_mm: Sequence[float] = RANGE_MM,
) -> np.ndarray:
    """Return what a shape model of nested classes is told beside the region, shape ``(16,)``.

    Args:
        diameter_mm: of the sphere.
        inner_share: share of the lesion that is of the innermost class, 0..1 (half and more are
            told alike); None leaves it to the model.
        range_mm: smallest and largest diameter that the model tells apart.

    Raises:
        ValueError: if the diameter is not positive or the share is outside 0..1.

    Example:
        >>> wall_condition(10.0, inner_share=0.0)[8:12].tolist()
        [1.0, 0.0, 0.0, 0.0]
    """
    score = None
    if inner_share is not None:
        if not 0 <= inner_share <= 1:
            raise ValueError(f"inner_share must be in 0..1, got {inner_share}")
        score = 1 + 4 * min(1.0, inner_share / LARGEST_SHARE)
    low, high = (float(value) for value in range_mm)
    return attribute_condition(diameter_mm, score, range_mm=(low, high))


class WallTargetd(MapTransform):
    """Turn a label map into the target of a shape model, its region and its condition.

    The region is the wall within the smallest sphere round the outermost class, as seen on the grid
    of the wall, whose first axis is centred on the lesion. Without a lesion the region is empty and
    nothing is learned from the sample.

    Args:
        keys: label maps ``(1, H, W, D)`` with an affine, slices along the last axis; become targets
            ``(K, angles, depths, slices)`` in [-1, 1], positive inside the lesion.
        classes: labels of each class. Nested: those of a class are among those of the one before,
            as no-reflow lies inside an infarct.
        wall: labels of all that is wall, lesions included.
        cavity: labels of the cavity.
        size: cells round the organ and through its wall.
        slices: of the grid, so that samples make a batch.
        band: the target is the distance to the outline within the slice in cells, divided by this
            and clipped.
        region_key: where to write the region, 1 inside.
        condition_key: where to write the condition, see :func:`wall_condition`.
        range_mm: smallest and largest diameter that the model tells apart.
        allow_missing_keys: skip samples without the label map.

    Raises:
        ValueError: if the classes are not nested, or a label map has no wall or too many slices.
    """

    def __init__(
        self,
        keys: KeysCollection,
        classes: Sequence[Sequence[int]],
        wall: Sequence[int],
        cavity: Sequence[int],
        size: Sequence[int] = (64, 8),
        slices: int = 12,
        band: float = 2.0,
        region_key: str = "label",
        condition_key: str = "condition",
        range_mm: Sequence[float] = RANGE_MM,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        for outer, inner in zip([wall, *classes], classes, strict=False):
            if not set(inner) <= set(outer):
                raise ValueError(f"classes must be nested within wall, got {classes} in {wall}")
        self.classes, self.wall, self.cavity = classes, list(wall), list(cavity)
        self.size, self.slices, self.band = (int(size[0]), int(size[1])), slices, band
        self.region_key, self.condition_key = region_key, condition_key
        self.range_mm = (float(range_mm[0]), float(range_mm[1]))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with target, region and condition."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            affine, label = np.asarray(sample[key].affine, float), np.asarray(sample[key][0])
            if label.shape[2] > self.slices:
                raise ValueError(f"slices must be {label.shape[2]} or more, got {self.slices}")
            wall = np.isin(label, self.wall)
            place = wall_coordinates(wall, affine, np.isin(label, self.cavity))
            lesions = [np.isin(label, group) for group in self.classes]
            region, middle, diameter, share = np.zeros_like(wall), 0.0, self.range_mm[0], 0.0
            if lesions[0].any():
                sphere = enclosing_sphere(lesions[0], affine)
                region = wall & sphere_mask(sphere, affine, wall.shape)
                angles = place.angle[lesions[0][tuple(place.voxels.T)]]
                middle = float(np.angle(np.exp(1j * angles).mean()))
                diameter = max(2 * sphere.radius_mm, 1.0)
                share = float(lesions[-1].sum() / lesions[0].sum())
            grid = place, self.size, self.slices, middle
            inside = np.nan_to_num(to_wall(region, *grid)) > 0
            masks = [np.nan_to_num(to_wall(mask, *grid)) > 0 for mask in lesions]
            levels = [wall_level(mask, self.band) for mask in masks]
            target = np.where(inside, np.stack(levels), -1.0).astype(np.float32)
            sample[key] = torch.from_numpy(target)
            sample[self.region_key] = torch.from_numpy(inside).float()[None]
            condition = wall_condition(diameter, share if len(lesions) > 1 else None, self.range_mm)
            sample[self.condition_key] = torch.from_numpy(condition)
        return sample
