"""A shape model's side of a lesion: what it learns, what it is asked, what its answer becomes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_tensor
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from tools.transforms import EachKey
from tools.transforms.spheres import (
    DIAMETER_BINS,
    FILL,
    REGION_MARGIN,
    SMALLEST_RADIUS_MM,
    ShapeWindow,
    Sphere,
    attribute_condition,
    enclosing_sphere,
    fit_grid,
    half_voxel_mm,
    shape_grid,
    shape_on_scan,
    signed_distance,
    sphere_mask,
)
from tools.transforms.windows import asked_point, parse_point
from tools.windows import WindowGrid, cut_window

__all__ = [
    "ControlSphered",
    "MaskRequestd",
    "RandBoundaryd",
    "RandDropScoresd",
    "ShapeRequestd",
    "ShapeToScand",
    "ShapeWindowd",
]

SMOOTHING_VOXELS = 0.3  # takes the staircase of the outline's own grid away, not its lobes
RATINGS = ("spiculation", "lobulation")


def _condition(sample: Mapping[Hashable, Any], diameter_mm: float) -> torch.Tensor:
    """Return the condition of a rated lesion; where a score is missing, so is its part."""
    scores = (sample.get(name) for name in RATINGS)
    first, second = (None if score is None else float(score) for score in scores)
    return torch.from_numpy(attribute_condition(diameter_mm, first, second))


class _InShapeWindow(EachKey):
    def __init__(
        self,
        keys: KeysCollection,
        size: int | Sequence[int] = 24,
        fill: float = FILL,
        spacing_mm: float | None = None,
    ) -> None:
        super().__init__(keys)
        self.window: dict[str, Any] = {"size": size, "fill": fill, "spacing_mm": spacing_mm}


class ShapeWindowd(_InShapeWindow):
    """Cut each lesion mask to a window scaled to its own smallest enclosing sphere.

    Lesions of 4 and of 30 mm so become alike in size, and one small network learns from all of
    them; how large the lesion is goes into ``condition``, with the sample's scores of
    ``spiculation`` and ``lobulation``, see :func:`tools.transforms.spheres.attribute_condition`.
    ``sphere_radius`` becomes the radius of the sphere in voxels of the window.

    Masks, not empty, with an affine (MetaTensor), become ``(1, N, N, N)``, soft: 0 far outside, the
    outline at 0.5, 1 and more inside. For ``size``, ``fill`` and ``spacing_mm`` see
    :func:`tools.transforms.spheres.shape_grid`.
    """

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        affine = np.asarray(sample[key].affine, float)
        mask = np.asarray(sample[key][0]) > 0
        centre, radius = enclosing_sphere(mask, affine)
        # voxels reach half their width beyond their centres
        radius += half_voxel_mm(affine)
        grid = shape_grid(centre, radius, **self.window)
        smooth = ndimage.gaussian_filter(mask.astype(np.float32), SMOOTHING_VOXELS)
        window = cut_window(smooth, affine, grid, beyond=0.0)
        sample[key] = torch.from_numpy(window * (0.5 / _level(smooth, mask)))[None]
        sample["condition"] = _condition(sample, 2 * radius)
        sample["sphere_radius"] = max(radius, SMALLEST_RADIUS_MM) / grid.affine[0, 0]


def _level(smooth: np.ndarray, mask: np.ndarray) -> float:
    """Return the level whose surface holds as many voxels as the mask, at most half the peak.

    The smallest lesions are little but peak once they are smoothed.
    """
    place = smooth.size - int(mask.sum())
    same_volume = np.partition(smooth, place, axis=None)[place]
    return float(min(same_volume, smooth.max() / 2))


class ControlSphered(EachKey):
    """Turn a soft mask into the target of a shape model and the region in which it is generated.

    The region, left under ``label``, is the sphere that :class:`ShapeWindowd` centred in the
    window, so turn and mirror windows only. It is a little wider, so that the surface of a lesion
    that touches it can be told from both sides. Outside the region the target is -1, no lesion.
    Within it is the distance to the outline (at 0.5), positive inside the lesion, divided by
    ``band`` voxels and clipped to [-1, 1]; a band of None gives the mask itself in {-1, 1}
    (LeFusion, section 3.3). A mask without anything above 0.5 is a ``ValueError``.
    """

    def __init__(self, keys: KeysCollection, band: float | None = 3.0) -> None:
        super().__init__(keys)
        if band is not None and not band > 0:
            raise ValueError(f"band must be > 0 voxels, got {band}")
        self.band = band

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        inside = convert_to_tensor(sample[key])[0].numpy() >= 0.5
        if not inside.any():
            raise ValueError(f"{key} must hold a lesion, got none above 0.5")
        radius = float(sample["sphere_radius"]) + REGION_MARGIN
        x, y, z = ((n - 1) / 2 for n in inside.shape)
        region = sphere_mask(Sphere((x, y, z), radius), np.eye(4), inside.shape)
        level = inside * 2.0 - 1.0
        if self.band is not None:
            level = np.clip(signed_distance(inside) / self.band, -1, 1)
        target = np.where(region, level, -1.0).astype(np.float32)
        sample[key] = torch.from_numpy(target)[None]
        sample["label"] = torch.from_numpy(region).float()[None]


class RandDropScoresd(Randomizable, EachKey):
    """Take both scores out of a condition, so that a model also works where nobody rated a lesion.

    For conditions of :func:`tools.transforms.spheres.attribute_condition`.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.3) -> None:
        MapTransform.__init__(self, keys)
        self.prob = prob

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        if self.R.random() < self.prob:
            sample[key] = sample[key].clone()
            sample[key][DIAMETER_BINS:] = 0


