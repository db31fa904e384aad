"""What a network that outlines lesions is given of a scan, and what is made of its answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import (
    MapTransform,
    Orientation,
    RandomizableTrait,
    ResampleToMatch,
    Spacing,
    Transform,
)
from monai.utils import convert_to_tensor, ensure_tuple
from torch import Tensor

from tools.transforms import EachKey

__all__ = ["CompleteMasksd", "FixedCompose", "KeepInOrgand", "OnGridOfd", "OnVoxelsd"]


class FixedCompose(Transform):
    """Transforms in a row, none of them random, of which a ``CacheDataset`` keeps the result.

    It takes MONAI's ``Compose`` for random, and would make it anew each time.

    Args:
        transforms: one, or several.

    Raises:
        ValueError: if one is random.

    Example:
        >>> FixedCompose([lambda x: x + 1, lambda x: 2 * x])(1)
        4
    """

    def __init__(self, transforms: Any) -> None:
        self.transforms = ensure_tuple(transforms)
        for each in self.transforms:
            if isinstance(each, RandomizableTrait):
                raise ValueError(f"transforms must not be random, got {type(each).__name__}")

    def __call__(self, data: Any) -> Any:
        """Return what the last makes."""
        for transform in self.transforms:
            data = transform(data)
        return data


class CompleteMasksd(MapTransform):
    """Give every sample a label and an organ mask, so that samples with and without make a batch.

    A sample without a label is healthy: its label becomes 0. With one class, every value above 0
    is it, so that labels may number lesions. An organ mask that is there stays.
    Else it is where the label has ``organ_values``; with none of them, or none in the label, it is
    what ``find`` finds in a healthy sample; and 1 everywhere where there is nothing to go by.

    Args:
        keys: the image ``(1, H, W, D)``.
        label_key: its label map.
        organ_key: its organ mask, 1 inside.
        organ_values: labels of the organ and of the lesions in it.
        classes: number of classes of the label.
        find: adds the organ mask to a sample, such as
            :class:`tools.synthesis.on_the_fly.OrganMaskd`.

    Example:
        >>> image = MetaTensor(torch.zeros(1, 2, 2, 2))
        >>> made = CompleteMasksd("image")({"image": image})
        >>> int(made["label"].sum()), int(made["organ_mask"].sum())
        (0, 8)
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        label_key: str = "label",
        organ_key: str = "organ_mask",
        organ_values: Sequence[int] = (),
        classes: int = 1,
        find: Callable[[Mapping[Hashable, Any]], dict[Hashable, Any]] | None = None,
    ) -> None:
        super().__init__(keys)
        self.label_key, self.organ_key = label_key, organ_key
        self.organ_values, self.classes, self.find = list(organ_values), classes, find

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with both."""
        sample = dict(data)
        image = sample[self.keys[0]]
        if sample.get(self.label_key) is None:
            sample[self.label_key] = torch.zeros_like(image[:1], dtype=torch.uint8)
        elif self.classes == 1:
            label = sample[self.label_key]
            sample[self.label_key] = (label > 0).to(label.dtype)
        if sample.get(self.organ_key) is None:
            label = convert_to_tensor(sample[self.label_key])
            organ = torch.isin(label, torch.tensor(self.organ_values, dtype=label.dtype))
            if organ.any() or self.find is None or label.any():
                organ = organ if organ.any() else torch.ones_like(organ)
                sample[self.organ_key] = MetaTensor(organ.byte(), affine=image.affine)
            else:
                sample.update(self.find(sample))
        return sample


class OnVoxelsd(EachKey):
    """Turn scans to RAS and resample them to voxels of one size.

    MONAI's ``Orientation`` and ``Spacing``; as dictionary transforms the latter stumbles over what
    MONAI Label adds to samples.

    Args:
        keys: MetaTensors ``(C, H, W, D)``.
        spacing_mm: of the voxels along R, A and S; None, or None for an axis: as it is.
        mask_keys: those of them that are label maps.
        allow_missing_keys: samples may lack keys.

    Example:
        >>> affine = torch.diag(torch.tensor([-2.0, 2.0, 5.0, 1.0]))
        >>> sample = {"image": MetaTensor(torch.zeros(1, 4, 4, 4), affine=affine)}
        >>> tuple(OnVoxelsd("image", [1.0, 1.0, None])(sample)["image"].shape)
        (1, 7, 7, 4)
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing_mm: float | Sequence[float | None] | None = None,
        mask_keys: KeysCollection = (),
        allow_missing_keys: bool = True,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        sizes = list(spacing_mm) if isinstance(spacing_mm, Sequence) else [spacing_mm] * 3
        if len(sizes) != 3 or not all(size is None or size > 0 for size in sizes):
            raise ValueError(f"spacing_mm must be None or sizes above 0, got {spacing_mm}")
        # what is not above 0 keeps its size
        pixdim = [-1.0 if size is None else float(size) for size in sizes]
        self.turn = Orientation(axcodes="RAS", labels=None)
        self.resample = None if max(pixdim) < 0 else Spacing(pixdim)
        self.mask_keys = set(ensure_tuple(mask_keys))

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        turned = self.turn(sample[key])
        if self.resample is not None:
            mode = "nearest" if key in self.mask_keys else "bilinear"
            turned = self.resample(turned.float(), mode=mode)
        sample[key] = turned


