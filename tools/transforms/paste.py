"""Back from the network's scale to the scan's own units, with the background untouched."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

__all__ = ["PasteChanged", "PasteLesiond"]


class PasteLesiond(MapTransform):
    """Turn a synthetic image in [-1, 1] into the scan's units inside the mask, the scan elsewhere.

    Args:
        keys: the synthetic image, channels first, in [-1, 1].
        scan_key: the scan before scaling; every voxel outside the mask is copied from it bit for
            bit.
        mask_key: lesion mask, 1 inside.
        window: the intensities that -1 and 1 stand for.
        allow_missing_keys: skip samples without the synthetic image.

    Example:
        >>> paste = PasteLesiond("pred", "scan", "label", window=(-1000, 400))
        >>> sample = {"pred": torch.zeros(1, 2), "scan": torch.tensor([[7.0, 7.0]])}
        >>> paste({**sample, "label": torch.tensor([[1, 0]])})["pred"]
        tensor([[-300.,    7.]])
    """

    def __init__(
        self,
        keys: KeysCollection,
        scan_key: str = "scan",
        mask_key: str = "label",
        window: Sequence[float] = (-1.0, 1.0),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scan_key, self.mask_key = scan_key, mask_key
        self.low, self.high = float(window[0]), float(window[1])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the composite under the image's key, metadata of the scan kept."""
        sample = dict(data)
        scan, mask = sample[self.scan_key], torch.as_tensor(sample[self.mask_key])
        inside = (mask.as_subclass(Tensor) > 0).to(scan.device)
        for key in self.key_iterator(sample):
            values = torch.as_tensor(sample[key]).as_subclass(Tensor).to(scan.device)
            values = (values + 1) * ((self.high - self.low) / 2) + self.low
            if not scan.dtype.is_floating_point:
                values = values.round()
            composite = scan.clone()
            composite[inside] = values.to(scan.dtype)[inside]
            sample[key] = composite
        return sample


class PasteChanged(MapTransform):
    """Add to the scan what a synthetic image changed, and leave every other voxel as it was.

    For models that change more than the mask, such as a margin round it. The difference is added,
    so that intensities beyond the scaled range keep theirs.

    Args:
        keys: the synthetic image, channels first.
        scan_key: the scan before scaling; voxels that did not change are copied from it bit for
            bit.
        image_key: what the synthetic image was made from, same scale; its first channels count.
        scale: units of the scan per unit of the image.

    Example:
        >>> paste = PasteChanged("pred", scale=2000)
        >>> sample = {"pred": torch.tensor([[0.5, 0.25]]), "image": torch.tensor([[0.5, 0.5]])}
        >>> paste({**sample, "scan": torch.tensor([[7, 0]])})["pred"]
        tensor([[   7, -500]])
    """

    def __init__(
        self,
        keys: KeysCollection,
        scan_key: str = "scan",
        image_key: str = "image",
        scale: float = 2000.0,
    ) -> None:
        super().__init__(keys)
        self.scan_key, self.image_key, self.scale = scan_key, image_key, float(scale)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the composite under the image's key, metadata of the scan kept."""
        sample = dict(data)
        scan = sample[self.scan_key]
        for key in self.key_iterator(sample):
            values = torch.as_tensor(sample[key]).as_subclass(Tensor).to(scan.device)
            image = torch.as_tensor(sample[self.image_key]).as_subclass(Tensor).to(scan.device)
            change = (values - image[: len(values)]) * self.scale
            moved = change != 0
            result = torch.as_tensor(scan).as_subclass(Tensor) + change
            result = result if scan.dtype.is_floating_point else result.round()
            composite = scan.clone()
            composite[moved] = result.to(scan.dtype)[moved]
            sample[key] = composite
        return sample