class RandBoundaryd(Randomizable, EachKey):
    """Cut the region ``(1, N, N, N)`` by a plane that spares the lesion, as the pleura would.

    Trained so, a model keeps within what is left of the sphere and shapes the lesion to it: the
    target, under ``image``, becomes -1 elsewhere. A sample without a lesion is left as it is.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.5) -> None:
        MapTransform.__init__(self, keys)
        self.prob = prob

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        if self.R.random() >= self.prob:
            return
        normal = self.R.normal(size=3)
        normal /= np.linalg.norm(normal)
        axes = [torch.arange(n, dtype=torch.float32) for n in sample[key].shape[1:]]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        heights = grid @ torch.as_tensor(normal, dtype=torch.float32)
        target = sample["image"]
        if not (target[0] > 0).any():
            return
        top = heights[target[0] > 0].max()
        kept = heights <= top + float(self.R.exponential(1.0))
        sample[key] = sample[key] * kept
        sample["image"] = torch.where(kept, target, -1.0)


class ShapeRequestd(_InShapeWindow):
    """Turn a scan into the window in which a lesion shape shall be generated.

    Only the grid of the scan (a MetaTensor) is used; it becomes the sampler's input ``(K + 1, N, N,
    N)``: -1 for each of K ``channels``, then the region. Sphere and window are left under
    ``control`` for :class:`ShapeToScand`. The centre is ``centre_mm`` (RAS, see
    :func:`tools.transforms.windows.parse_point`), else the sample's last click, else the voxel
    deepest inside the boundary, else the middle voxel of the scan. The boundary, a mask of where
    the lesion may lie, is on the scan's grid; where it is missing a mask of ones is written. For
    ``size``, ``fill`` and ``spacing_mm`` see :func:`tools.transforms.spheres.shape_grid`.

    A diameter of the sphere round the lesion below the size of a voxel, a centre outside the scan,
    and a sphere without a voxel in which the lesion may lie are a ``ValueError``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        diameter_mm: float,
        centre_mm: Sequence[float] | str | None = None,
        boundary_key: str = "boundary",
        size: int | Sequence[int] = 24,
        fill: float = FILL,
        spacing_mm: float | None = None,
        channels: int = 1,
    ) -> None:
        super().__init__(keys, size, fill, spacing_mm)
        if not (np.isfinite(diameter_mm) and diameter_mm > 0):
            raise ValueError(f"diameter_mm must be > 0, got {diameter_mm}")
        self.diameter_mm, self.centre_mm = float(diameter_mm), parse_point(centre_mm)
        self.boundary_key, self.channels = boundary_key, channels

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
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
        window = ShapeWindow.around(sphere, affine, boundary, **self.window)
        if not window.has_room(affine, shape, boundary):
            raise ValueError(
                "diameter_mm must leave room for a voxel of the scan round centre_mm and "
                f"inside {self.boundary_key}, got {self.diameter_mm} at "
                f"{np.round(sphere.centre_mm, 1).tolist()}"
            )
        allowed = np.ones(shape, bool) if boundary is None else boundary
        sample[self.boundary_key] = _mask(allowed, scan)
        window_affine = torch.from_numpy(window.grid.affine)
        sample["control"] = sphere.control() | {"window_affine": window_affine}
        inputs = torch.from_numpy(window.inputs(self.channels))
        sample[key] = MetaTensor(inputs, affine=window_affine)

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
        point = asked_point(sample, affine, self.centre_mm)
        if point is None:
            middle = np.asarray(shape) // 2
            if boundary is not None:
                if not boundary.any():
                    raise ValueError(
                        f"{self.boundary_key} must mark a place for a lesion, got none"
                    )
                middle = _deepest_voxel(boundary, voxel_sizes(affine))
            point = apply_affine(affine, middle)
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


