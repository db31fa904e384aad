"""Histogram conditions: measured, requested by name, perturbed, and imposed on a lesion."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor

from tools.metrics.histogram import intensity_histogram

__all__ = [
    "LesionHistogramd",
    "RandHistogramTransferd",
    "choose_preset",
    "histogram_preset",
    "load_presets",
    "match_histogram",
    "normalize_blocks",
    "perturb_histogram",
]


def load_presets(path: str | Path) -> dict[str, dict[str, Any]]:
    """Return the named histograms of a presets file, checked.

    Args:
        path: JSON with ``bins``, ``presets: {name: {"histogram": [...], "weight": w}}`` and, where
            there are several lesion classes, ``classes``: each has a block of bins of its own, all
            zero where the preset says nothing of the class. An entry may also state ``tissue``, and
            the file a ``gain``, see :func:`tools.transforms.tissue.adapt_histogram`.

    Returns:
        ``{name: {"histogram": list of classes * bins numbers, each block of sum 1 or 0, "weight":
        float}}``; with ``"tissue": [myocardium, blood]`` and ``"gain"`` (1 if the file states none)
        where the entry states its tissue.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if a histogram has the wrong length, a negative entry, or no weight at all.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"histogram presets must be an existing JSON file, got {path}")
    content = json.loads(Path(path).read_text())
    classes = int(content.get("classes", 1))
    size = classes * int(content["bins"])
    presets = {}
    for name, entry in content["presets"].items():
        histogram = np.asarray(entry["histogram"], dtype=float)
        if histogram.shape != (size,) or histogram.min() < 0 or histogram.sum() <= 0:
            raise ValueError(
                f"preset {name!r} of {path} must hold {size} non-negative numbers, "
                f"got {entry['histogram']}"
            )
        weight = float(entry.get("weight", 1.0))
        presets[name] = {"histogram": normalize_blocks(histogram, classes), "weight": weight}
        if "tissue" in entry:
            presets[name]["tissue"] = [float(level) for level in entry["tissue"]]
            presets[name]["gain"] = float(content.get("gain", 1.0))
    return presets


def normalize_blocks(histogram: Sequence[float] | np.ndarray, classes: int = 1) -> list[float]:
    """Return blocks of bins side by side, each divided by its sum; a block of zeros stays zero.

    Args:
        histogram: non-negative numbers, ``(classes * bins,)``.
        classes: number of blocks.

    Raises:
        ValueError: if the length is no multiple of ``classes``.

    Example:
        >>> normalize_blocks([3, 1, 0, 0], classes=2)
        [0.75, 0.25, 0.0, 0.0]
    """
    values = np.asarray(histogram, dtype=float)
    if values.ndim != 1 or classes < 1 or values.size % classes:
        raise ValueError(
            f"histogram must be a row of {classes} blocks of equal length, got shape {values.shape}"
        )
    blocks = values.reshape(classes, -1)
    total = blocks.sum(1, keepdims=True)
    return (blocks / np.where(total > 0, total, 1)).ravel().tolist()


def histogram_preset(path: str | Path, name: str | None) -> list[float] | None:
    """Return one named histogram; ``None`` or ``"none"`` means no histogram control.

    Args:
        path: presets file, see :func:`load_presets`.
        name: a name of that file.

    Raises:
        ValueError: if the file has no such preset; the message lists those it has.
    """
    if name is None or name == "none":
        return None
    presets = load_presets(path)
    if name not in presets:
        raise ValueError(f"preset must be one of {sorted(presets)} or none, got {name!r}")
    return presets[name]["histogram"]


def choose_preset(presets: Mapping[str, Mapping[str, Any]], rng: np.random.Generator) -> str:
    """Draw the name of a preset by the weights (the paper's 75:20:5 is mostly solid)."""
    names = list(presets)
    weights = np.array([presets[name]["weight"] for name in names], dtype=float)
    return names[rng.choice(len(names), p=weights / weights.sum())]


def perturb_histogram(
    histogram: Sequence[float], rng: np.random.Generator, amount: float = 0.1, classes: int = 1
) -> list[float]:
    """Fluctuate each component by up to ``amount`` of itself and keep the sum at 1.

    LeFusion (section 4.1) asks for components within 10 % and a sum of 1. Its code lets the sum
    drift; here the factors are drawn in a range narrow enough that the final division cannot push a
    component beyond ``amount``.

    Args:
        histogram: non-negative numbers that sum to 1, in each block if there are several.
        rng: source of chance.
        amount: largest relative change of a component, in [0, 1).
        classes: number of blocks side by side, each of which keeps its sum; zeros stay zero.
    """
    values = np.asarray(histogram, dtype=float)
    half = amount / (2 + amount)  # (1 + half) / (1 - half) = 1 + amount
    values = values * rng.uniform(1 - half, 1 + half, size=values.shape)
    return normalize_blocks(values, classes)


