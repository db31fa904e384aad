"""Requests for lesions in the wall of a hollow organ, and the answers of a shape model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel.affines import apply_affine
from scipy import ndimage
from torch import Tensor

from tools.transforms.sphere import Sphere, parse_point, sphere_mask
from tools.transforms.wall import (
    WallCoordinates,
    from_wall,
    middle_angle,
    to_wall,
    wall_coordinates,
)

__all__ = ["WallRegion", "WallRequestd", "WallToScand", "lesions_in_wall", "surest", "wall_region"]

SLICE_STEP = 4  # what the levels of the network divide
BLUR = (1.0, 0.7, 0.4)  # cells of angle, depth, slice: no-reflow in as few pieces as patients have


class WallRegion(NamedTuple):
    """The part of a wall in which lesions may lie.

    Attributes:
        place: coordinates of the whole wall.
        within: True in the wall and the sphere, on the scan's grid.
        middle: angle in the middle of the grid of the wall.
    """

    place: WallCoordinates
    within: np.ndarray
    middle: float

    def inputs(self, size: tuple[int, int], channels: int = 2) -> np.ndarray:
        """Return a sampler's input: -1 per class, then the region, on the grid of the wall.

        Args:
            size: cells round the organ and through its wall.
            channels: lesion classes K.

        Returns:
            float32, shape ``(K + 1, angles, depths, slices)``.
        """
        # at least one empty slice behind the last, as in training: the border of the grid is no end
        slices = SLICE_STEP * (self.place.shape[2] // SLICE_STEP + 1)
        inside = np.nan_to_num(to_wall(self.within, self.place, size, slices, self.middle))
        empty = np.full((channels, *inside.shape), -1.0)
        return np.concatenate([empty, inside[None] > 0]).astype(np.float32)


def wall_region(place: WallCoordinates, affine: np.ndarray, sphere: Sphere) -> WallRegion:
    """Return the part of a wall that lies in a sphere.

    Args:
        place: coordinates of the wall.
        affine: voxel index to RAS mm.
        sphere: round the lesion that shall be generated.

    Raises:
        ValueError: if the sphere holds nothing of the wall.
    """
    within = np.zeros(place.shape, bool)
    within[tuple(place.voxels.T)] = True
    within &= sphere_mask(sphere, affine, place.shape)
    if not within.any():
        raise ValueError(
            f"centre_mm must lie near the wall, got {np.round(sphere.centre_mm, 1).tolist()} with "
            f"diameter_mm {2 * sphere.radius_mm}"
        )
    return WallRegion(place, within, middle_angle(place, affine, sphere.centre_mm))


def lesions_in_wall(
    levels: np.ndarray,
    region: WallRegion,
    labels: Sequence[int] = (3, 4),
    inner_share: float | None = None,
) -> np.ndarray:
    """Return the output of a shape model as a label map on the scan's grid, 0 outside the lesion.

    Args:
        levels: ``(K, angles, depths, slices)``, above 0 inside.
        region: that the model was asked to fill.
        labels: of each class, outermost first; each lies inside the one before.
        inner_share: share of the lesion that becomes the innermost class, exactly: where the model
            is surest of it. None: where the model says so.

    Returns:
        uint8, empty if nothing is above 0.
    """
    result, inside = np.zeros(region.within.shape, np.uint8), region.within
    for number, (label, level) in enumerate(zip(labels, levels, strict=True)):
        if 0 < number == len(levels) - 1 and inner_share is not None:
            # round the ring there is no border; otherwise the surest voxels are scattered ones
            smooth = ndimage.gaussian_filter(level, BLUR, mode=("wrap", "nearest", "nearest"))
            values = from_wall(smooth, region.place, region.middle)
            inside = surest(values, inside, inner_share)
        else:
            inside = inside & (from_wall(level, region.place, region.middle) > 0)
        result[inside] = label
    return result


def surest(values: np.ndarray, outer: np.ndarray, share: float) -> np.ndarray:
    """Return the given share of a mask, where values are highest; of equal ones the first."""
    order = np.argsort(-values[outer], kind="stable")[: round(share * int(outer.sum()))]
    inner = np.zeros(outer.shape, bool)
    inner[tuple(np.argwhere(outer)[order].T)] = True
    return inner


class WallRequestd(MapTransform):
    """Turn a labelled organ into the region of the wall in which lesions shall be generated.

    Args:
        keys: label maps ``(1, H, W, D)`` with an affine, slices along the last axis; become the
            sampler's input ``(K + 1, angles, depths, slices)``: -1 per class, then the region.
        diameter_mm: of the sphere round the lesion.
        centre_mm: RAS mm, near the wall; None: the sample's last click, else a voxel of the wall
            that ``seed`` chooses. See :func:`tools.transforms.sphere.parse_point`.
        wall: labels of all that is wall.
        cavity: labels of the cavity.
        size: cells round the organ and through its wall.
        channels: lesion classes K.
        click_key: entry with a list of voxel indices.
        organ_key: where to leave the label map for :class:`WallToScand`.
        control_key: where to leave ``centre_mm`` and ``radius_mm``, likewise.
        seed: of the choice of a voxel.

    Raises:
        ValueError: if the diameter is not positive, or the sphere holds nothing of the wall.
    """

    def __init__(
        self,
        keys: KeysCollection,
        diameter_mm: float,
        centre_mm: Sequence[float] | str | None = None,
        wall: Sequence[int] = (2, 3, 4),
        cavity: Sequence[int] = (1,),
        size: Sequence[int] = (64, 8),
        channels: int = 2,
        click_key: str = "foreground",
        organ_key: str = "organ",
        control_key: str = "control",
        seed: int = 0,
    ) -> None:
        super().__init__(keys)
        if not (np.isfinite(diameter_mm) and diameter_mm > 0):
            raise ValueError(f"diameter_mm must be > 0, got {diameter_mm}")
        self.diameter_mm, self.seed = float(diameter_mm), seed
        self.centre_mm = parse_point(centre_mm)
        self.wall, self.cavity = list(wall), list(cavity)
        self.size, self.channels = (int(size[0]), int(size[1])), channels
        self.click_key, self.organ_key, self.control_key = click_key, organ_key, control_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the sampler's input, the organ, and the control."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            organ = sample[key]
            affine, label = np.asarray(organ.affine, float), np.asarray(organ[0])
            place = wall_coordinates(np.isin(label, self.wall), affine, np.isin(label, self.cavity))
            centre = self._centre(sample, place, affine)
            sphere = Sphere(centre, self.diameter_mm / 2)
            region = wall_region(place, affine, sphere)
            sample[self.organ_key] = organ
            sample[self.control_key] = {
                "centre_mm": torch.tensor(centre, dtype=torch.float64),
                "radius_mm": torch.tensor(sphere.radius_mm, dtype=torch.float64),
            }
            sample[key] = torch.from_numpy(region.inputs(self.size, self.channels))
        return sample

    def _centre(
        self, sample: Mapping[Hashable, Any], place: WallCoordinates, affine: np.ndarray
    ) -> tuple[float, float, float]:
        clicks = sample.get(self.click_key)
        if self.centre_mm is not None:
            point = np.asarray(self.centre_mm, float)
        elif clicks is not None and len(clicks) > 0:
            point = apply_affine(affine, np.asarray(clicks, float).reshape(-1, 3)[-1])
        else:
            rng = np.random.default_rng(self.seed)
            point = apply_affine(affine, place.voxels[rng.integers(len(place.voxels))])
        x, y, z = (float(value) for value in point)
        return x, y, z


class WallToScand(MapTransform):
    """Turn the output of a shape model into lesions of a label map on the scan's grid.

    Args:
        keys: predictions ``(K, angles, depths, slices)``, above 0 inside; become ``(1, H, W, D)``.
        labels: label of each class, outermost first; each lies inside the one before.
        wall: labels of all that is wall; nothing else is changed.
        cavity: labels of the cavity.
        organ_key: label map that :class:`WallRequestd` left.
        control_key: sphere, likewise.
        keep_organ: lesions are drawn into the label map; False: into an empty one.
        inner_share: share of the lesion that becomes the innermost class, exactly: where the model
            is surest of it. None: where the model says so, which small lesions rarely get.

    Raises:
        ValueError: if the prediction holds no lesion: draw again, with another seed; or if
            ``inner_share`` is outside 0..1.
    """

    def __init__(
        self,
        keys: KeysCollection,
        labels: Sequence[int] = (3, 4),
        wall: Sequence[int] = (2, 3, 4),
        cavity: Sequence[int] = (1,),
        organ_key: str = "organ",
        control_key: str = "control",
        keep_organ: bool = True,
        inner_share: float | None = None,
    ) -> None:
        super().__init__(keys)
        if inner_share is not None and not 0 <= inner_share <= 1:
            raise ValueError(f"inner_share must be in 0..1, got {inner_share}")
        self.labels, self.wall, self.cavity = list(labels), list(wall), list(cavity)
        self.organ_key, self.control_key, self.keep_organ = organ_key, control_key, keep_organ
        self.inner_share = inner_share

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the label map."""
        sample = dict(data)
        organ, control = sample[self.organ_key], sample[self.control_key]
        affine, label = np.asarray(organ.affine, float), np.asarray(organ[0])
        place = wall_coordinates(np.isin(label, self.wall), affine, np.isin(label, self.cavity))
        x, y, z = (float(value) for value in control["centre_mm"])
        region = wall_region(place, affine, Sphere((x, y, z), float(control["radius_mm"])))
        for key in self.key_iterator(sample):
            levels = torch.as_tensor(sample[key]).as_subclass(Tensor).float().cpu().numpy()
            lesions = lesions_in_wall(levels, region, self.labels, self.inner_share)
            if not lesions.any():
                raise ValueError(f"{key} must hold a lesion, got an empty prediction")
            kept = label.astype(np.uint8) if self.keep_organ else np.zeros(label.shape, np.uint8)
            result = np.where(lesions > 0, lesions, kept)
            sample[key] = MetaTensor(torch.from_numpy(result)[None], meta=organ.meta)
        return sample
