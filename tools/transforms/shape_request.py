"""From a wanted sphere in a scan to the window of a shape model, and from its output to a mask."""

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

from tools.transforms.shape_window import FILL, REGION_MARGIN, shape_grid
from tools.transforms.sphere import Sphere, sphere_mask
from tools.transforms.window import WindowGrid, cut_window

__all__ = ["ShapeRequestd", "ShapeToScand", "ShapeWindow", "half_voxel_mm", "shape_on_scan"]

Box = tuple[slice, slice, slice]


class ShapeWindow(NamedTuple):
    """What a shape model is shown of a scan.

    Attributes:
        grid: of the window.
        region: 1 where the lesion may be generated: the sphere, a little wider, cut by the
            boundary; float32, shape ``grid.size``.
        sphere: that the centres of the lesion's voxels must not leave.
        radius_mm: of the sphere round the lesion: half a voxel of the scan more.
    """

    grid: WindowGrid
    region: np.ndarray
    sphere: Sphere
    radius_mm: float

    @classmethod
    def around(
        cls,
        sphere: Sphere,
        affine: np.ndarray,
        boundary: np.ndarray | None = None,
        size: int | Sequence[int] = 24,
        fill: float = FILL,
        spacing_mm: float | None = None,
        margin: float = REGION_MARGIN,
    ) -> ShapeWindow:
        """Return the window for a sphere round the centres of the voxels of a lesion.

        Args:
            sphere: RAS mm.
            affine: voxel index of the scan to RAS mm.
            boundary: above 0 where a lesion may lie, on the scan's grid; None: everywhere.
            size: voxels per side.
            fill: diameter of the sphere over the side of the window.
            spacing_mm: voxel size of the window instead of one that follows from ``fill``.
            margin: voxels of the window by which the region is wider than the sphere.

        Raises:
            ValueError: if the boundary leaves nothing of the sphere.
        """
        radius = sphere.radius_mm + half_voxel_mm(affine)
        grid = shape_grid(sphere.centre_mm, radius, size, fill, spacing_mm)
        wide = radius + margin * grid.affine[0, 0]
        region = sphere_mask(Sphere(sphere.centre_mm, wide), grid.affine, grid.size)
        if boundary is not None:
            region &= cut_window(boundary, affine, grid, beyond=0.0) >= 0.5
        if not region.any():
            raise ValueError(
                f"boundary must leave room for a lesion of {2 * radius:.1f} mm at "
                f"{tuple(round(float(v), 1) for v in sphere.centre_mm)} mm, got none"
            )
        return cls(grid, region.astype(np.float32), sphere, radius)

    def inputs(self, channels: int = 1) -> np.ndarray:
        """Return the input of the sampler: "no lesion" per class, then the region."""
        empty = np.full((channels, *self.grid.size), -1.0, np.float32)
        return np.concatenate([empty, self.region[None]])


def half_voxel_mm(affine: np.ndarray) -> float:
    """Return half the side of the cube with the volume of a voxel.

    By so much a lesion reaches beyond the centres of its outermost voxels.
    """
    return 0.5 * float(abs(np.linalg.det(np.asarray(affine, float)[:3, :3]))) ** (1 / 3)


def shape_on_scan(
    level: np.ndarray,
    window: ShapeWindow,
    affine: np.ndarray,
    shape: Sequence[int],
    boundary: np.ndarray | None = None,
) -> tuple[np.ndarray, Box]:
    """Bring a predicted shape to the grid of a scan, within sphere and boundary by construction.

    Args:
        level: above 0 inside the lesion, on the grid of the window.
        window: that the shape was predicted in.
        affine: voxel index of the scan to RAS mm.
        shape: voxels of the scan per axis.
        boundary: above 0 where a lesion may lie, on the scan's grid; None: everywhere.

    Returns:
        Boolean mask of a box of the scan, and the box. The mask may be empty: where the sphere
        holds no voxel of the scan, or the level is nowhere positive.

    Raises:
        ValueError: if the sphere does not touch the scan.
    """
    inverse = np.linalg.inv(affine)
    middle = apply_affine(inverse, window.sphere.centre_mm)
    # largest step along each index that stays in the sphere
    reach = window.sphere.radius_mm * np.linalg.norm(inverse[:3, :3], axis=1)
    low = np.maximum(np.ceil(middle - reach - 1e-6), 0).astype(int)
    high = np.minimum(np.floor(middle + reach + 1e-6) + 1, shape).astype(int)
    if (high <= low).any():
        raise ValueError(
            f"sphere must touch the scan of shape {tuple(shape)}, got one of radius "
            f"{window.sphere.radius_mm:.1f} mm at voxel {np.round(middle, 1).tolist()}"
        )
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    moved = np.array(affine, float)
    moved[:3, 3] = apply_affine(affine, low)
    to_window = np.linalg.inv(window.grid.affine) @ moved
    values = ndimage.affine_transform(
        np.asarray(level, np.float32),
        to_window[:3, :3],
        to_window[:3, 3],
        output_shape=tuple(high - low),
        order=1,
        mode="constant",
        cval=-1.0,
    )
    mask = (values > 0) & sphere_mask(window.sphere, moved, values.shape)
    if boundary is not None:
        mask &= np.asarray(boundary[box]) > 0
    return mask, box  # type: ignore[return-value]


