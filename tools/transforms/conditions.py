"""What a denoiser is told of a lesion: its histogram and subtype, and what evaluation asks for."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor
from torch import Tensor

from tools.histograms import (
    adapt_histogram,
    histogram_preset,
    intensity_histogram,
    load_presets,
    match_histogram,
)
from tools.intensity import tissue_levels
from tools.transforms import EachKey
from tools.transforms.rim import RIM

__all__ = [
    "SUBTYPES",
    "LesionHistogramd",
    "RandHistogramTransferd",
    "StackRequestsd",
    "SubtypeConditiond",
    "TissueHistogramd",
    "derangement",
    "join_condition",
    "lesion_subtype",
    "with_other_case",
]

# the order is that of the numbers 0, 1, 2 (HR-LDM, section 5)
SUBTYPES = ("solid", "part_solid", "ground_glass")
REMEMBERED = 256
TRANSFER_BINS = 64  # many, so that the shape of a peak survives; not those of the condition


class LesionHistogramd(EachKey):
    """Add the intensity histogram inside the lesion mask, one block of bins per lesion class.

    The image was scaled so that the intensity window became [-1, 1]; the mask has one channel per
    class, 1 inside. The result ``(classes * bins,)`` has zeros for an absent class.
    """

    def __init__(
        self,
        keys: KeysCollection,
        bins: int,
        mask_key: str = "label",
        histogram_key: str = "histogram",
    ) -> None:
        super().__init__(keys)
        self.bins, self.mask_key, self.histogram_key = bins, mask_key, histogram_key

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        mask = convert_to_tensor(sample[self.mask_key]) > RIM
        image = convert_to_tensor(sample[key]).expand(mask.shape)
        sample[self.histogram_key] = intensity_histogram(image, mask, self.bins).flatten()


class RandHistogramTransferd(RandomizableTransform, EachKey):
    """Give a lesion the histogram of another lesion seen before, keeping its spatial pattern.

    Own training augmentation (not in the paper): it breaks the link between surroundings and lesion
    intensity, so that the network learns to obey the histogram instead of guessing it from context.
    The transform remembers the histograms of the last 256 lesions it has seen since it was seeded
    (in a training: with each epoch, so that one that goes on remembers the same). Images lie in
    [-1, 1]; masks have one channel, or one per class for an image of one channel, and each class
    remembers histograms of its own. A rim stays as far above its surroundings, in proportion, as
    the lesion now is: above ``healed_key``, the image without the lesion, or, of a sample that
    lacks it, above the median of what is no lesion.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "label",
        prob: float = 0.25,
        healed_key: str = "healed",
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.mask_key, self.healed_key = mask_key, healed_key
        self.pools: dict[int, list[Tensor]] = {}

    def set_random_state(self, seed: int | None = None, state: Any = None) -> Any:
        """Begin anew, with nothing remembered."""
        self.pools = {}
        return super().set_random_state(seed, state)

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        self.randomize(None)
        image = convert_to_tensor(sample[key])
        masks = convert_to_tensor(sample[self.mask_key])
        if self.healed_key in sample:
            around = convert_to_tensor(sample[self.healed_key])
        else:
            beyond = (masks == 0).all(0, True)
            level = image[beyond].median() if beyond.any() else image.min()
            around = torch.full_like(image, float(level))
        changed = image.clone()
        for number, mask in enumerate(masks.split(1)):
            inside, rim = mask > RIM, mask == RIM
            if inside.any():
                changed[inside] = self._transfer(image, inside, number)
                changed[rim] = self._blurred(image, changed, around, inside, rim)
        sample[key] = sample[key].clone().copy_(changed)

    @staticmethod
    def _blurred(
        image: Tensor, changed: Tensor, around: Tensor, inside: Tensor, rim: Tensor
    ) -> Tensor:
        """Return the rim, as far above its surroundings as the lesion now is."""
        before = (image - around)[inside].mean()
        share = (changed - around)[inside].mean() / before if before.abs() > 0.01 else 1.0
        return (around[rim] + share * (image - around)[rim]).clamp(-1, 1)

    def _transfer(self, image: Tensor, inside: Tensor, number: int) -> Tensor:
        """Return the values of a lesion, re-mapped or not, and remember its histogram."""
        pool = self.pools.setdefault(number, [])
        values = image[inside]
        own = intensity_histogram(image, inside, TRANSFER_BINS)[0]
        if self._do_transform and pool:
            values = match_histogram(values, pool[self.R.randint(len(pool))])
        self.pools[number] = [*pool, own][-REMEMBERED:]
        return values


