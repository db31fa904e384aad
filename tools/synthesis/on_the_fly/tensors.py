"""Tensors of a training loop as scans, and what synthesis changed back into them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from tools.scans.scan import Scan

__all__ = ["as_nifti", "as_scan", "complete_masks", "write_changes"]


def as_scan(image: Any, key: str, in_hu: bool) -> Scan:
    """Return an image of a training loop as a scan.

    Args:
        image: ``(1, H, W, D)`` with an affine.
        key: its name in messages.
        in_hu: whether the bundle wants HU.

    Raises:
        ValueError: if it is no MetaTensor, has another shape, or is scaled where HU are wanted.

    Example:
        >>> as_scan(MetaTensor(torch.zeros(1, 2, 3, 4)), "image", in_hu=False).nifti.shape
        (2, 3, 4)
    """
    if not isinstance(image, MetaTensor):
        raise ValueError(
            f"{key} must be a MetaTensor, as LoadImaged makes it, so that voxel sizes are known, "
            f"got {type(image).__name__}"
        )
    if image.ndim != 4 or image.shape[0] != 1:
        raise ValueError(f"{key} must have shape (1, H, W, D), got {tuple(image.shape)}")
    scan = Scan(as_nifti(image, image.affine), in_hu=in_hu, argument=key)
    _ = scan.image  # refused here, not when a lesion is in the making
    return scan


def as_nifti(tensor: torch.Tensor, affine: Any) -> nib.Nifti1Image:
    """Return the first channel of a tensor as an image in memory.

    Args:
        tensor: ``(1, H, W, D)``, of any type and on any device.
        affine: voxel index to RAS mm, 4x4.
    """
    plain = torch.as_tensor(tensor).detach().cpu()
    plain = plain.as_tensor() if isinstance(plain, MetaTensor) else plain
    if plain.dtype == torch.bool:
        plain = plain.to(torch.uint8)
    elif plain.dtype in (torch.float16, torch.bfloat16):  # NIfTI knows neither
        plain = plain.float()
    values = plain[0].numpy()
    return nib.Nifti1Image(values, np.asarray(affine, np.float64), dtype=values.dtype)


def complete_masks(
    sample: dict[Hashable, Any], image_key: Hashable, label_key: str, organ_key: str | None
) -> None:
    """Put a label into a sample that has none, all background, and check its masks.

    Args:
        sample: with an image; changed in place.
        image_key: of the image.
        label_key: of the label.
        organ_key: of the organ mask, which must be there; None: there is none.

    Raises:
        ValueError: if a mask is not of the image's shape, or the organ mask is not there.
    """
    image = sample[image_key]
    image = image if isinstance(image, torch.Tensor) else torch.as_tensor(image)
    if sample.get(label_key) is None:
        sample[label_key] = torch.zeros_like(image[:1], dtype=torch.uint8)
    for key in (label_key, organ_key):
        if key is None:
            continue
        if sample.get(key) is None:
            raise ValueError(f"{key} must be in every sample, got keys {list(sample)}")
        sample[key] = mask = torch.as_tensor(sample[key])
        if mask.shape != (1, *image.shape[1:]):
            raise ValueError(
                f"{key} must have one channel of the image's shape {tuple(image.shape)}, got "
                f"{tuple(mask.shape)}"
            )


def write_changes(tensor: torch.Tensor, before: np.ndarray, after: np.ndarray) -> torch.Tensor:
    """Return a copy of a tensor with the values that differ between two arrays.

    Type, device and metadata stay, and only those values travel to the device.

    Args:
        tensor: ``(1, H, W, D)``.
        before: ``(H, W, D)``, the tensor's values.
        after: the same with changes.
    """
    result = tensor.clone()
    index = np.nonzero(before != after)
    places = tuple(
        torch.as_tensor(part, device=tensor.device) for part in (np.zeros_like(index[0]), *index)
    )
    values = torch.as_tensor(np.ascontiguousarray(after[index]), device=tensor.device)
    plain = result.as_tensor() if isinstance(result, MetaTensor) else result
    plain[places] = values.to(tensor.dtype)  # shares memory with the result
    return result
