"""The rim round a lesion: what a scanner blurs into the surroundings belongs to the lesion too."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor
from nibabel.affines import voxel_sizes
from scipy import ndimage
from torch import Tensor

from tools.transforms import EachKey, as_dtype
from tools.transforms.healing import REACH_MM, heal, heal_wall

__all__ = ["RIM", "HealedSurroundingsd", "HealedTissued", "RandLesionRimd", "with_rim"]

RIM = 0.5  # value of the rim in a mask channel: drawn, but not of the label


def with_rim(
    lesion_mask: Tensor, margin_mm: float, spacing_mm: float | Sequence[float] = 1.0
) -> Tensor:
    """Return masks with 0.5 in the voxels that lie nearer to a lesion than the margin.

    Own addition: LeFusion draws the mask alone, and the change then ends in a step. A voxel of the
    rim belongs to the class that it is nearest to. Masks are ``(K, H, W, D)``, 1 inside, one
    channel per class; distances are taken from middle to middle of voxels. A margin of 0, and empty
    masks, change nothing.

    Example:
        >>> mask = (torch.arange(6) == 0).float().reshape(1, 1, 1, 6)
        >>> with_rim(mask, margin_mm=2.5).flatten().tolist()
        [1.0, 0.5, 0.5, 0.0, 0.0, 0.0]
    """
    lesion = (lesion_mask > RIM).any(0).cpu().numpy()
    if margin_mm <= 0 or not lesion.any():
        return lesion_mask
    distance, nearest = ndimage.distance_transform_edt(
        ~lesion, sampling=np.broadcast_to(spacing_mm, 3), return_indices=True
    )
    rim = torch.from_numpy(~lesion & (distance < margin_mm)).to(lesion_mask.device)
    index = tuple(torch.from_numpy(part).long().to(lesion_mask.device) for part in nearest)
    owner = torch.stack([channel[index] for channel in lesion_mask])
    return torch.where(rim, RIM * (owner > RIM).to(lesion_mask), lesion_mask)


class HealedSurroundingsd(EachKey):
    """Add the image with the lesion, and the rim round it, replaced by what lies around.

    See :mod:`tools.transforms.healing`; the noise is the same whenever a case is loaded.

    Args:
        keys: of an image ``(1, H, W, D)``.
        mask_key: of its masks, or its label map, which has an affine if it is of a wall.
        healed_key: of the result.
        margin_mm: of the rim that is healed.
        spacing_mm: of a voxel; an affine says it where ``wall`` is given.
        classes: labels that are lesion; None: all above 0.
        wall: labels of the wall that lesions lie in, theirs included; None: they lie anywhere.
        cavity: labels of what the wall encloses.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "label",
        healed_key: str = "healed",
        margin_mm: float = 3.0,
        spacing_mm: float = 1.0,
        classes: Sequence[int] | None = None,
        wall: Sequence[int] | None = None,
        cavity: Sequence[int] = (),
    ) -> None:
        super().__init__(keys)
        self.mask_key, self.healed_key = mask_key, healed_key
        self.margin_mm, self.spacing_mm = margin_mm, (spacing_mm,) * 3
        self.classes, self.wall, self.cavity = classes, wall, cavity

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        image, label = convert_to_tensor(sample[key]), sample[self.mask_key]
        labels = convert_to_tensor(label).cpu().numpy()
        lesion = labels > 0 if self.classes is None else np.isin(labels, self.classes)
        inside = np.asarray(lesion.any(0))
        rng = np.random.default_rng(int(inside.sum()))
        parts = [self._healed(x.cpu().numpy(), inside, labels, label, rng) for x in image]
        sample[self.healed_key] = torch.from_numpy(np.stack(parts))

    def _healed(
        self,
        image: np.ndarray,
        inside: np.ndarray,
        labels: np.ndarray,
        placed: Any,
        rng: np.random.Generator,
    ) -> np.ndarray:
        if self.wall is None:
            return heal(image, inside, self.spacing_mm, rng, self.margin_mm)
        wall, cavity = (
            np.asarray(np.isin(labels, part).any(0)) for part in (self.wall, self.cavity)
        )
        affine = np.asarray(placed.affine, float)
        return heal_wall(image, inside, wall, cavity, affine, rng, self.margin_mm)