class TissueHistogramd(EachKey):
    """Add ``histogram``, that of a preset as it would look in this scan, ``(classes * bins,)``.

    For images without units, scaled to the range of the presets; the first channel is measured.
    Without wall (``wall``: labels of the healthy one) or ``cavity`` (the blood pool) in the label
    map, an integer one with the lesions drawn in, there is nothing to adapt to: the preset is taken
    as it stands in the file, as are those that do not state their ``tissue``, see
    :func:`tools.histograms.load_presets`. Absent ``classes`` have zeros; they are the label of each
    lesion class, in the order of the blocks.

    A name of "none" or None (no control) writes -1 throughout. A preset that is not there, or has
    another number of bins, is a ``ValueError``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        path: str | Path,
        name: str | None,
        bins: int,
        label_key: str = "label",
        wall: Sequence[int] = (2,),
        cavity: Sequence[int] = (1,),
        classes: Sequence[int] = (3, 4),
    ) -> None:
        super().__init__(keys)
        presets = load_presets(path)
        if name not in (*presets, "none", None):
            raise ValueError(f"name must be one of {sorted(presets)} or none, got {name!r}")
        self.size, held = bins * len(classes), len(next(iter(presets.values()))["histogram"])
        if self.size != held:
            raise ValueError(
                f"bins and classes must be those of the presets, {held} numbers, got {bins} for "
                f"each of {list(classes)}"
            )
        self.preset = None if name in ("none", None) else presets[str(name)]
        self.label_key = label_key
        self.wall, self.cavity, self.classes = list(wall), list(cavity), list(classes)

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        label = convert_to_tensor(sample[self.label_key]).cpu().numpy()[0]
        image = convert_to_tensor(sample[key]).float().cpu().numpy()[0]
        sample["histogram"] = self._histogram(image, label)

    def _histogram(self, image: np.ndarray, label: np.ndarray) -> Tensor:
        if self.preset is None:
            return torch.full((self.size,), -1.0)
        histogram, tissue = self.preset["histogram"], self.preset.get("tissue")
        if tissue and np.isin(label, self.wall).any() and np.isin(label, self.cavity).any():
            levels = tissue_levels(image, label, self.wall, self.cavity)
            histogram = adapt_histogram(
                histogram, tissue, levels, len(self.classes), gain=self.preset["gain"]
            )
        blocks = torch.tensor(histogram, dtype=torch.float32).reshape(len(self.classes), -1)
        present = torch.tensor([bool((label == name).any()) for name in self.classes])
        return (blocks * present[:, None]).flatten()


def lesion_subtype(
    texture: float | str | None, solid_from: float = 4.5, part_solid_from: float = 2.5
) -> int:
    """Return the number of a subtype: 0 solid, 1 part-solid, 2 ground-glass, -1 unknown.

    ``texture`` is the mean rating of the readers, 1 (ground-glass) to 5 (solid), or the subtype's
    name; None or not a number: unknown. The limits are the lowest ratings of their subtypes. A
    rating outside [1, 5], an unknown name or limits that are not in order are a ``ValueError``.

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
    return 0 if texture >= solid_from else 1 if texture >= part_solid_from else 2


