"""Requests for lesions in the wall of a hollow organ, and the answers of a shape model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from nibabel.affines import apply_affine
from torch import Tensor

from tools.transforms.sphere import Sphere, sphere_mask
from tools.transforms.wall import (
    WallCoordinates,
    from_wall,
    middle_angle,
    to_wall,
    wall_coordinates,
)

__all__ = ["WallRequestd", "WallToScand"]

SLICE_STEP = 4  # what the levels of the network divide


class WallRequestd(MapTransform):
    """Turn a labelled organ into the region of the wall in which lesions shall be generated.

    Args:
        keys: label maps ``(1, H, W, D)`` with an affine, slices along the last axis; become the
            sampler's input ``(K + 1, angles, depths, slices)``: -1 per class, then the region.
        diameter_mm: of the sphere round the lesion.
        centre_mm: RAS mm, near the wall; None: the sample's click, else a voxel of the wall that
            ``seed`` chooses.
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
        centre_mm: Sequence[float] | None = None,
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
        if centre_mm is not None and len(centre_mm) != 3:
            raise ValueError(f"centre_mm must be three numbers (RAS mm), got {centre_mm}")
        self.diameter_mm, self.centre_mm, self.seed = float(diameter_mm), centre_mm, seed
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
            region = np.isin(label, self.wall) & sphere_mask(sphere, affine, label.shape)
            if not region.any():
                raise ValueError(
                    f"centre_mm must lie near the wall, got {np.round(centre, 1).tolist()} with "
                    f"diameter_mm {self.diameter_mm}"
                )
            slices = SLICE_STEP * int(np.ceil(label.shape[2] / SLICE_STEP))
            middle = middle_angle(place, affine, centre)
            inside = np.nan_to_num(to_wall(region, place, self.size, slices, middle))
            empty = np.full((self.channels, *inside.shape), -1.0)
            inputs = np.concatenate([empty, inside[None] > 0]).astype(np.float32)
            sample[self.organ_key] = organ
            sample[self.control_key] = {
                "centre_mm": torch.tensor(centre, dtype=torch.float64),
                "radius_mm": torch.tensor(sphere.radius_mm, dtype=torch.float64),
            }
            sample[key] = torch.from_numpy(inputs)
        return sample

    def _centre(
        self, sample: Mapping[Hashable, Any], place: WallCoordinates, affine: np.ndarray
    ) -> tuple[float, float, float]:
        clicks = sample.get(self.click_key)
        if self.centre_mm is not None:
            point = np.asarray(self.centre_mm, float)
        elif clicks is not None and len(clicks) > 0:
            point = apply_affine(affine, np.asarray(clicks, float).reshape(-1, 3)[0])
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
        within = sphere_mask(Sphere((x, y, z), float(control["radius_mm"])), affine, label.shape)
        middle = middle_angle(place, affine, (x, y, z))
        for key in self.key_iterator(sample):
            levels = torch.as_tensor(sample[key]).as_subclass(Tensor).float().cpu().numpy()
            result = label.astype(np.uint8) if self.keep_organ else np.zeros(label.shape, np.uint8)
            inside = within
            for number, (name, level) in enumerate(zip(self.labels, levels, strict=True)):
                values = from_wall(level, place, middle)
                last = 0 < number == len(levels) - 1
                inside = self._share(values, inside) if last else inside & (values > 0)
                if number == 0 and not inside.any():
                    raise ValueError(f"{key} must hold a lesion, got an empty prediction")
                result[inside] = name
            sample[key] = MetaTensor(torch.from_numpy(result)[None], meta=organ.meta)
        return sample

    def _share(self, values: np.ndarray, outer: np.ndarray) -> np.ndarray:
        """Return the innermost class within the one before."""
        if self.inner_share is None:
            return outer & (values > 0)
        count = round(self.inner_share * int(outer.sum()))
        inner = np.zeros(outer.shape, bool)
        surest = np.argsort(-values[outer], kind="stable")[:count]
        inner[tuple(np.argwhere(outer)[surest].T)] = True
        return inner