class HealedTissued(HealedSurroundingsd):
    """Take lesions, and the rim round them, out of an image: what is drawn there shall owe nothing.

    The masks of a datalist are those of real lesions. Voxels at ``margin_mm`` and farther keep
    their bits; integers are rounded. Each lesion is healed in a part of the image of its own, but
    in a wall.

    Args:
        keys: of an image ``(1, H, W, D)``; voxels are as wide as its affine says, else 1 mm.
        mask_key: see :class:`HealedSurroundingsd`.
        margin_mm: of the rim; None leaves the image as it is, for masks in healthy tissue.
        classes: see :class:`HealedSurroundingsd`.
        wall: likewise.
        cavity: likewise.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "label",
        margin_mm: float | None = 0.0,
        classes: Sequence[int] | None = None,
        wall: Sequence[int] | None = None,
        cavity: Sequence[int] = (),
    ) -> None:
        # what lies at the margin itself is not changed afterwards
        width = 0.0 if not margin_mm else float(np.nextafter(margin_mm, 0))
        super().__init__(keys, mask_key, "", width, 1.0, classes, wall, cavity)
        self.heals = margin_mm is not None

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        if not self.heals:
            return
        image, label = sample[key], sample[self.mask_key]
        labels = convert_to_tensor(label).cpu().numpy()
        lesion = labels > 0 if self.classes is None else np.isin(labels, self.classes)
        inside = np.asarray(lesion.any(0))
        before = convert_to_tensor(image).cpu().float().numpy()[0]
        affine = getattr(image, "affine", None)
        spacing = (1.0,) * 3 if affine is None else tuple(voxel_sizes(np.asarray(affine, float)))
        if self.wall is None:
            after = self._pieces(before, inside, spacing)
        else:
            rng = np.random.default_rng(int(inside.sum()))
            after = self._healed(before, inside, labels, label, rng)
        changed = torch.from_numpy(after != before)[None].to(image.device)
        values = torch.from_numpy(after)[None].to(image.device)[changed]
        result = image.clone()
        result[changed] = as_dtype(values, image.dtype)
        sample[key] = result

    def _pieces(
        self, image: np.ndarray, inside: np.ndarray, spacing: tuple[float, ...]
    ) -> np.ndarray:
        """Return the image with each connected lesion healed in a box that holds its ring."""
        pieces, _ = ndimage.label(inside, np.ones((3, 3, 3)))
        result, reach = image.copy(), self.margin_mm + REACH_MM + max(spacing)
        for number, found in enumerate(ndimage.find_objects(pieces), 1):
            more = np.ceil(reach / np.array(spacing)).astype(int)
            sides = zip(found, more, strict=True)
            box = tuple(slice(max(0, part.start - n), part.stop + n) for part, n in sides)
            own = pieces[box] == number
            rng = np.random.default_rng(int(own.sum()))
            healed = heal(image[box], inside[box], spacing, rng, self.margin_mm)
            near = ndimage.distance_transform_edt(~own, sampling=spacing) <= self.margin_mm
            result[box][near] = healed[near]
        return result


class RandLesionRimd(RandomizableTransform, EachKey):
    """Let a lesion be drawn with a rim of random width, at random in healed surroundings.

    So one network learns all margins, and learns to draw the rim where nothing outside tells of it,
    as in the healthy scans of users. The mask gets 0.5 in the rim (:func:`with_rim`).

    Args:
        keys: of the image.
        mask_key: of its masks, ``(K, H, W, D)``.
        healed_key: of the image without the lesion; a sample that lacks it keeps its surroundings.
        known_key: of the box of voxels that were scanned, ``[[first, end], ...]``; nothing beyond
            it is a rim. A sample that lacks it was scanned whole.
        margins_mm: one is drawn for each sample.
        prob: that the surroundings are the healed ones.
        spacing_mm: of a voxel.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "label",
        healed_key: str = "healed",
        known_key: str = "known",
        margins_mm: Sequence[float] = (0.0, 1.0, 2.0, 3.0),
        prob: float = 0.5,
        spacing_mm: float | Sequence[float] = 1.0,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.mask_key, self.healed_key, self.known_key = mask_key, healed_key, known_key
        self.margins_mm, self.spacing_mm = tuple(margins_mm), spacing_mm

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        self.randomize(None)
        margin_mm = self.margins_mm[self.R.randint(len(self.margins_mm))]
        lesion = convert_to_tensor(sample[self.mask_key]).float()
        drawn = with_rim(lesion, margin_mm, self.spacing_mm)
        if self.known_key in sample:
            scanned = torch.zeros(drawn.shape[1:], dtype=torch.bool)
            scanned[tuple(slice(*part) for part in sample[self.known_key])] = True
            drawn = torch.where(scanned, drawn, lesion)
        sample[self.mask_key] = drawn
        if self._do_transform and self.healed_key in sample:
            image, healed = (convert_to_tensor(sample[name]) for name in (key, self.healed_key))
            sample[key] = torch.where((drawn > 0).any(0), image, healed)
