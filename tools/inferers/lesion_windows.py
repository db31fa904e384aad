"""Apply a window sampler to each lesion of a volume of any size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from monai.inferers import Inferer
from scipy import ndimage
from torch import Tensor, nn

from tools.inferers.latent_inpaint import LatentInpaintInferer
from tools.inferers.lesion_inpaint import LesionInpaintInferer
from tools.transforms.window import window_size

__all__ = ["LesionWindowInferer"]

Box = tuple[slice, slice, slice]


class LesionWindowInferer(Inferer):
    """Synthesise every lesion of a mask in a window of its own: costs grow with lesions only.

    Each connected component of the mask (26-neighbourhood) gets a cube that holds it and some
    surroundings; cubes of equal size are sampled as one batch. The volume is taken as it is: its
    voxels should have about the size that the network was trained on (``tools.synthesis``
    resamples, this does not).

    Args:
        inferer: samples one batch of windows.
        margin_voxels: surroundings shown on each side of a lesion, at least.
        smallest: voxels along each axis of a window, at least; multiples of ``step``.
        step: the size of a window is a multiple of this.

    Example:
        >>> from tools.schedules import cosine_scheduler
        >>> sampler = LesionInpaintInferer(cosine_scheduler(2))
        >>> inferer = LesionWindowInferer(sampler, smallest=(8, 8, 8))
        >>> inputs = torch.zeros(1, 2, 40, 40, 40)
        >>> inputs[:, 1, 20, 20, 20] = 1
        >>> output = inferer(inputs, lambda x, t, c: x)
        >>> int((output != inputs[:, :1]).sum())
        1
    """

    def __init__(
        self,
        inferer: LesionInpaintInferer | LatentInpaintInferer,
        margin_voxels: int = 5,
        smallest: Sequence[int] = (24, 24, 24),
        step: int = 8,
    ) -> None:
        super().__init__()
        self.inferer, self.margin_voxels = inferer, margin_voxels
        self.smallest, self.step = tuple(smallest), step

    def __call__(  # type: ignore[override]
        self,
        inputs: Tensor,
        network: nn.Module,
        condition: Tensor | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the image channels with every lesion synthesised.

        Args:
            inputs: image channels, then lesion-mask channels, shape ``(B, C + K, H, W, D)``.
            network: called ``network(x, timesteps, condition)``.
            condition: histograms ``(B, bins)``, or None.
            seeds: one per sample; lesion j of sample i uses ``seeds[i] + j``.

        Returns:
            Tensor ``(B, C, H, W, D)``, equal to the input wherever ``inferer`` changes nothing.
        """
        inputs = torch.as_tensor(inputs).as_subclass(Tensor)
        masks = self.inferer.mask_channels
        output = inputs[:, :-masks].clone()
        seeds = [self.inferer.seed + i for i in range(len(inputs))] if seeds is None else seeds
        jobs: dict[tuple[int, ...], list[tuple[int, Box, int]]] = defaultdict(list)
        for i, sample in enumerate(inputs):
            boxes = self._boxes(sample[-masks:].amax(0).cpu().numpy())
            for j, box in enumerate(boxes):
                jobs[tuple(part.stop - part.start for part in box)].append((i, box, seeds[i] + j))
        for batch in jobs.values():
            windows = torch.stack([inputs[(i, slice(None), *box)] for i, box, _ in batch])
            rows = None if condition is None else torch.stack([condition[i] for i, _, _ in batch])
            results = self.inferer(windows, network, rows, seeds=[seed for *_, seed in batch])
            for (i, box, _), window, result in zip(batch, windows, results, strict=True):
                # latents change a margin round the mask too
                changed = result != window[:-masks]
                output[(i, slice(None), *box)][changed] = result[changed]
        return output

    def _boxes(self, mask: np.ndarray) -> list[Box]:
        """Return one cube per lesion, moved inside the volume or cut down to it."""
        components, _ = ndimage.label(mask > 0, structure=np.ones((3, 3, 3)))
        boxes = []
        for found in ndimage.find_objects(components):
            extent = max(part.stop - part.start for part in found)
            parts = []
            for part, length, smallest in zip(found, mask.shape, self.smallest, strict=True):
                size = window_size(extent, 1.0, self.margin_voxels, smallest, self.step)
                side = min(size, length // self.step * self.step)
                if side < part.stop - part.start:
                    raise ValueError(
                        f"lesion must fit a window inside the volume of shape {mask.shape}, "
                        f"got an extent of {part.stop - part.start} voxels"
                    )
                start = (part.start + part.stop - side) // 2
                start = min(max(start, 0), length - side)
                parts.append(slice(start, start + side))
            boxes.append(tuple(parts))
        return boxes  # type: ignore[return-value]