class OnGridOfd(EachKey):
    """Bring the probabilities of a network onto the grid of the scan that it was not shown.

    Args:
        keys: probabilities ``(C, h, w, d)`` on the grid of ``seen_key``.
        seen_key: what the network was shown, with an affine.
        scan_key: the scan ``(1, H, W, D)``, with an affine.

    Example:
        >>> sample = {"image": MetaTensor(torch.zeros(1, 4, 4, 4)), "pred": torch.rand(2, 4, 4, 4)}
        >>> sample["scan"] = MetaTensor(torch.zeros(1, 6, 6, 6))
        >>> tuple(OnGridOfd("pred")(sample)["pred"].shape)
        (2, 6, 6, 6)
    """

    def __init__(
        self, keys: KeysCollection, seen_key: str = "image", scan_key: str = "scan"
    ) -> None:
        super().__init__(keys)
        self.seen_key, self.scan_key = seen_key, scan_key
        self.resample = ResampleToMatch(mode="bilinear", padding_mode="border")

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        scan = sample[self.scan_key]
        values = convert_to_tensor(sample[key], track_meta=False).to(scan.device).float()
        shown = MetaTensor(values, affine=sample[self.seen_key].affine)
        found = self.resample(shown, scan[:1].float())
        sample[key] = MetaTensor(convert_to_tensor(found, track_meta=False), meta=dict(scan.meta))


class KeepInOrgand(EachKey):
    """Take lesions out that lie outside the organ.

    Args:
        keys: probabilities of background and classes ``(C, H, W, D)``, or a one-hot label.
        classes: channels of lesions; elsewhere than in the organ they become 0, so that what is
            most probable there is another class.
        organ_key: mask ``(1, H, W, D)``; a sample without one is left as it is.

    Raises:
        ValueError: if the mask has another shape, or a class is no channel.

    Example:
        >>> pred = torch.tensor([0.3, 0.7]).reshape(2, 1, 1, 1).repeat(1, 2, 1, 1)
        >>> organ = torch.tensor([1, 0]).reshape(1, 2, 1, 1)
        >>> made = KeepInOrgand("pred", [1])({"pred": pred, "organ_mask": organ})["pred"]
        >>> made.argmax(0).flatten().tolist()
        [1, 0]
    """

    def __init__(
        self, keys: KeysCollection, classes: Sequence[int], organ_key: str = "organ_mask"
    ) -> None:
        super().__init__(keys)
        self.classes, self.organ_key = list(classes), organ_key

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        organ: Tensor | None = sample.get(self.organ_key)
        if organ is None:
            return
        values = sample[key].clone()
        if organ.shape[1:] != values.shape[1:]:
            raise ValueError(
                f"{self.organ_key} must have the shape of {key} {tuple(values.shape[1:])}, got "
                f"{tuple(organ.shape[1:])}"
            )
        if not all(0 < each < len(values) for each in self.classes):
            raise ValueError(
                f"classes must be channels from 1 to {len(values) - 1}, got {self.classes}"
            )
        inside = convert_to_tensor(organ, track_meta=False).to(values.device)[0] > 0
        values[self.classes] = values[self.classes] * inside
        sample[key] = values
