"""The lesion mask on the grid of the latents."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["latent_mask", "latent_mask_channels"]

DETAILS = ("max", "voxels")


def latent_mask(lesion_mask: Tensor, detail: str = "max", factor: int = 4) -> Tensor:
    """Return a lesion mask at the resolution of the latents, binary.

    A latent belongs to the lesion as soon as one of its voxels does: the nearest voxel would lose
    most of a nodule of 3 to 6 voxels, and half of the voxels all of it. That is all that
    ``"max"`` says, which is coarse: a latent is 4 voxels wide. ``"voxels"`` keeps every voxel of
    the mask as a channel of its own, and so the outline; the largest of its channels is ``"max"``.

    Deviation from HR-LDM (section 3.2.1): the paper interpolates the mask, which is binary only
    after a threshold that it does not state, and names the lost outline a limitation.

    Args:
        lesion_mask: 1 inside, shape ``(B, K, H, W, D)``; H, W and D are multiples of ``factor``.
        detail: ``"max"`` or ``"voxels"``.
        factor: voxels per latent along each axis.

    Returns:
        Float tensor ``(B, K, H / factor, ...)``, or ``(B, K * factor**3, ...)`` for ``"voxels"``.

    Raises:
        ValueError: if ``detail`` is unknown or a size is no multiple of ``factor``.

    Example:
        >>> import torch
        >>> mask = torch.zeros(1, 1, 8, 8, 8)
        >>> mask[..., 3, 3, 3] = 1
        >>> latent_mask(mask).flatten().tolist()
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        >>> latent_mask(mask, "voxels").shape
        torch.Size([1, 64, 2, 2, 2])
    """
    _check(detail)
    if any(size % factor for size in lesion_mask.shape[2:]):
        raise ValueError(
            f"lesion_mask must have sizes that are multiples of {factor}, got "
            f"{tuple(lesion_mask.shape[2:])}"
        )
    mask = (lesion_mask > 0).float()
    if detail == "max":
        return functional.max_pool3d(mask, factor)
    batch, classes, *sizes = mask.shape
    height, width, depth = (size // factor for size in sizes)
    blocks = mask.reshape(batch, classes, height, factor, width, factor, depth, factor)
    blocks = blocks.permute(0, 1, 3, 5, 7, 2, 4, 6)
    return blocks.reshape(batch, classes * factor**3, height, width, depth)


def latent_mask_channels(detail: str = "max", classes: int = 1, factor: int = 4) -> int:
    """Return the number of channels of :func:`latent_mask`.

    Example:
        >>> latent_mask_channels("max"), latent_mask_channels("voxels")
        (1, 64)
    """
    _check(detail)
    return classes * (1 if detail == "max" else factor**3)


def _check(detail: str) -> None:
    if detail not in DETAILS:
        raise ValueError(f"mask_detail must be one of {DETAILS}, got {detail!r}")
