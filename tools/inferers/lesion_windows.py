"""Apply a window sampler to each lesion of a volume of any size, and to several requests."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.inferers import Inferer
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage
from torch import Tensor, nn

from tools.inferers.latent_inpaint import LatentInpaintInferer
from tools.inferers.lesion_inpaint import LesionInpaintInferer
from tools.windows import (
    BlendZone,
    Box,
    Window,
    WindowGrid,
    compose_rim,
    cut_window,
    extended,
    paste_window,
)

__all__ = ["LesionRequestsInferer", "LesionWindowInferer"]

SAME_SIZE = 0.01  # voxels that differ by less than this share are taken as they are


class LesionWindowInferer(Inferer):
    """Synthesise every lesion of a mask in a window of its own: costs grow with lesions only.

    Each connected component of the mask (26-neighbourhood) gets a cube that holds it and at least
    ``margin_voxels`` of surroundings on each side; its size is a multiple of ``step`` and at least
    ``smallest``. Cubes of equal size are sampled as one batch. With ``spacing_mm`` (that of
    training), a volume that knows its affine (MetaTensor) and has other voxels is resampled, but
    only under the windows: they are cut with the model's voxels, and the result is interpolated at
    the voxels of the lesion; with a margin its change, at those nearer than ``margin_mm``. The rest
    is not touched.

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
        self.inferer = inferer
        self.window = Window(tuple(smallest), spacing_mm, margin_voxels, step)

    def __call__(  # type: ignore[override]
        self,
        inputs: Tensor,
        network: nn.Module,
        condition: Tensor | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the image ``(B, C, H, W, D)`` with every lesion of the masks synthesised.

        It equals the input wherever ``inferer`` changes nothing. ``inputs``, ``network`` and
        ``condition`` are those of :class:`LesionInpaintInferer`; lesion j of sample i uses the seed
        ``seeds[i] + j``.
        """
        affines = _affines(inputs)
        inputs = torch.as_tensor(inputs).as_subclass(Tensor)
        # resampling is done by the CPU
        volumes = inputs if affines is None or self.window.spacing_mm is None else inputs.cpu()
        masks = self.inferer.mask_channels
        output = volumes[:, :-masks].clone()
        seeds = [self.inferer.seed + i for i in range(len(inputs))] if seeds is None else seeds
        jobs: dict[tuple, list[tuple[int, Place, int]]] = defaultdict(list)
        for i, sample in enumerate(volumes):
            affine = None if affines is None else affines[i]
            for j, place in enumerate(self._places(sample[-masks:].cpu().numpy(), affine)):
                jobs[(type(place), *place.size)].append((i, place, seeds[i] + j))
        for kind, batch in jobs.items():
            windows = torch.stack([place.cut(volumes[i], masks) for i, place, _ in batch])
            rows = None if condition is None else torch.stack([condition[i] for i, *_ in batch])
            sampler = self._sampler(resampled=kind[0] is GridPlace)
            drawn = sampler(
                windows.to(inputs.device), network, rows, seeds=[seed for *_, seed in batch]
            ).to(windows)
            for (i, place, _), window, result in zip(batch, windows, drawn, strict=True):
                place.paste(output[i], window, result)
        return output.to(inputs.device)

    def _sampler(self, resampled: bool) -> LesionInpaintInferer | LatentInpaintInferer:
        """Return the sampler; if resampled, the fading is left to the scan's own grid."""
        if not (resampled and self.inferer.fades):
            return self.inferer
        sampler = copy.copy(self.inferer)
        sampler.margin_mm = math.inf
        return sampler

    def _places(self, masks: np.ndarray, affine: np.ndarray | None) -> Sequence[Place]:
        """Return the place of each lesion of one sample."""
        components, _ = ndimage.label(masks.max(0) > 0, structure=np.ones((3, 3, 3)))
        boxes = list(enumerate(ndimage.find_objects(components), 1))
        wanted, shape = self.window.spacing_mm, components.shape
        if (
            wanted is None
            or affine is None
            or np.allclose(voxel_sizes(affine), wanted, SAME_SIZE, 0)
        ):
            parts = [(number, self.window.in_volume(found, shape)) for number, found in boxes]
            return [VoxelPlace(box, components[box], number) for number, box in parts]
        margin_mm, fades = self.inferer.margin_mm, self.inferer.fades
        places = []
        for number, found in boxes:
            lesion = (masks[(slice(None), *found)] > 0) & (components[found] == number)
            grid = self.window.round_box(found, affine)
            places.append(GridPlace(found, lesion, grid, affine, margin_mm, fades))
        return places


def _affines(inputs: Tensor) -> list[np.ndarray] | None:
    """Return the affine of each sample, None where a tensor knows none."""
    affine = getattr(inputs, "affine", None)
    if affine is None:
        return None
    # a batch made by hand (inputs[None]) has the affine of its one sample
    return list(np.broadcast_to(np.asarray(affine, float), (len(inputs), 4, 4)))


class VoxelPlace(NamedTuple):
    """A lesion in a part of the volume, whose voxels the model takes as they are.

    Other lesions in it (``components`` that are not ``number``) have windows of their own.
    """

    box: Box
    components: np.ndarray
    number: int

    @property
    def size(self) -> tuple[int, ...]:
        return self.components.shape

    def _others(self) -> Tensor:
        return torch.from_numpy((self.components > 0) & (self.components != self.number))

    def cut(self, sample: Tensor, mask_channels: int) -> Tensor:
        """Return the window, all channels of the sample; other lesions are none in it."""
        window = sample[(slice(None), *self.box)].clone()
        window[-mask_channels:, self._others().to(window.device)] = 0
        return window

    def paste(self, output: Tensor, window: Tensor, result: Tensor) -> None:
        """Write what the model changed into a volume, in place."""
        # latents change a margin round the mask too
        changed = (result != window[: len(result)]) & ~self._others().to(window.device)
        output[(slice(None), *self.box)][changed] = result[changed]


class GridPlace(NamedTuple):
    """A lesion of a scan in a window of the model's own voxels, along the patient's axes.

    ``box`` is where the lesion lies in the scan (``masks``, one per class, True inside); what is
    nearer than ``margin_mm`` changes too, and the change of a model in latents ``fades`` there to
    nothing. ``affine`` is that of the scan.
    """

    box: Box
    masks: np.ndarray
    grid: WindowGrid
    affine: np.ndarray
    margin_mm: float
    fades: bool

    @property
    def size(self) -> tuple[int, ...]:
        return self.grid.size

    def cut(self, sample: Tensor, mask_channels: int) -> Tensor:
        """Return the window: image channels interpolated, masks by the nearest voxel."""
        scan = sample[:-mask_channels].numpy()
        images = [cut_window(image, self.affine, self.grid) for image in scan]
        affine = self.affine.copy()
        # a rim, since half of the outermost voxels would count as beyond
        affine[:3, 3] = apply_affine(self.affine, [part.start - 1 for part in self.box])
        padded = np.pad(self.masks, [(0, 0), *[(1, 1)] * 3])
        masks = [cut_window(mask, affine, self.grid, order=0, beyond=0.0) for mask in padded]
        if not np.any(masks):
            # smaller than the model's voxels: the one in the middle stands for it
            middle = tuple(n // 2 for n in self.grid.size)
            for there, mask in zip(self.masks, masks, strict=True):
                mask[middle] = there.any()
        return torch.from_numpy(np.stack([*images, *masks]))

    def paste(self, output: Tensor, window: Tensor, result: Tensor) -> None:
        """Write what the model changed into the scan, in place."""
        scan = output[0].numpy()
        zone = BlendZone.around(
            np.asarray(self.masks.any(0)),
            self.box,
            self.affine,
            scan.shape,
            self.margin_mm,
            self.fades,
        )
        drawn_in = window[len(result) :].amax(0).numpy() > 0
        for channel, before, after in zip(output, window.numpy(), result.numpy(), strict=False):
            part = channel[zone.box]
            where = torch.from_numpy(zone.inside)
            place = (self.grid, zone.inside, zone.box)
            if self.fades:  # images of latent models lie in [0, 1]
                change = paste_window(scan, self.affine, after - before, *place)
                values = np.clip(part[where].numpy() + zone.weight * change, 0, 1)
            elif self.margin_mm:
                values = compose_rim(
                    channel.numpy(), self.affine, before, after, self.grid, zone, (-1, 1)
                )
            else:
                values = paste_window(scan, self.affine, extended(after, drawn_in), *place)
            part[where] = torch.from_numpy(values).to(part.dtype)


Place = VoxelPlace | GridPlace


class LesionRequestsInferer(Inferer):
    """Answer R requests for one window with the same noise: what differs is the request's doing."""

    def __init__(self, inferer: LesionInpaintInferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: Tensor, network: nn.Module, condition: Tensor) -> Tensor:  # type: ignore[override]
        """Return the answers side by side as channels, ``(B, R * C, H, W, D)``.

        ``condition`` holds the requests ``(B, R, bins)``; a row of -1 means no control.
        """
        if condition.ndim != 3:
            raise ValueError(f"condition must be (B, requests, bins), got {tuple(condition.shape)}")
        return torch.cat([self.inferer(inputs, network, row) for row in condition.unbind(1)], 1)
