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
    depend on the box a little: compare features of the same box. A box reaches ``context`` latents
    beyond the lesion; None decodes all.
    """

    def __init__(self, decoder: nn.Module, context: int | None = 2) -> None:
        super().__init__()
        if context is not None and context < 0:
            raise ValueError(f"context must be at least 0 or null, got {context}")
        self.decoder, self.context = decoder, context

    def forward(
        self, latents: Tensor, latent_mask: Tensor, lesion_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return features ``(B, F, N)`` of a box per sample, and the share of each that is lesion.

        The share is ``(B, 1, N)``, all 0 for an empty mask. Latents are ``(B, C, h, w, d)``,
        ``latent_mask`` is 1 inside the lesion at their resolution, ``lesion_mask`` the same at any
        up to that of the image, ``(B, 1, H, W, D)`` with H a multiple of h.
        """
        factor = lesion_mask.shape[2] // latents.shape[2]
        if self.context is not None:
            boxes = lesion_boxes(latent_mask, self.context)
            latents = _parts(latents, boxes)
            finer = [tuple(slice(p.start * factor, p.stop * factor) for p in b) for b in boxes]
            lesion_mask = _parts(lesion_mask, finer)
        features = self.decoder(latents)
        share = functional.adaptive_avg_pool3d(lesion_mask.float(), features.shape[2:])
        return features.flatten(2), share.flatten(2)


def _parts(batch: Tensor, boxes: list[tuple[slice, ...]]) -> Tensor:
    return torch.stack([sample[(..., *box)] for sample, box in zip(batch, boxes, strict=True)])


def lesion_boxes(mask: Tensor, context: int, multiple: int = 2) -> list[tuple[slice, ...]]:
    """Return a box round the lesion of each sample of a mask ``(B, 1, H, W, D)``, all of one size.

    An empty mask counts as a point in the middle; ``context`` is the margin on each side. Boxes lie
    inside the grid; their sizes are multiples of ``multiple`` where it allows.
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
    device: str | torch.device = "cpu",
) -> Tensor:
    """Return the lowest and highest value of real lesions in each channel, ``(F, 2)``, on the CPU.

    A histogram needs a fixed ruler: with that of each batch, two steps could not be compared, and
    the prediction would move it. The end bins collect what few values lie beyond: the ``quantile``
    on each side. ``features`` are those that the loss will use; samples of the dataset hold
    ``latents`` ``(C, h, w, d)`` and ``label`` ``(1, H, W, D)``; ``count`` of them, evenly spread,
    are looked at. Without a lesion in any it is a ``ValueError``.
    """
    values = []
    step = max(1, -(-len(dataset) // count))
    for number in tqdm(range(0, len(dataset), step), desc="ranges of features"):
        sample = dataset[number]
        latents, mask = (
            torch.as_tensor(sample[key]).as_subclass(Tensor)[None].to(device)
            for key in ("latents", "label")
        )
        mask = (mask > 0).any(1, keepdim=True)
        coarse = latent_mask(mask, factor=mask.shape[2] // latents.shape[2])
        found, share = features(latents.float(), coarse, mask)
        values.append(found[0][:, share[0, 0] > 0].cpu())
    lesion = torch.cat(values, 1)
    if not lesion.shape[1]:
        raise ValueError(f"dataset must hold lesions under 'label', got none in {len(values)}")
    ordered = lesion.sort(1).values
    low = int(quantile * (ordered.shape[1] - 1))
    ends = torch.stack([ordered[:, low], ordered[:, -1 - low]], 1)
    # a channel that never changes still needs an interval
    ends[:, 1] = torch.maximum(ends[:, 1], ends[:, 0] + 1e-4)
    return ends
