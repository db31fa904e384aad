"""Apply a window sampler to each lesion of a volume of any size."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from monai.inferers import Inferer
from nibabel.affines import voxel_sizes
from scipy import ndimage
from torch import Tensor, nn

from tools.inferers.latent_inpaint import LatentInpaintInferer
from tools.inferers.lesion_inpaint import LesionInpaintInferer
from tools.inferers.lesion_places import BoxPlace, GridPlace, WindowRule

__all__ = ["LesionWindowInferer"]

SAME_SIZE = 0.01  # voxels that differ by less than this share are taken as they are


class LesionWindowInferer(Inferer):
    """Synthesise every lesion of a mask in a window of its own: costs grow with lesions only.

    Each connected component of the mask (26-neighbourhood) gets a cube that holds it and some
    surroundings; cubes of equal size are sampled as one batch. With ``spacing_mm``, a volume that
    knows its affine (MetaTensor) and has other voxels is resampled, but only under the windows:
    they are cut with the model's voxels, and the result is interpolated at the voxels of the
    lesion (a latent model's change, at those within its ``margin_mm``). The rest is not touched.

    Args:
        inferer: samples one batch of windows.
        margin_voxels: surroundings shown on each side of a lesion, at least.
        smallest: voxels along each axis of a window, at least; multiples of ``step``.
        step: the size of a window is a multiple of this.
        spacing_mm: voxel size that the network was trained on; None takes volumes as they are.

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
        spacing_mm: float | None = None,
    ) -> None:
        super().__init__()
        if spacing_mm is not None and not spacing_mm > 0:
            raise ValueError(f"spacing_mm must be above 0, got {spacing_mm}")
        self.inferer, self.spacing_mm = inferer, spacing_mm
        self.rule = WindowRule(margin_voxels, tuple(smallest), step)

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
        affines = _affines(inputs)
        inputs = torch.as_tensor(inputs).as_subclass(Tensor)
        # resampling is done by the CPU
        volumes = inputs if affines is None or self.spacing_mm is None else inputs.cpu()
        masks = self.inferer.mask_channels
        output = volumes[:, :-masks].clone()
        seeds = [self.inferer.seed + i for i in range(len(inputs))] if seeds is None else seeds
        jobs: dict[tuple, list[tuple[int, BoxPlace | GridPlace, int]]] = defaultdict(list)
        for i, sample in enumerate(volumes):
            affine = None if affines is None else affines[i]
            for j, place in enumerate(self._places(sample[-masks:].cpu().numpy(), affine)):
                jobs[(type(place), *place.size)].append((i, place, seeds[i] + j))
        for kind, batch in jobs.items():
            windows = torch.stack([place.cut(volumes[i], masks) for i, place, _ in batch])
            rows = None if condition is None else torch.stack([condition[i] for i, _, _ in batch])
            sampler = self._sampler(resampled=kind[0] is GridPlace)
            drawn = sampler(
                windows.to(inputs.device), network, rows, seeds=[seed for *_, seed in batch]
            ).to(windows)
            for (i, place, _), window, result in zip(batch, windows, drawn, strict=True):
                place.paste(output[i], window, result)
        return output.to(inputs.device)

    def _sampler(self, resampled: bool) -> LesionInpaintInferer | LatentInpaintInferer:
        """Return the sampler; if resampled, the fading is left to the scan's own grid."""
        if not (resampled and hasattr(self.inferer, "margin_mm")):
            return self.inferer
        sampler = copy.copy(self.inferer)
        sampler.margin_mm = math.inf
        return sampler

    def _places(
        self, masks: np.ndarray, affine: np.ndarray | None
    ) -> Sequence[BoxPlace | GridPlace]:
        """Return the place of each lesion of one sample."""
        components, _ = ndimage.label(masks.max(0) > 0, structure=np.ones((3, 3, 3)))
        boxes = ndimage.find_objects(components)
        wanted = self.spacing_mm
        if (
            wanted is None
            or affine is None
            or np.allclose(voxel_sizes(affine), wanted, SAME_SIZE, 0)
        ):
            return [
                BoxPlace.around(components, number, box, self.rule)
                for number, box in enumerate(boxes, 1)
            ]
        margin_mm = getattr(self.inferer, "margin_mm", None)
        return [
            GridPlace.around(
                (masks[(slice(None), *box)] > 0) & (components[box] == number),
                box,
                components.shape,
                affine,
                wanted,
                self.rule,
                margin_mm,
            )
            for number, box in enumerate(boxes, 1)
        ]


def _affines(inputs: Tensor) -> list[np.ndarray] | None:
    """Return the affine of each sample, None where a tensor knows none."""
    affine = getattr(inputs, "affine", None)
    if affine is None:
        return None
    # a batch made by hand (inputs[None]) has the affine of its one sample
    return list(np.broadcast_to(np.asarray(affine, float), (len(inputs), 4, 4)))