class ShapeRequestd(MapTransform):
    """Turn a scan into the window in which a lesion shape shall be generated.

    Only the grid of the scan is used. The centre is ``centre_mm``, else the first point of the
    sample's ``click_key`` (voxel index, as MONAI Label sends it), else the voxel deepest inside the
    boundary, else the middle of the scan.

    Args:
        keys: scan, channel first with an affine (MetaTensor); becomes the sampler's input
            ``(K + 1, N, N, N)``: -1 per class, then the region.
        diameter_mm: of the sphere round the lesion, at least the size of a voxel.
        centre_mm: RAS mm, or None.
        boundary_key: mask of where the lesion may lie, on the scan's grid; missing: everywhere.
        click_key: entry with a list of voxel indices.
        size: voxels per side of the window.
        fill: diameter of the sphere over the side of the window.
        spacing_mm: voxel size of the window instead of one that follows from ``fill``.
        channels: lesion classes K.
        request_key: where to leave what :class:`ShapeToScand` needs.

    Raises:
        ValueError: if diameter or centre are not usable.
    """

    def __init__(
        self,
        keys: KeysCollection,
        diameter_mm: float,
        centre_mm: Sequence[float] | None = None,
        boundary_key: str = "label",
        click_key: str = "foreground",
        size: int | Sequence[int] = 24,
        fill: float = FILL,
        spacing_mm: float | None = None,
        channels: int = 1,
        request_key: str = "request",
    ) -> None:
        super().__init__(keys)
        if not (np.isfinite(diameter_mm) and diameter_mm > 0):
            raise ValueError(f"diameter_mm must be > 0, got {diameter_mm}")
        if centre_mm is not None and len(centre_mm) != 3:
            raise ValueError(f"centre_mm must be three numbers (RAS mm), got {centre_mm}")
        self.diameter_mm, self.centre_mm = float(diameter_mm), centre_mm
        self.boundary_key, self.click_key, self.request_key = boundary_key, click_key, request_key
        self.size, self.fill, self.spacing_mm, self.channels = size, fill, spacing_mm, channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the sampler's input, and the request."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            affine = np.asarray(sample[key].affine, float)
            boundary = None
            if sample.get(self.boundary_key) is not None:
                boundary = np.asarray(sample[self.boundary_key][0]) > 0
            centre = self._centre(sample, boundary, affine, sample[key].shape[1:])
            radius = self.diameter_mm / 2 - half_voxel_mm(affine)
            if radius < 0:
                raise ValueError(
                    f"diameter_mm must be at least {2 * half_voxel_mm(affine):.2f}, the size of a "
                    f"voxel, got {self.diameter_mm}"
                )
            window = ShapeWindow.around(
                Sphere(centre, radius), affine, boundary, self.size, self.fill, self.spacing_mm
            )
            # a list keeps the collation of batches away from it
            sample[self.request_key] = [
                {"window": window, "affine": affine, "boundary": boundary}
                | {"shape": tuple(sample[key].shape[1:]), "meta": dict(sample[key].meta)}
            ]
            sample[key] = MetaTensor(
                torch.from_numpy(window.inputs(self.channels)), affine=window.grid.affine
            )
        return sample

    def _centre(
        self,
        sample: Mapping[Hashable, Any],
        boundary: np.ndarray | None,
        affine: np.ndarray,
        shape: Sequence[int],
    ) -> tuple[float, float, float]:
        if self.centre_mm is not None:
            point = np.asarray(self.centre_mm, float)
        elif sample.get(self.click_key):
            point = apply_affine(affine, np.asarray(sample[self.click_key], float).reshape(-1, 3)[0])
        elif boundary is not None:
            if not boundary.any():
                raise ValueError(f"{self.boundary_key} must mark a place for a lesion, got none")
            depth = ndimage.distance_transform_edt(
                boundary, sampling=np.linalg.norm(affine[:3, :3], axis=0)
            )
            point = apply_affine(affine, np.unravel_index(int(depth.argmax()), depth.shape))
        else:
            point = apply_affine(affine, (np.asarray(shape) - 1) / 2)
        index = apply_affine(np.linalg.inv(affine), point)
        if (index < -0.5).any() or (index > np.asarray(shape) - 0.5).any():
            raise ValueError(f"centre_mm must lie inside the scan, got {np.round(point, 1).tolist()}")
        x, y, z = (float(value) for value in point)
        return x, y, z


class ShapeToScand(MapTransform):
    """Turn the output of a shape model into a label map on the scan's own grid.

    Several classes are nested: class k lies inside class k - 1 and is drawn over it, as no-reflow
    lies inside an infarct.

    Args:
        keys: predictions ``(K, N, N, N)``, above 0 inside; become ``(1, H, W, D)``, uint8 labels.
        request_key: what :class:`ShapeRequestd` left.
        labels: label of each class; None: 1..K.

    Raises:
        ValueError: if the prediction holds no lesion: draw again, with another seed.
    """

    def __init__(
        self,
        keys: KeysCollection,
        request_key: str = "request",
        labels: Sequence[int] | None = None,
    ) -> None:
        super().__init__(keys)
        self.request_key, self.labels = request_key, labels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the label map; the request is used up."""
        sample = dict(data)
        request = sample.pop(self.request_key)[0]
        place = request["window"], request["affine"], request["shape"], request["boundary"]
        for key in self.key_iterator(sample):
            levels = torch.as_tensor(sample[key]).as_subclass(Tensor).float().cpu().numpy()
            result = np.zeros(request["shape"], np.uint8)
            inside: np.ndarray | bool = True
            names = self.labels or range(1, len(levels) + 1)
            for name, level in zip(names, levels, strict=True):
                mask, box = shape_on_scan(level, *place)
                inside = mask & inside
                result[box][inside] = name
            if not result.any():
                raise ValueError(f"{key} must hold a lesion, got an empty prediction")
            sample[key] = MetaTensor(
                torch.from_numpy(result)[None], affine=request["affine"], meta=request["meta"]
            )
        return sample
