"""From a window of few thick slices back to the scan, with everything but the lesion untouched."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from tools.transforms.window import WindowGrid, paste_window

__all__ = ["PasteSlicesd"]


class PasteSlicesd(MapTransform):
    """Put a synthetic window into its scan: in the scan's units, at the voxels of the lesion only.

    The counterpart of :class:`tools.transforms.slice_window.SliceWindowd` and
    :class:`tools.transforms.slice_window.PercentileScaled`, which replace their keys: copy scan and
    label map before them, and the window after them, since engines drop its affine.

    Args:
        keys: windows ``(C, N, M, S)`` in [-1, 1], of which the first channel is taken (a sampler
            that combines lesion classes puts them into every channel); become ``(1, H, W, D)``.
        classes: labels of the lesions. Every other voxel is the scan's, bit for bit; without any of
            them the result is the scan.
        scan_key: the scan before it was cut and scaled, ``(1, H, W, D)`` with an affine; its dtype
            and metadata are those of the result. Integers are rounded and kept within their type.
        label_key: label map on the scan's grid, same shape.
        window_key: an image with the window's affine.
        range_key: intensities that -1 and 1 stand for.
        allow_missing_keys: skip samples without the window.

    Raises:
        ValueError: if the label map has another shape than the scan, or a lesion reaches beyond the
            window.

    Example:
        >>> from monai.data import MetaTensor
        >>> scan = MetaTensor(torch.tensor([7, 7]).reshape(1, 1, 2, 1), affine=torch.eye(4))
        >>> sample = {"scan": scan, "window": scan, "intensity_range": torch.tensor([0.0, 100.0])}
        >>> sample |= {"scan_label": torch.tensor([3, 2]).reshape(1, 1, 2, 1)}
        >>> paste = PasteSlicesd("pred", classes=[3, 4])
        >>> paste({**sample, "pred": torch.zeros(2, 1, 2, 1)})["pred"].flatten().tolist()
        [50, 7]
    """

    def __init__(
        self,
        keys: KeysCollection,
        classes: Sequence[int],
        scan_key: str = "scan",
        label_key: str = "scan_label",
        window_key: str = "window",
        range_key: str = "intensity_range",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.classes, self.scan_key, self.label_key = list(classes), scan_key, label_key
        self.window_key, self.range_key = window_key, range_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the composite under the window's key, with the scan's metadata."""
        sample = dict(data)
        scan, label = sample[self.scan_key], _array(sample[self.label_key])[0]
        if label.shape != scan.shape[1:]:
            raise ValueError(
                f"{self.label_key} must have the shape of {self.scan_key}, got {label.shape} "
                f"and {tuple(scan.shape[1:])}"
            )
        affine = _array(scan.affine).astype(float)
        low, high = (float(value) for value in sample[self.range_key])
        inside = np.isin(label, self.classes)
        whole = (slice(0, label.shape[0]), slice(0, label.shape[1]), slice(0, label.shape[2]))
        for key in self.key_iterator(sample):
            window = _array(sample[key])[0].astype(np.float32)
            x, y, z = window.shape
            grid = WindowGrid(_array(sample[self.window_key].affine).astype(float), (x, y, z))
            values = paste_window(label, affine, window, grid, inside, whole)
            values = (values.astype(np.float64) + 1) * ((high - low) / 2) + low
            composite = scan.clone()
            composite[0][torch.from_numpy(inside)] = _as_dtype(values, scan.dtype).to(scan.device)
            sample[key] = composite
        return sample


def _array(tensor: Any) -> np.ndarray:
    return torch.as_tensor(tensor).as_subclass(Tensor).detach().cpu().numpy()


def _as_dtype(values: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Return intensities in the scan's type; integers must not wrap round at its ends."""
    result = torch.from_numpy(values)
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        result = result.round().clamp(limits.min, limits.max)
    return result.to(dtype)
