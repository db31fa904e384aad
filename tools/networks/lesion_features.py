"""Features of a truncated decoder at the voxels of a lesion, and the range that they span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from tools.transforms.latents import latent_mask

__all__ = ["LesionFeatures", "feature_ranges", "lesion_boxes"]


class LesionFeatures(nn.Module):
    """Decode only the surroundings of each lesion and say how much each feature voxel counts.

    Decoding costs as much as its box is large, and the histogram looks at the lesion alone. The
    boxes of a batch have one size, so that they are one batch. Group normalisation makes features
    depend on the box a little: compare features of the same box.

    Args:
        decoder: maps latents to features, see
            :class:`tools.networks.truncated_decoder.TruncatedDecoder`.
        context: latents that the box reaches beyond the lesion; None decodes all.
        multiple: the size of a box is a multiple of this.

    Example:
        >>> latents, lesion_mask = torch.rand(1, 4, 16, 16, 16), torch.zeros(1, 1, 16, 16, 16)
        >>> lesion_mask[..., 8, 8, 8] = 1
        >>> features = LesionFeatures(nn.Identity(), context=2)
        >>> values, weight = features(latents, lesion_mask, lesion_mask)
        >>> values.shape, weight.sum().item()
        (torch.Size([1, 4, 216]), 1.0)
    """

    def __init__(self, decoder: nn.Module, context: int | None = 2, multiple: int = 2) -> None:
        super().__init__()
        if context is not None and context < 0:
            raise ValueError(f"context must be at least 0 or null, got {context}")
        self.decoder, self.context, self.multiple = decoder, context, multiple

    def forward(
        self, latents: Tensor, latent_mask: Tensor, lesion_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return features and weights of one box for each sample.

        Args:
            latents: shape ``(B, C, h, w, d)``.
            latent_mask: 1 inside the lesion, shape ``(B, 1, h, w, d)``.
            lesion_mask: the same at any resolution up to that of the image, ``(B, 1, H, W, D)``
                with H a multiple of h.

        Returns:
            Features ``(B, F, N)``, and the share of each feature voxel that is lesion ``(B, 1,
            N)``; all 0 for an empty mask.
        """
        factor = lesion_mask.shape[2] // latents.shape[2]
        if self.context is not None:
            boxes = lesion_boxes(latent_mask, self.context, self.multiple)
            latents = torch.stack(
                [sample[(..., *box)] for sample, box in zip(latents, boxes, strict=True)]
            )
            finer = [tuple(slice(p.start * factor, p.stop * factor) for p in b) for b in boxes]
            lesion_mask = torch.stack(
                [sample[(..., *box)] for sample, box in zip(lesion_mask, finer, strict=True)]
            )
        features = self.decoder(latents)
        share = functional.adaptive_avg_pool3d(lesion_mask.float(), features.shape[2:])
        return features.flatten(2), share.flatten(2)


def lesion_boxes(mask: Tensor, context: int, multiple: int = 1) -> list[tuple[slice, ...]]:
    """Return a box round the lesion of each sample, all of one size, inside the grid.

    Args:
        mask: 1 inside, shape ``(B, 1, H, W, D)``; an empty one counts as a point in the middle.
        context: margin on each side.
        multiple: sizes are multiples of this where the grid allows.

    Example:
        >>> mask = torch.zeros(1, 1, 8, 8, 8)
        >>> mask[..., 0, 4, 3:5] = 1
        >>> lesion_boxes(mask, context=1)
        [(slice(0, 3, None), slice(3, 6, None), slice(2, 6, None))]
    """
    ends = []
    for axis in range(3):
        others = [2 + other for other in range(3) if other != axis]
        occupied = (mask > 0).any(1, keepdim=True).amax(others).flatten(1).cpu()
        length = occupied.shape[1]
        first = torch.where(occupied.any(1), occupied.int().argmax(1), length // 2)
        last = torch.where(occupied.any(1), length - occupied.flip(1).int().argmax(1), first + 1)
        size = int((last - first).max()) + 2 * context
        size = min(-(-size // multiple) * multiple, length)
        start = ((first + last - size) // 2).clamp(0, length - size)
        ends.append([slice(int(low), int(low) + size) for low in start])
    return list(zip(*ends, strict=True))


@torch.no_grad()
def feature_ranges(
    features: LesionFeatures,
    dataset: Sequence[Mapping[str, Any]],
    count: int = 64,
    quantile: float = 0.001,
    latents_name: str = "latents",
    mask_name: str = "label",
    device: str | torch.device = "cpu",
) -> Tensor:
    """Return the range that the features of real lesions span in each channel.

    A histogram needs a fixed ruler: with that of each batch, two steps could not be compared, and
    the prediction would move it. The end bins collect what few values lie beyond.

    Args:
        features: as the loss will use it.
        dataset: samples with ``latents_name`` ``(C, h, w, d)`` and ``mask_name`` ``(1, H, W, D)``.
        count: samples to look at, evenly spread.
        quantile: of the values on each side that may lie beyond, in [0, 0.5).
        latents_name: key of the latents.
        mask_name: key of the lesion mask.
        device: where the decoder is.

    Returns:
        Lowest and highest value of each channel, ``(F, 2)``, on the CPU.

    Raises:
        ValueError: if none of the samples has a lesion.
    """
    values = []
    step = max(1, -(-len(dataset) // count))
    for number in tqdm(range(0, len(dataset), step), desc="ranges of features"):
        sample = dataset[number]
        latents = torch.as_tensor(sample[latents_name]).as_subclass(Tensor)[None].to(device)
        mask = torch.as_tensor(sample[mask_name]).as_subclass(Tensor)[None].to(device)
        mask = (mask > 0).any(1, keepdim=True)
        coarse = latent_mask(mask, factor=mask.shape[2] // latents.shape[2])
        found, share = features(latents.float(), coarse, mask)
        values.append(found[0][:, share[0, 0] > 0].cpu())
    lesion = torch.cat(values, 1)
    if not lesion.shape[1]:
        raise ValueError(
            f"dataset must hold lesions under {mask_name!r}, got none in {len(values)}"
        )
    ordered = lesion.sort(1).values
    low = int(quantile * (ordered.shape[1] - 1))
    ends = torch.stack([ordered[:, low], ordered[:, -1 - low]], 1)
    # a channel that never changes still needs an interval
    ends[:, 1] = torch.maximum(ends[:, 1], ends[:, 0] + 1e-4)
    return ends