def join_condition(
    histogram: Sequence[float] | Tensor | None, subtype: str | int | None, bins: int
) -> list[float]:
    """Return the condition of one lesion: ``bins`` numbers, then the subtype.

    Without a histogram they are -1, and so is no subtype, which is None or "none".

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


class SubtypeConditiond(EachKey):
    """Add the histogram ``(bins,)`` of a lesion, and its condition: the bins, then the subtype.

    The lesion is ``label``, 1 inside, all channels put together; ``texture`` is a rating or a name,
    see :func:`lesion_subtype`; absent: unknown. For an empty mask the histogram is 0, and the
    condition has none. ``value_range`` are the outer edges of the bins, in the image's scale: [0,
    0.7] is [-1000, 400] HU where [-1000, 1000] became [0, 1].

    Example:
        >>> transform = SubtypeConditiond("image", bins=2)
        >>> image, mask = torch.full((1, 2, 2, 2), 0.1), torch.ones(1, 2, 2, 2)
        >>> transform({"image": image, "label": mask, "texture": "part_solid"})["condition"]
        tensor([1., 0., 1.])
    """

    def __init__(
        self,
        keys: KeysCollection,
        bins: int,
        histogram_key: str = "histogram",
        condition_key: str = "condition",
        value_range: Sequence[float] = (0.0, 0.7),
    ) -> None:
        super().__init__(keys)
        self.histogram_key, self.condition_key = histogram_key, condition_key
        self.bins, self.value_range = bins, (float(value_range[0]), float(value_range[1]))

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        subtype = lesion_subtype(sample.get("texture"))
        image = convert_to_tensor(sample[key])[:1]
        mask = (convert_to_tensor(sample["label"]) > 0).any(0, keepdim=True)
        histogram = intensity_histogram(image, mask, self.bins, self.value_range)[0]
        sample[self.histogram_key] = histogram
        asked = histogram if mask.any() else None
        sample[self.condition_key] = torch.tensor(join_condition(asked, subtype, self.bins))


def derangement(count: int, seed: int = 0) -> list[int]:
    """Return a random permutation that leaves nothing in its place, all equally likely."""
    if count < 2:
        raise ValueError(f"count must be at least 2, got {count}")
    rng = np.random.default_rng(seed)
    while True:  # about e attempts
        order = rng.permutation(count)
        if (order != np.arange(count)).all():
            return order.tolist()


def with_other_case(
    files: Sequence[Mapping[str, Any]], every_nth: int = 1, seed: int = 0
) -> list[dict[str, Any]]:
    """Give every nth case of a datalist image and label of another one, drawn at random.

    Example:
        >>> files = [{"image": "a", "label": "c"}, {"image": "b", "label": "d"}]
        >>> with_other_case(files)[0]
        {'image': 'a', 'label': 'c', 'other_image': 'b', 'other_label': 'd'}
    """
    cases = files[::every_nth]
    order = derangement(len(cases), seed)
    return [
        {**case, "other_image": cases[i]["image"], "other_label": cases[i]["label"]}
        for case, i in zip(cases, order, strict=True)
    ]


class StackRequestsd(MapTransform):
    """Stack histograms ``(bins,)``, a row of -1 (no control) and presets: the requests of one case.

    ``presets`` are names in a file, see :func:`tools.histograms.load_presets`; the result is
    ``(len(keys) + 1 + len(presets), bins)``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        path: str | Path,
        presets: Sequence[str] = (),
        name: str = "requests",
    ) -> None:
        super().__init__(keys)
        self.presets = [torch.tensor(histogram_preset(path, preset)) for preset in presets]
        self.name = name

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with the requests added."""
        sample = dict(data)
        rows = [convert_to_tensor(sample[key]) for key in self.key_iterator(sample)]
        rows = [*rows, torch.full_like(rows[0], -1), *self.presets]
        sample[self.name] = torch.stack([row.float() for row in rows])
        return sample
