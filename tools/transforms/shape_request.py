"""From a wanted sphere in a scan to the window of a shape model, and from its output to a mask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage
from torch import Tensor

from tools.transforms.shape_grid import (
    FILL,
    ShapeWindow,
    fit_grid,
    half_voxel_mm,
    shape_on_scan,
)
from tools.transforms.sphere import Sphere, parse_point
from tools.transforms.window import WindowGrid

__all__ = ["LoadMaskd", "ShapeRequestd", "ShapeToScand"]


class LoadMaskd(MapTransform):
    """Load masks that a sample may do without: a missing entry stays missing.

    MONAI's ``LoadImaged`` with ``allow_missing_keys`` does the same, but MONAI Label replaces it by
    a loader that wants all of its keys.

    Args:
        keys: entries with a path; anything else is left alone. Masks become ``(1, H, W, D)``.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.load = LoadImage(ensure_channel_first=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with its masks loaded."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            if isinstance(sample[key], (str, PathLike)):
                sample[key] = self.load(sample[key])
        return sample


class ShapeRequestd(MapTransform):
    """Turn a scan into the window in which a lesion shape shall be generated.

    Only the grid of the scan is used. The centre is ``centre_mm``, else the last point of the
    sample's ``click_key`` (voxel index, as MONAI Label sends all clicks so far), else the voxel
    deepest inside the boundary, else the middle voxel of the scan.

    Args:
        keys: scan, channel first with an affine (MetaTensor); becomes the sampler's input
            ``(K + 1, N, N, N)``: -1 per class, then the region.
        diameter_mm: of the sphere round the lesion, at least the size of a voxel.
        centre_mm: RAS mm, or None, see :func:`tools.transforms.sphere.parse_point`.
        boundary_key: mask of where the lesion may lie, on the scan's grid; where it is missing a
            mask of ones is written.
        click_key: entry with a list of voxel indices.
        size: voxels per side of the window.
        fill: diameter of the sphere over the side of the window.
        spacing_mm: voxel size of the window instead of one that follows from ``fill``.
        channels: lesion classes K.
        control_key: where to leave ``centre_mm``, ``radius_mm`` and ``window_affine`` for
            :class:`ShapeToScand`.

    Raises:
        ValueError: if diameter or centre are not usable, or the sphere holds no voxel in which the
            lesion may lie.
    """

    def __init__(
        self,
        keys: KeysCollection,
        diameter_mm: float,
        centre_mm: Sequence[float] | str | None = None,
        boundary_key: str = "boundary",
        click_key: str = "foreground",
        size: int | Sequence[int] = 24,
        fill: float = FILL,
        spacing_mm: float | None = None,
        channels: int = 1,
        control_key: str = "control",
    ) -> None:
        super().__init__(keys)
        if not (np.isfinite(diameter_mm) and diameter_mm > 0):
            raise ValueError(f"diameter_mm must be > 0, got {diameter_mm}")
        self.diameter_mm, self.centre_mm = float(diameter_mm), parse_point(centre_mm)
        self.boundary_key, self.click_key, self.control_key = boundary_key, click_key, control_key
        self.window = {"size": size, "fill": fill, "spacing_mm": spacing_mm}
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the sampler's input, the boundary, and the control."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            scan = sample[key]
            affine, shape = np.asarray(scan.affine, float), tuple(scan.shape[1:])
            boundary = None
            if sample.get(self.boundary_key) is not None:
                boundary = np.asarray(sample[self.boundary_key][0]) > 0
                if boundary.shape != shape:
                    raise ValueError(
                        f"{self.boundary_key} must have the shape of the scan {shape}, "
                        f"got {boundary.shape}"
                    )
            sphere = Sphere(self._centre(sample, boundary, affine, shape), self._radius(affine))
            window = ShapeWindow.around(sphere, affine, boundary, **self.window)  # type: ignore[arg-type]
            if not window.has_room(affine, shape, boundary):
                raise ValueError(
                    "diameter_mm must leave room for a voxel of the scan round centre_mm and "
                    f"inside {self.boundary_key}, got {self.diameter_mm} at "
                    f"{np.round(sphere.centre_mm, 1).tolist()}"
                )
            allowed = np.ones(shape, np.uint8) if boundary is None else boundary.astype(np.uint8)
            sample[self.boundary_key] = MetaTensor(torch.from_numpy(allowed)[None], meta=scan.meta)
            sample[self.control_key] = {
                "centre_mm": torch.tensor(sphere.centre_mm, dtype=torch.float64),
                "radius_mm": torch.tensor(sphere.radius_mm, dtype=torch.float64),
                "window_affine": torch.from_numpy(window.grid.affine),
            }
            inputs = torch.from_numpy(window.inputs(self.channels))
            sample[key] = MetaTensor(inputs, affine=torch.from_numpy(window.grid.affine))
        return sample

    def _radius(self, affine: np.ndarray) -> float:
        """Return the radius of the sphere round the centres of the voxels."""
        half = half_voxel_mm(affine)
        if self.diameter_mm < 2 * half:
            raise ValueError(
                f"diameter_mm must be at least {2 * half:.2f}, the size of a voxel, "
                f"got {self.diameter_mm}"
            )
        return self.diameter_mm / 2 - half

    def _centre(
        self,
        sample: Mapping[Hashable, Any],
        boundary: np.ndarray | None,
        affine: np.ndarray,
        shape: Sequence[int],
    ) -> tuple[float, float, float]:
        clicks = sample.get(self.click_key)
        if self.centre_mm is not None:
            point = np.asarray(self.centre_mm, float)
        elif clicks is not None and len(clicks) > 0:
            point = apply_affine(affine, np.asarray(clicks, float).reshape(-1, 3)[-1])
        elif boundary is not None:
            if not boundary.any():
                raise ValueError(f"{self.boundary_key} must mark a place for a lesion, got none")
            point = apply_affine(affine, _deepest_voxel(boundary, voxel_sizes(affine)))
        else:
            point = apply_affine(affine, np.asarray(shape) // 2)
        index = apply_affine(np.linalg.inv(affine), point)
        if (index < -0.5).any() or (index > np.asarray(shape) - 0.5).any():
            raise ValueError(
                f"centre_mm must lie inside the scan, got {np.round(point, 1).tolist()}"
            )
        x, y, z = (float(value) for value in point)
        return x, y, z


def _deepest_voxel(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the index of the voxel farthest from the outline and from the border of the scan."""
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    # the part that holds the mask is enough, and without a rim it would have no outside
    depth = ndimage.distance_transform_edt(np.pad(mask[box], 1), sampling=spacing)
    index = np.unravel_index(int(depth.argmax()), depth.shape)
    return np.array(index) - 1 + [part.start for part in box]


class ShapeToScand(MapTransform):
    """Turn the output of a shape model into a label map on the scan's own grid.

    Several classes are nested: class k lies inside class k - 1 and is drawn over it, as no-reflow
    lies inside an infarct.

    Args:
        keys: predictions ``(K, N, N, N)``, above 0 inside; become ``(1, H, W, D)``, uint8 labels.
        boundary_key: where a lesion may lie, on the scan's grid; :class:`ShapeRequestd` left it.
        control_key: sphere and window, likewise.
        labels: label of each class; None: 1..K.
        fit: make the sphere round the first class exactly the one asked for, see
            :func:`tools.transforms.shape_grid.fit_grid`.
        allow_empty: give an empty label map where there is no lesion, for counting such cases.

    Raises:
        ValueError: if the prediction holds no lesion: draw again, with another seed.
    """

    def __init__(
        self,
        keys: KeysCollection,
        boundary_key: str = "boundary",
        control_key: str = "control",
        labels: Sequence[int] | None = None,
        fit: bool = True,
        allow_empty: bool = False,
    ) -> None:
        super().__init__(keys)
        self.boundary_key, self.control_key = boundary_key, control_key
        self.labels, self.fit, self.allow_empty = labels, fit, allow_empty

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the label map."""
        sample = dict(data)
        boundary, control = sample[self.boundary_key], sample[self.control_key]
        allowed = np.asarray(boundary[0])
        x, y, z = (float(value) for value in control["centre_mm"])
        sphere = Sphere((x, y, z), float(control["radius_mm"]))
        for key in self.key_iterator(sample):
            levels = torch.as_tensor(sample[key]).as_subclass(Tensor).float().cpu().numpy()
            grid = WindowGrid(np.asarray(control["window_affine"]), levels.shape[1:])
            affine = np.asarray(boundary.affine, float)
            if self.fit:
                grid = fit_grid(levels[0], grid, sphere, affine, allowed)
            place = grid, sphere, affine, allowed.shape, allowed
            result = np.zeros(allowed.shape, np.uint8)
            inside: np.ndarray | bool = True
            names = self.labels or range(1, len(levels) + 1)
            for name, level in zip(names, levels, strict=True):
                mask, box = shape_on_scan(level, *place)
                inside = mask & inside
                result[box][inside] = name
            if not (self.allow_empty or result.any()):
                raise ValueError(f"{key} must hold a lesion, got an empty prediction")
            sample[key] = MetaTensor(torch.from_numpy(result)[None], meta=boundary.meta)
        return sample