def _mask(inside: np.ndarray, like: MetaTensor) -> MetaTensor:
    """Return a mask with the place of another tensor."""
    return MetaTensor(torch.from_numpy(inside.astype(np.uint8))[None], meta=like.meta)


class MaskRequestd(_InShapeWindow):
    """Turn a label map into a request with the sphere, the scores and the organ of its lesion.

    Beside the request itself (``image`` and ``label``: what the sampler starts from, and where) the
    sample gets what :class:`ShapeToScand` needs to bring the answer to the grid of the label map,
    and what it is compared with there: ``target``, the real lesion, and ``sphere_region``, all
    voxels of the scan that the answer may take. Arguments are those of :class:`ShapeWindowd`.
    """

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        label = sample[key]
        lesion, affine = np.asarray(label[0]) > 0, np.asarray(label.affine, float)
        sphere = enclosing_sphere(lesion, affine)
        # voxels reach half their width beyond their centres; rounding must not reject the least
        diameter = 2 * (sphere.radius_mm + half_voxel_mm(affine)) + 1e-6
        ask = ShapeRequestd("scan", diameter, sphere.centre_mm, **self.window)
        request = ask({"scan": label})
        window = convert_to_tensor(request["scan"])
        sample |= {"image": window[:-1], "label": window[-1:]}
        sample |= {name: request[name] for name in ("boundary", "control")}
        sample["condition"], sample["target"] = _condition(sample, diameter), _mask(lesion, label)
        sample["sphere_region"] = _mask(sphere_mask(sphere, affine, lesion.shape), label)


class ShapeToScand(EachKey):
    """Turn the output of a shape model into a label map on the scan's own grid, uint8.

    The sphere round the first class becomes exactly the one asked for, see
    :func:`tools.transforms.spheres.fit_grid`. Classes (``labels``; None: 1..K) are nested: class k
    lies inside class k - 1 and is drawn over it, as no-reflow lies inside an infarct. Predictions
    ``(K, N, N, N)`` are above 0 inside; one without a lesion is a ``ValueError`` (draw again, with
    another seed), or with ``allow_empty`` an empty label map.
    """

    def __init__(
        self,
        keys: KeysCollection,
        boundary_key: str = "boundary",
        labels: Sequence[int] | None = None,
        allow_empty: bool = False,
    ) -> None:
        super().__init__(keys)
        self.boundary_key, self.labels, self.allow_empty = boundary_key, labels, allow_empty

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        boundary, control = sample[self.boundary_key], sample["control"]
        allowed, affine = np.asarray(boundary[0]), np.asarray(boundary.affine, float)
        sphere = Sphere.from_control(control)
        levels = convert_to_tensor(sample[key]).float().cpu().numpy()
        grid = WindowGrid(np.asarray(control["window_affine"]), levels.shape[1:])
        grid = fit_grid(levels[0], grid, sphere, affine, allowed)
        result = np.zeros(allowed.shape, np.uint8)
        inside: np.ndarray | bool = True
        names = self.labels or range(1, len(levels) + 1)
        for name, level in zip(names, levels, strict=True):
            mask, box = shape_on_scan(level, grid, sphere, affine, allowed.shape, allowed)
            inside = mask & inside
            result[box][inside] = name
        if not (self.allow_empty or result.any()):
            raise ValueError(f"{key} must hold a lesion, got an empty prediction")
        sample[key] = _mask(result, boundary)
