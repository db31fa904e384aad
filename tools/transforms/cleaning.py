"""From a shape model's output to a clean mask: holes filled, outline smoothed, drawn out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import torch
from monai.config import KeysCollection
from monai.utils import convert_to_tensor
from scipy import ndimage

from tools.transforms import EachKey

__all__ = ["CleanLevelsd", "SmoothMaskd", "clean_level", "drawn_out", "smooth_mask"]

# smallest number of voxels -> (standard deviation in voxels, threshold); LeFusion's release
SMOOTHING = (
    (10_000, 2.0, 0.5),
    (1_000, 1.5, 0.5),
    (100, 1.0, 0.3),
    (50, 0.5, 0.2),
    (20, 0.5, 0.1),
    (0, 0.5, 0.01),
)
FILLED_LEVEL = 1e-3
SPECK = 0.05  # pieces of less than this share of the volume are no part of a lesion


def smooth_mask(mask: np.ndarray, largest_component: bool = False) -> np.ndarray:
    """Return a 3-D mask with filled holes and an outline smoothed by as much as its size allows.

    Fill holes, blur by a Gaussian, threshold; both grow with the number of voxels, so that small
    lesions are thickened rather than lost. The released code enlarges the result by 1.5 afterwards
    without saying so, and turns an empty prediction into a full box; neither is done here: an empty
    mask is a ``ValueError`` (draw again, with another seed). ``largest_component`` keeps the
    largest piece only; lesions of several pieces exist.

    References:
        LeFusion, Zhang et al., ICLR 2025. https://arxiv.org/abs/2403.14066

    Example:
        >>> mask = np.zeros((9, 9, 9), bool)
        >>> mask[3:6, 3:6, 3:6] = True
        >>> mask[4, 4, 4] = False
        >>> int(smooth_mask(mask)[4, 4, 4])
        1
    """
    mask = np.asarray(mask) > 0
    voxels = int(mask.sum())
    if voxels == 0:
        raise ValueError("mask must hold a lesion, got an empty mask")
    sigma, threshold = next((s, t) for least, s, t in SMOOTHING if voxels >= least)
    blurred = ndimage.gaussian_filter(
        ndimage.binary_fill_holes(mask).astype(np.float32), sigma, mode="constant"
    )
    smooth = blurred > threshold
    if largest_component:
        labels, _ = ndimage.label(smooth)
        smooth = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return smooth


def clean_level(level: np.ndarray) -> np.ndarray:
    """Return a level with holes filled and specks removed; the outline stays as it is.

    For models whose output is smooth already (a clipped distance), where :func:`smooth_mask` would
    thicken small lesions by a voxel and more. The level may hold no lesion.

    Example:
        >>> level = np.full((9, 9, 9), -1.0)
        >>> level[2:7, 2:7, 2:7], level[4, 4, 4], level[0, 0, 0] = 0.5, -0.5, 0.5
        >>> cleaned = clean_level(level)
        >>> bool(cleaned[4, 4, 4] > 0), bool(cleaned[0, 0, 0] > 0)
        (True, False)
    """
    inside = level > 0
    filled = ndimage.binary_fill_holes(inside)
    clean = np.where(filled & ~inside, np.maximum(np.abs(level), FILLED_LEVEL), level)
    pieces, count = ndimage.label(filled)
    if count > 1:
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        dropped = filled & (sizes < SPECK * sizes.sum())[pieces]
        clean = np.where(dropped, -np.abs(clean), clean)
    return clean.astype(level.dtype)


def drawn_out(level: np.ndarray, stretch: float | Sequence[float]) -> np.ndarray:
    """Return a level whose lesion is narrower by a factor across its longest axis, and as long.

    A network of few voxels draws lesions rounder, and more alike, than those it learnt from; what
    that takes from their elongation is given back. Along the longest principal axis of the lesion
    ``(H, W, D)`` and at its centroid everything stays. A stretch of 1, or a lesion of less than
    four voxels, changes nothing. Of two numbers any factor between them is as likely; which one,
    the voxels of the lesion decide, so that a lesion of one seed stays one.

    Raises:
        ValueError: if the stretch is not from 0.5 to 2, or two such numbers that rise.

    Example:
        >>> level = np.full((15, 15, 15), -1.0)
        >>> level[1:14, 4:11, 4:11] = 1.0
        >>> narrow = drawn_out(level, 1.5) > 0
        >>> [int(narrow.any(axes).sum()) for axes in ((1, 2), (0, 2), (0, 1))]
        [13, 5, 5]
    """
    low, high = (stretch, stretch) if isinstance(stretch, int | float) else stretch
    if not 0.5 <= low <= high <= 2:
        raise ValueError(f"stretch must be from 0.5 to 2, or two such that rise, got {stretch}")
    voxels = np.argwhere(level > 0)
    if low == high == 1 or len(voxels) < 4:
        return level
    factor = np.random.default_rng(crc32(np.packbits(level > 0).tobytes())).uniform(low, high)
    centre = voxels.mean(0)
    axis = np.linalg.eigh(np.cov(voxels.T))[1][:, -1]
    along = np.outer(axis, axis)
    source = along + factor * (np.eye(3) - along)
    return ndimage.affine_transform(
        level, source, centre - source @ centre, order=1, mode="constant", cval=-1.0
    )


class CleanLevelsd(EachKey):
    """Clean each class of a prediction ``(K, H, W, D)``, see :func:`clean_level`.

    For ``stretch`` see :func:`drawn_out`; other than 1 it is for predictions of one class.
    """

    def __init__(self, keys: KeysCollection, stretch: float | Sequence[float] = 1.0) -> None:
        super().__init__(keys)
        self.stretch = stretch

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        levels = convert_to_tensor(sample[key]).float().cpu().numpy()
        result = sample[key].clone()
        levels = np.stack([drawn_out(clean_level(each), self.stretch) for each in levels])
        result[:] = torch.from_numpy(levels)
        sample[key] = result


class SmoothMaskd(EachKey):
    """Clean each class of a prediction ``(K, H, W, D)`` in [-1, 1], see :func:`smooth_mask`.

    It becomes 1 inside and ``outside`` elsewhere; -1 makes the result a level with the outline at
    0. A class that is absent stays so; where all are, it is a ``ValueError``.
    """

    def __init__(
        self, keys: KeysCollection, largest_component: bool = False, outside: float = 0.0
    ) -> None:
        super().__init__(keys)
        self.largest_component, self.outside = largest_component, outside

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        found = convert_to_tensor(sample[key]) > 0
        if not bool(found.any()):
            raise ValueError(f"{key} must hold a lesion, got an empty prediction")
        classes = [
            smooth_mask(each, self.largest_component) if each.any() else each
            for each in found.cpu().numpy()
        ]
        clean = torch.from_numpy(np.stack(classes)).to(found.device)
        result = sample[key].clone()
        result[:] = torch.where(clean, 1.0, self.outside).to(result.dtype)
        sample[key] = result
