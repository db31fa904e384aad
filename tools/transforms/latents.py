"""What a model of latents is trained on: fixed variants of crops, encoded once, and masks."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.nn import functional

from tools.networks.frozen_autoencoder import encode_latents
from tools.transforms import EachKey
from tools.transforms.conditions import SUBTYPES, lesion_subtype

__all__ = [
    "EncodeLatentsd",
    "RandHealedLatentsd",
    "VariantCropd",
    "VariantIntensityd",
    "latent_mask",
    "latent_mask_channels",
    "repeat_cases",
]

DETAILS = ("max", "nearest", "voxels")


def latent_mask(lesion_mask: Tensor, detail: str = "max", factor: int = 4) -> Tensor:
    """Return a lesion mask at the resolution of the latents, binary, as float.

    A latent belongs to the lesion as soon as one of its voxels does: the nearest voxel would lose
    most of a nodule of 3 to 6 voxels, and half of the voxels all of it. That is all that ``"max"``
    says, which is coarse: a latent is 4 voxels wide. ``"voxels"`` keeps every voxel of the mask as
    a channel of its own, and so the outline; the largest of its channels is ``"max"``.
    ``"nearest"`` is every fourth voxel, as DiffTumor's released weights know masks: a lesion that
    it misses altogether, one in 60 of 3 voxels radius, is taken as ``"max"`` has it.

    Deviation from HR-LDM (section 3.2.1): the paper interpolates the mask, which is binary only
    after a threshold that it does not state, and names the lost outline a limitation.

    ``lesion_mask`` is 1 inside, ``(B, K, H, W, D)`` with sizes that are multiples of ``factor``,
    the voxels per latent; the result ``(B, K, H / factor, ...)``, or ``(B, K * factor**3, ...)``
    for ``"voxels"``. Other sizes or details are a ``ValueError``.

    Example:
        >>> mask = torch.zeros(1, 1, 8, 8, 8)
        >>> mask[..., 3, 3, 3] = 1
        >>> latent_mask(mask).flatten().tolist()
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        >>> latent_mask(mask, "voxels").shape
        torch.Size([1, 64, 2, 2, 2])
    """
    latent_mask_channels(detail)
    if any(size % factor for size in lesion_mask.shape[2:]):
        raise ValueError(
            f"lesion_mask must have sizes that are multiples of {factor}, got "
            f"{tuple(lesion_mask.shape[2:])}"
        )
    mask = (lesion_mask > 0).float()
    if detail in ("max", "nearest"):
        largest = functional.max_pool3d(mask, factor)
        if detail == "max":
            return largest
        every = mask[..., ::factor, ::factor, ::factor]
        return torch.where(every.flatten(2).any(2)[..., None, None, None], every, largest)
    batch, classes, *sizes = mask.shape
    height, width, depth = (size // factor for size in sizes)
    blocks = mask.reshape(batch, classes, height, factor, width, factor, depth, factor)
    blocks = blocks.permute(0, 1, 3, 5, 7, 2, 4, 6)
    return blocks.reshape(batch, classes * factor**3, height, width, depth)


def latent_mask_channels(detail: str = "max", classes: int = 1, factor: int = 4) -> int:
    """Return the number of channels of :func:`latent_mask`."""
    if detail not in DETAILS:
        raise ValueError(f"mask_detail must be one of {DETAILS}, got {detail!r}")
    return classes * (factor**3 if detail == "voxels" else 1)


def repeat_cases(
    files: Sequence[Mapping[str, Any]], variants: int | Sequence[int] = 1
) -> list[dict[str, Any]]:
    """Return every case ``variants`` times, with the number of its ``variant``.

    ``variants`` is one number or one for each subtype, solid first: where nine lesions in ten are
    of one subtype, the rest would else hardly be seen. Cases of unknown subtype take the first. See
    ``texture`` of :func:`tools.transforms.conditions.lesion_subtype`.

    Example:
        >>> repeat_cases([{"image": "a"}], 2)
        [{'image': 'a', 'variant': 0}, {'image': 'a', 'variant': 1}]
        >>> len(repeat_cases([{"texture": "solid"}, {"texture": 1.5}], [1, 2, 4]))
        5
    """
    counts = [variants] * len(SUBTYPES) if isinstance(variants, int) else list(variants)
    if len(counts) != len(SUBTYPES) or min(counts) < 1:
        raise ValueError(
            f"variants must be at least 1, one number or {len(SUBTYPES)}, got {variants}"
        )
    # -1, the unknown, is the first as well
    subtypes = [max(lesion_subtype(case.get("texture")), 0) for case in files]
    return [
        {**case, "variant": number}
        for case, subtype in zip(files, subtypes, strict=True)
        for number in range(counts[subtype])
    ]


class VariantCropd(MapTransform):
    """Cut a cube round the lesion; its place, flips and turns follow from the variant's number.

    An autoencoder does not commute with flips and shifts, so augmentation must come before it. A
    random transform could not be cached; this one gives the same crop for the same case and number,
    so encoded latents can. Variant 0 is centred and not flipped; without ``name`` the mask's own
    voxels tell cases apart. Beyond the border the image is continued by its mirror image, masks by
    0.

    Keys, one of them ``label`` with the lesion (an empty one is cut in the middle), become plain
    tensors; ``size`` is one number or one for each axis. The lesion lies at most ``shift`` voxels
    off the middle along each axis.
    """

    def __init__(
        self, keys: KeysCollection, size: int | Sequence[int] = 64, shift: int = 8
    ) -> None:
        super().__init__(keys)
        if shift < 0:
            raise ValueError(f"shift must be at least 0, got {shift}")
        self.shift, self.size = shift, np.broadcast_to(np.asarray(size), 3)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with its cubes."""
        sample = dict(data)
        inside = (convert_to_tensor(sample["label"]) > 0).any(0).numpy()
        variant, rng = _variant(sample)
        found = np.argwhere(inside)
        middle = (
            (found.min(0) + found.max(0) + 1) // 2 if len(found) else np.array(inside.shape) // 2
        )
        start = middle - self.size // 2
        axes: list[int] = []
        turned = False
        if variant:
            start = start + rng.integers(-self.shift, self.shift + 1, 3)
            axes = [axis + 1 for axis in range(3) if rng.random() < 0.5]
            # a turn needs a cube: the two axes must be as long as each other
            turned = bool(self.size[0] == self.size[1]) and rng.random() < 0.5
        for key in self.key_iterator(sample):
            mode = "constant" if key == "label" else "symmetric"
            cube = _cut(convert_to_tensor(sample[key]).numpy(), start, self.size, mode)
            cube = np.flip(cube, tuple(axes))
            cube = np.swapaxes(cube, 1, 2) if turned else cube
            sample[key] = torch.from_numpy(np.ascontiguousarray(cube))
        return sample


