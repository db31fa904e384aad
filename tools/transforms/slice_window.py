"""Windows of scans with few thick slices, and intensities without a fixed scale."""

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

from tools.transforms.window import WindowGrid, cut_window

__all__ = ["PercentileScaled", "SliceWindowd", "percentile_range", "slice_grid"]


def slice_grid(
    organ_mask: np.ndarray,
    affine: np.ndarray,
    size: Sequence[int] = (64, 64),
    spacing_mm: float | None = 1.6,
    step: int = 4,
    centre_mm: Sequence[float] | None = None,
) -> WindowGrid:
    """Return a window over all slices of a scan, centred on an organ or a point within the slice.

    For scans of few thick slices, along the last axis: nothing is resampled across them.

    Args:
        organ_mask: above 0 inside the organ, on the scan's grid.
        affine: voxel index of the scan to RAS mm.
        size: voxels of the window within the slice.
        spacing_mm: voxel size within the slice; None keeps that of the scan.
        step: the number of slices becomes a multiple of this, empty ones are added at the end.
        centre_mm: RAS mm, the centre where the organ's mask is empty.

    Raises:
        ValueError: if the organ is empty and there is no point.
    """
    inside = np.argwhere(np.asarray(organ_mask) > 0)
    affine = np.asarray(affine, float)
    if len(inside):
        middle = (inside.min(0) + inside.max(0)) / 2
    elif centre_mm is not None:
        middle = apply_affine(np.linalg.inv(affine), np.asarray(centre_mm, float))
    else:
        raise ValueError("organ_mask must hold an organ, got an empty mask and no point")
    result = affine.copy()
    if spacing_mm is not None:
        result[:3, :2] *= spacing_mm / np.linalg.norm(affine[:3, :2], axis=0)
    middle[2] = 0
    back = result[:3, :2] @ ((np.asarray(size) - 1) / 2)
    result[:3, 3] = apply_affine(affine, middle) - back
    slices = step * int(np.ceil(organ_mask.shape[2] / step))
    return WindowGrid(result, (int(size[0]), int(size[1]), slices))


class SliceWindowd(MapTransform):
    """Cut scans and label maps of thick slices to one window round an organ.

    Within the slice they are resampled to one voxel size, across slices not at all. Slices are
    added at the end, as the mirror image of the scan, until their number is a multiple of ``step``.

    Args:
        keys: images or label maps ``(1, H, W, D)`` with an affine, all on one grid; become
            ``(1, N, M, S)``.
        organ: labels of all that is organ, in ``organ_key``.
        organ_key: label map that says where the organ lies.
        click_key: entry with a list of voxel indices; the last is the centre of the window where
            the label map holds no organ.
        size: voxels of the window within the slice.
        spacing_mm: voxel size within the slice; None keeps that of the scan.
        label_keys: those of ``keys`` that are label maps: nearest neighbour, 0 beyond the scan.
        allow_missing_keys: skip samples without one of the keys.
        step: what the number of slices becomes a multiple of.

    Raises:
        ValueError: if the label map holds no organ and there is no click.
    """

    def __init__(
        self,
        keys: KeysCollection,
        organ: Sequence[int],
        organ_key: str = "label",
        size: Sequence[int] = (72, 72),
        spacing_mm: float | None = 1.5,
        label_keys: Sequence[str] = ("label",),
        allow_missing_keys: bool = False,
        click_key: str = "foreground",
        step: int = 4,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.click_key = click_key
        self.organ, self.organ_key, self.label_keys = list(organ), organ_key, tuple(label_keys)
        self.size, self.spacing_mm, self.step = tuple(size), spacing_mm, step

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with windows in place of scans."""
        sample = dict(data)
        organ = np.isin(np.asarray(sample[self.organ_key][0]), self.organ)
        affine = np.asarray(sample[self.organ_key].affine, float)
        clicks = sample.get(self.click_key)
        centre = None
        if clicks is not None and len(clicks) > 0:
            centre = apply_affine(affine, np.asarray(clicks, float).reshape(-1, 3)[-1])
        grid = slice_grid(organ, affine, self.size, self.spacing_mm, self.step, centre)
        for key in self.key_iterator(sample):
            scan = np.asarray(sample[key][0])
            flat = key in self.label_keys
            window = cut_window(scan, affine, grid, 0 if flat else 1, 0.0 if flat else None)
            sample[key] = MetaTensor(
                torch.from_numpy(window)[None], affine=torch.from_numpy(grid.affine)
            )
        return sample


def percentile_range(
    image: np.ndarray, percentiles: tuple[float, float], empty_value: float | None = None
) -> tuple[float, float]:
    """Return two percentiles of an image, the second above the first.

    Args:
        image: any shape.
        percentiles: two numbers in 0..100.
        empty_value: voxels of exactly this value are no signal and do not count; None: all count.

    Raises:
        ValueError: if there is no signal.

    Example:
        >>> percentile_range(np.array([0.0, 1.0, 3.0]), (0, 100), empty_value=0)
        (1.0, 3.0)
    """
    counted = image if empty_value is None else image[image != empty_value]
    if not counted.size:
        raise ValueError(f"image must hold a signal, got {empty_value} only")
    low, high = (float(value) for value in np.percentile(counted, percentiles))
    return low, max(high, low + 1e-6)


class PercentileScaled(MapTransform):
    """Scale an image so that two of its percentiles become -1 and 1, and keep the scale.

    For images without units, such as MRI. One bright voxel changes nothing, unlike with the minimum
    and maximum that the released code takes (``percentiles=(0, 100)``).

    Args:
        keys: images, channel first.
        percentiles: that become -1 and 1.
        clip: hold the result to [-1, 1].
        empty_value: voxels of exactly this value are no signal and do not count; None: all count.
        range_key: where to write the intensities that -1 and 1 stand for, a tensor of two.
        allow_missing_keys: skip samples without the image.

    Raises:
        ValueError: if the percentiles are not in order within 0..100.

    Example:
        >>> sample = PercentileScaled("image", (0, 100))({"image": torch.tensor([[2.0, 4.0, 6.0]])})
        >>> sample["image"].tolist(), sample["intensity_range"].tolist()
        ([[-1.0, 0.0, 1.0]], [2.0, 6.0])
    """

    def __init__(
        self,
        keys: KeysCollection,
        percentiles: Sequence[float] = (0.5, 99.5),
        clip: bool = True,
        empty_value: float | None = None,
        range_key: str = "intensity_range",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        low, high = percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(
                f"percentiles must be two numbers in order in 0..100, got {percentiles}"
            )
        self.percentiles, self.clip, self.empty_value = (low, high), clip, empty_value
        self.range_key = range_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with scaled images and the range of the last of them."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            image = sample[key]
            values = torch.as_tensor(image).as_subclass(Tensor).float()
            low, high = percentile_range(values.numpy(), self.percentiles, self.empty_value)
            scaled = (values - low) * (2 / (high - low)) - 1
            result = image.clone() if image.is_floating_point() else image.float()
            result[:] = scaled.clamp(-1, 1) if self.clip else scaled
            sample[key] = result
            sample[self.range_key] = torch.tensor([low, high], dtype=torch.float64)
        return sample
