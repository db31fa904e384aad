"""Where a lesion lies in a volume: how its window is cut, and how the result comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from nibabel.affines import apply_affine, voxel_sizes
from torch import Tensor

from tools.inferers.latent_inpaint import blend_weight
from tools.transforms.window import WindowGrid, cut_window, paste_window, window_size

__all__ = ["Box", "BoxPlace", "GridPlace", "WindowRule"]

Box = tuple[slice, slice, slice]


class WindowRule(NamedTuple):
    """How large windows are, in voxels of the model.

    Attributes:
        margin: surroundings shown on each side of a lesion, at least.
        smallest: size along each axis, at least.
        step: sizes are multiples of this.
    """

    margin: int
    smallest: tuple[int, ...]
    step: int


class BoxPlace(NamedTuple):
    """A lesion in a part of the volume, whose voxels the model takes as they are.

    Attributes:
        box: the part.
        others: True inside other lesions, within ``box``; each has a window of its own.
    """

    box: Box
    others: np.ndarray

    @classmethod
    def around(cls, components: np.ndarray, number: int, found: Box, rule: WindowRule) -> BoxPlace:
        """Return the cube round a lesion, moved inside the volume or cut down to it.

        Args:
            components: whole numbers, one for each lesion of the volume.
            number: of this lesion.
            found: its bounding box.
            rule: of sizes.

        Raises:
            ValueError: if the volume is too small for it.
        """
        shape = components.shape
        extent = max(part.stop - part.start for part in found)
        parts = []
        for part, length, smallest in zip(found, shape, rule.smallest, strict=True):
            size = window_size(extent, 1.0, rule.margin, smallest, rule.step)
            side = min(size, length // rule.step * rule.step)
            if side < part.stop - part.start:
                raise ValueError(
                    f"lesion must fit a window inside the volume of shape {shape}, "
                    f"got an extent of {part.stop - part.start} voxels"
                )
            start = (part.start + part.stop - side) // 2
            start = min(max(start, 0), length - side)
            parts.append(slice(start, start + side))
        box: Box = (parts[0], parts[1], parts[2])
        return cls(box, (components[box] > 0) & (components[box] != number))

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels of the window."""
        return tuple(part.stop - part.start for part in self.box)

    def cut(self, sample: Tensor, mask_channels: int) -> Tensor:
        """Return the window, all channels of the sample; other lesions are none in it."""
        window = sample[(slice(None), *self.box)].clone()
        window[-mask_channels:, torch.from_numpy(self.others).to(window.device)] = 0
        return window

    def paste(self, output: Tensor, window: Tensor, result: Tensor) -> None:
        """Write what the model changed into a volume, in place."""
        # latents change a margin round the mask too
        others = torch.from_numpy(self.others).to(window.device)
        changed = (result != window[: len(result)]) & ~others
        output[(slice(None), *self.box)][changed] = result[changed]


class GridPlace(NamedTuple):
    """A lesion of a scan in a window of the model's own voxels, along the patient's axes.

    Attributes:
        box: part of the scan that may change: the lesion and ``margin_mm`` round it.
        masks: True inside the lesion, one mask per class, within ``box``.
        grid: the window.
        affine: voxel index of the scan to RAS mm.
        margin_mm: the change fades to nothing over this; None: the lesion is replaced, nothing
            else.
    """

    box: Box
    masks: np.ndarray
    grid: WindowGrid
    affine: np.ndarray
    margin_mm: float | None

    @classmethod
    def around(
        cls,
        lesion: np.ndarray,
        found: Box,
        shape: Sequence[int],
        affine: np.ndarray,
        spacing_mm: float,
        rule: WindowRule,
        margin_mm: float | None = None,
    ) -> GridPlace:
        """Return the place of a lesion.

        Args:
            lesion: True inside it, one mask per class, within ``found``.
            found: bounding box of the lesion.
            shape: of the scan.
            affine: voxel index of the scan to RAS mm; any orientation.
            spacing_mm: voxel size of the model.
            rule: of the window's size.
            margin_mm: see above.

        Example:
            >>> lesion, affine = np.ones((1, 10, 10, 6), bool), np.diag([0.7, 0.7, 1.25, 1])
            >>> found = (slice(30, 40), slice(30, 40), slice(20, 26))
            >>> rule = WindowRule(5, (24, 24, 24), 8)
            >>> place = GridPlace.around(lesion, found, (60, 60, 40), affine, 1.0, rule)
            >>> place.size, int(place.cut(torch.zeros(2, 60, 60, 40), 1)[1].sum())  # 367.5 mm3
            ((24, 24, 24), 392)
        """
        reach = np.ceil((margin_mm or 0.0) / voxel_sizes(affine)).astype(int)
        parts, added = [], [(0, 0)]
        for part, more, length in zip(found, reach.tolist(), shape, strict=True):
            parts.append(slice(max(0, part.start - more), min(length, part.stop + more)))
            added.append((part.start - parts[-1].start, parts[-1].stop - part.stop))
        box: Box = (parts[0], parts[1], parts[2])
        faces = np.array([[part.start - 0.5, part.stop - 0.5] for part in found])
        corners = apply_affine(affine, np.array(np.meshgrid(*faces)).reshape(3, -1).T)
        low, high = corners.min(0), corners.max(0)
        extent, surroundings = float((high - low).max()), rule.margin * spacing_mm
        size = [window_size(extent, spacing_mm, surroundings, n, rule.step) for n in rule.smallest]
        grid = WindowGrid.around((low + high) / 2, size, spacing_mm)
        return cls(box, np.pad(lesion, added), grid, affine, margin_mm)

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels of the window."""
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
        if not np.any(
            masks
        ):  # smaller than the model's voxels: the one in the middle stands for it
            middle = tuple(n // 2 for n in self.grid.size)
            for there, mask in zip(self.masks, masks, strict=True):
                mask[middle] = there.any()
        return torch.from_numpy(np.stack([*images, *masks]))

    def paste(self, output: Tensor, window: Tensor, result: Tensor) -> None:
        """Write what the model changed into the scan, in place."""
        inside = torch.from_numpy(self.masks.any(0))
        weight = inside.float()
        if self.margin_mm is not None:
            spacing = voxel_sizes(self.affine).tolist()
            weight = blend_weight(inside[None, None].float(), self.margin_mm, spacing)[0, 0]
        where = weight > 0
        scan = output[0].numpy()
        for channel, before, after in zip(output, window, result, strict=False):
            part = channel[self.box]
            # linear, so that the outermost voxels keep the soft edge of a partial volume
            new = after if self.margin_mm is None else after - before
            place = (self.affine, new.numpy(), self.grid, where.numpy(), self.box)
            values = torch.from_numpy(paste_window(scan, *place)).to(part.dtype)
            if self.margin_mm is not None:
                # images of latent models lie in [0, 1]
                values = (part[where] + weight[where] * values).clamp(0, 1)
            part[where] = values