def match_histogram(
    values: Tensor, histogram: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)
) -> Tensor:
    """Return ``values`` re-mapped by rank so that their histogram is the given one.

    Exact histogram specification: the value of rank r of n becomes the quantile (r + 1/2) / n of
    the piecewise uniform distribution that ``histogram`` describes, so the order of the voxels, and
    with it the spatial pattern, stays.

    Args:
        values: intensities of one lesion, shape ``(n,)``; n may be 0.
        histogram: non-negative weights, shape ``(bins,)``.
        value_range: outer edges of the bins.

    Example:
        >>> match_histogram(torch.tensor([0.3, 0.1]), torch.tensor([0.5, 0.5]))
        tensor([ 0.5000, -0.5000])
    """
    if values.numel() == 0:
        return values
    weights = histogram.double().to(values.device)
    edges = torch.cat([weights.new_zeros(1), (weights / weights.sum()).cumsum(0)])
    quantile = (torch.arange(values.numel(), device=values.device).double() + 0.5) / values.numel()
    index = torch.searchsorted(edges, quantile, right=True).clamp(1, weights.numel()) - 1
    width = (edges[index + 1] - edges[index]).clamp(min=1e-12)
    position = index + ((quantile - edges[index]) / width).clamp(0, 1)
    low, high = value_range
    targets = low + position * ((high - low) / weights.numel())
    result = torch.empty_like(values)
    result[values.argsort(stable=True)] = targets.to(values.dtype)
    return result


class LesionHistogramd(MapTransform):
    """Add the intensity histogram inside the lesion mask, one block of bins per lesion class.

    Args:
        keys: the image, channels first, scaled so that the intensity window spans ``value_range``.
        mask_key: lesion mask of one channel per class, 1 inside.
        histogram_key: where the histogram goes, a float tensor of shape ``(classes * bins,)``.
        bins: bins per class.
        value_range: outer edges of the bins.
        allow_missing_keys: skip samples without the image.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "label",
        histogram_key: str = "histogram",
        bins: int = 16,
        value_range: Sequence[float] = (-1.0, 1.0),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key, self.histogram_key = mask_key, histogram_key
        self.bins, self.value_range = bins, (float(value_range[0]), float(value_range[1]))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with ``histogram_key`` added; an absent class has a block of zeros."""
        sample = dict(data)
        for key in self.key_iterator(sample):
            mask = torch.as_tensor(sample[self.mask_key]).as_subclass(Tensor)
            image = torch.as_tensor(sample[key]).as_subclass(Tensor).expand(mask.shape)
            blocks = intensity_histogram(image, mask, self.bins, self.value_range)
            sample[self.histogram_key] = blocks.flatten()
        return sample


class RandHistogramTransferd(RandomizableTransform, MapTransform):
    """Give a lesion the histogram of another lesion seen before, keeping its spatial pattern.

    Own training augmentation (not in the paper): it breaks the link between surroundings and
    lesion intensity, so that the network learns to obey the histogram instead of guessing it from
    context. The transform remembers the histograms of the last ``pool_size`` lesions it has seen.

    Args:
        keys: the image, channels first, scaled to ``value_range``.
        mask_key: lesion mask with one channel, or one per class for an image of one channel; each
            class remembers histograms of its own.
        prob: probability of a transfer.
        pool_size: number of histograms remembered.
        bins: bins of the remembered histograms; many, so that the shape of a peak survives.
        value_range: outer edges of the bins.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "label",
        prob: float = 0.25,
        pool_size: int = 256,
        bins: int = 64,
        value_range: Sequence[float] = (-1.0, 1.0),
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.mask_key, self.bins, self.pool_size = mask_key, bins, pool_size
        self.value_range = (float(value_range[0]), float(value_range[1]))
        self.pools: dict[int, list[Tensor]] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample, its lesion re-mapped with probability ``prob``."""
        sample = dict(data)
        self.randomize(None)
        for key in self.key_iterator(sample):
            plain = torch.as_tensor(sample[key]).as_subclass(Tensor)
            masks = torch.as_tensor(sample[self.mask_key]).as_subclass(Tensor) > 0
            changed = plain.clone()
            for number, inside in enumerate(masks.split(1)):
                if inside.any():
                    changed[inside] = self._transfer(plain, inside, number)
            sample[key] = sample[key].clone().copy_(changed)
        return sample

    def _transfer(self, image: Tensor, inside: Tensor, number: int) -> Tensor:
        """Return the values of a lesion, re-mapped or not, and remember its histogram."""
        pool = self.pools.setdefault(number, [])
        values = image[inside]
        own = intensity_histogram(image, inside, self.bins, self.value_range)[0]
        if self._do_transform and pool:
            values = match_histogram(values, pool[self.R.randint(len(pool))], self.value_range)
        self.pools[number] = [*pool, own][-self.pool_size :]
        return values
