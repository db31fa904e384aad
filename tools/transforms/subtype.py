"""The condition of a denoiser that is told subtype and histogram: bins, then the subtype."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from tools.metrics.histogram import intensity_histogram

__all__ = [
    "SUBTYPES",
    "SubtypeConditiond",
    "join_condition",
    "lesion_subtype",
    "scaled_window",
]

# the order is that of the numbers 0, 1, 2 (HR-LDM, section 5)
SUBTYPES = ("solid", "part_solid", "ground_glass")


def lesion_subtype(
    texture: float | str | None, solid_from: float = 4.5, part_solid_from: float = 2.5
) -> int:
    """Return the number of a subtype: 0 solid, 1 part-solid, 2 ground-glass, -1 unknown.

    Args:
        texture: mean rating of the readers, 1 (ground-glass) to 5 (solid), or the subtype's name;
            None or not a number: unknown.
        solid_from: lowest rating that is solid.
        part_solid_from: lowest rating that is part-solid; below it is ground-glass.

    Raises:
        ValueError: if the rating is outside [1, 5], the name unknown, or the limits not in order.

    Example:
        >>> lesion_subtype(4.5), lesion_subtype(2.5), lesion_subtype(1.75), lesion_subtype("solid")
        (0, 1, 2, 0)
    """
    if not 1 <= part_solid_from <= solid_from <= 5:
        raise ValueError(
            "part_solid_from and solid_from must be in order between 1 and 5, got "
            f"{part_solid_from} and {solid_from}"
        )
    if texture is None or (not isinstance(texture, str) and math.isnan(texture)):
        return -1
    if isinstance(texture, str):
        if texture not in SUBTYPES:
            raise ValueError(f"texture must be a rating or one of {SUBTYPES}, got {texture!r}")
        return SUBTYPES.index(texture)
    if not 1 <= texture <= 5:
        raise ValueError(f"texture must be a rating from 1 to 5, got {texture:g}")
    if texture >= solid_from:
        return 0
    return 1 if texture >= part_solid_from else 2


def join_condition(
    histogram: Sequence[float] | Tensor | None, subtype: str | int | None, bins: int = 40
) -> list[float]:
    """Return the condition of one lesion: ``bins`` numbers, then the subtype.

    Args:
        histogram: ``bins`` numbers; None: no histogram, all -1.
        subtype: name or number; None, ``"none"`` or -1: no subtype.
        bins: of the histogram.

    Raises:
        ValueError: if the histogram has another length or the subtype is unknown.

    Example:
        >>> join_condition(None, "ground_glass", bins=2)
        [-1.0, -1.0, 2.0]
    """
    row = [-1.0] * bins if histogram is None else [float(share) for share in histogram]
    if len(row) != bins:
        raise ValueError(f"histogram must hold {bins} numbers, got {len(row)}")
    if isinstance(subtype, str) and subtype != "none":
        return [*row, float(lesion_subtype(subtype))]
    number = -1 if subtype in (None, "none") else int(subtype)
    if not -1 <= number < len(SUBTYPES):
        raise ValueError(f"subtype must be in -1..{len(SUBTYPES) - 1}, got {subtype}")
    return [*row, float(number)]


def scaled_window(
    window_hu: Sequence[float], intensity_range: Sequence[float] = (-1000.0, 1000.0)
) -> list[float]:
    """Return the ends of a window of intensities where ``intensity_range`` became [0, 1].

    Args:
        window_hu: lowest and highest intensity.
        intensity_range: intensities that are 0 and 1.

    Raises:
        ValueError: if one of them is not in order.

    Example:
        >>> scaled_window([-1000, 400])
        [0.0, 0.7]
    """
    if not (window_hu[0] < window_hu[1] and intensity_range[0] < intensity_range[1]):
        raise ValueError(
            "window_hu and intensity_range must be two numbers, lowest first, got "
            f"{list(window_hu)} and {list(intensity_range)}"
        )
    low, high = intensity_range
    return [(value - low) / (high - low) for value in window_hu]


class SubtypeConditiond(MapTransform):
    """Add histogram and condition of a lesion: its bins, then the number of its subtype.

    Args:
        keys: the image, channels first.
        mask_key: lesion mask, 1 inside, of the image's size; its channels are put together.
        texture_key: entry with a rating or a name, see :func:`lesion_subtype`; absent: unknown.
        histogram_key: where the histogram goes, ``(bins,)``; all 0 for an empty mask.
        condition_key: where the condition goes, ``(bins + 1,)``; no histogram for an empty mask.
        bins: of the histogram.
        value_range: outer edges of the bins, in the image's scale: [0, 0.7] is [-1000, 400] HU
            where [-1000, 1000] became [0, 1].
        solid_from: see :func:`lesion_subtype`.
        part_solid_from: see :func:`lesion_subtype`.

    Example:
        >>> transform = SubtypeConditiond("image", bins=2)
        >>> image, mask = torch.full((1, 2, 2, 2), 0.1), torch.ones(1, 2, 2, 2)
        >>> transform({"image": image, "label": mask, "texture": "part_solid"})["condition"]
        tensor([1., 0., 1.])
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "label",
        texture_key: str = "texture",
        histogram_key: str = "histogram",
        condition_key: str = "condition",
        bins: int = 40,
        value_range: Sequence[float] = (0.0, 0.7),
        solid_from: float = 4.5,
        part_solid_from: float = 2.5,
    ) -> None:
        super().__init__(keys)
        self.mask_key, self.texture_key = mask_key, texture_key
        self.histogram_key, self.condition_key = histogram_key, condition_key
        self.bins, self.value_range = bins, (float(value_range[0]), float(value_range[1]))
        self.solid_from, self.part_solid_from = solid_from, part_solid_from

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with histogram and condition added."""
        sample = dict(data)
        texture = sample.get(self.texture_key)
        subtype = lesion_subtype(texture, self.solid_from, self.part_solid_from)
        for key in self.key_iterator(sample):
            image = torch.as_tensor(sample[key]).as_subclass(Tensor)[:1]
            mask = torch.as_tensor(sample[self.mask_key]).as_subclass(Tensor) > 0
            mask = mask.any(0, keepdim=True)
            histogram = intensity_histogram(image, mask, self.bins, self.value_range)[0]
            sample[self.histogram_key] = histogram
            asked = histogram if mask.any() else None
            sample[self.condition_key] = torch.tensor(join_condition(asked, subtype, self.bins))
        return sample