class VariantIntensityd(MapTransform):
    """Scale and shift intensities in [-1, 1] by what follows from the variant's number.

    So a few patients stand for more tissues and phases of contrast. Variant 0 stays as it is; see
    :class:`VariantCropd`. The result, at most ``scale`` (relative) and ``shift`` away, is clipped.
    """

    def __init__(self, keys: KeysCollection, scale: float = 0.1, shift: float = 0.1) -> None:
        super().__init__(keys)
        for name, value in (("scale", scale), ("shift", shift)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be from 0 to below 1, got {value}")
        self.scale, self.shift = scale, shift

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with its images changed, all alike."""
        sample = dict(data)
        variant, rng = _variant(sample)
        factor, offset = 1 + self.scale * rng.uniform(-1, 1), self.shift * rng.uniform(-1, 1)
        for key in self.key_iterator(sample) if variant else ():
            sample[key] = (factor * convert_to_tensor(sample[key]) + offset).clamp(-1, 1)
        return sample


def _variant(sample: Mapping[Hashable, Any]) -> tuple[int, np.random.Generator]:
    """Return the number of a variant, and the chance that belongs to it."""
    variant = int(sample.get("variant", 0))
    if "name" in sample:
        name = str(sample["name"]).encode()
    else:
        name = (convert_to_tensor(sample["label"]) > 0).any(0).numpy().tobytes()
    return variant, np.random.default_rng([zlib.crc32(name), variant])


def _cut(values: np.ndarray, start: np.ndarray, size: np.ndarray, mode: str) -> np.ndarray:
    """Return a box of ``(C, H, W, D)`` that may reach beyond the border."""
    before = np.maximum(-start, 0)
    after = np.maximum(start + size - np.array(values.shape[1:]), 0)
    if before.any() or after.any():
        widths = [(0, 0), *zip(before.tolist(), after.tolist(), strict=True)]
        values = np.pad(values, widths, mode=mode)  # type: ignore[call-overload]
    return values[(slice(None), *map(slice, start + before, start + before + size))]


class EncodeLatentsd(EachKey):
    """Replace an image in [0, 1] by ``latents_key``, ``(C, H / 4, ...)``, the encoder's mean.

    It is multiplied by ``scale_factor``. It holds no chance, so that MONAI's caching data sets keep
    the latents and the encoder runs once for each case: where its weights are; the latents come to
    the CPU.
    """

    def __init__(
        self,
        keys: KeysCollection,
        autoencoder: nn.Module,
        scale_factor: float = 1.0,
        latents_key: str = "latents",
    ) -> None:
        super().__init__(keys)
        self.autoencoder, self.scale_factor = autoencoder, scale_factor
        self.latents_key = latents_key

    @torch.no_grad()
    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        device = next(self.autoencoder.parameters()).device
        image = convert_to_tensor(sample.pop(key))[None].to(device, torch.float32)
        latents = encode_latents(self.autoencoder, image, self.scale_factor)
        sample[self.latents_key] = latents[0].cpu()


class RandHealedLatentsd(RandomizableTransform, EachKey):
    """At random, let the latents round a lesion be those of the image without it.

    An encoder sees beyond a latent's own voxels, and a halo reaches beyond the mask: from latents
    beside a real lesion a denoiser reads what it shall draw. In healthy scans it then finds
    nothing. Latents of which a voxel is lesion (:func:`latent_mask`) stay.

    Args:
        keys: of the latents ``(C, h, w, d)``.
        healed_key: of those of the image without the lesion.
        mask_key: of the lesion masks of the image, ``(K, H, W, D)``.
        prob: that the surroundings are the healed ones.
    """

    def __init__(
        self,
        keys: KeysCollection,
        healed_key: str = "healed",
        mask_key: str = "label",
        prob: float = 0.5,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.healed_key, self.mask_key = healed_key, mask_key

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        self.randomize(None)
        if self._do_transform:
            mask = convert_to_tensor(sample[self.mask_key])[None].float()
            inside = latent_mask(mask).amax(1) > 0
            sample[key] = torch.where(inside, sample[key], sample[self.healed_key])
