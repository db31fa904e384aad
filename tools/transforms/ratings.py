"""From lesions that readers rated to what a classifier learns: patches, classes, their balance."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.utils import convert_to_tensor

from tools.transforms import EachKey

__all__ = [
    "LesionPatchd",
    "RatingClassd",
    "balanced_weights",
    "lesion_patch",
    "patch_from",
    "rating_class",
]

Classes = Mapping[str, Sequence[float]]


def rating_class(rating: float | str | None, classes: Classes) -> int | None:
    """Return the number of the first class whose range holds a rating; None: there is none.

    Args:
        rating: a mean over readers, or the name of a class; None, NaN and 0 were not given.
        classes: lowest and highest rating of each, both included, in the order of their numbers.

    Raises:
        ValueError: if there is no class, or a range is not one.

    Example:
        >>> subtypes = {"solid": [4.5, 5], "part_solid": [2.5, 4.5], "ground_glass": [1, 2.5]}
        >>> [rating_class(rating, subtypes) for rating in (4.5, 3.0, 1.75, "solid", None)]
        [0, 1, 2, 0, None]
        >>> rating_class(3.0, {"benign": [1, 2], "malignant": [4, 5]}) is None
        True
    """
    if not classes or any(len(ends) != 2 or ends[0] > ends[1] for ends in classes.values()):
        raise ValueError(f"classes must have lowest and highest rating each, got {dict(classes)}")
    if isinstance(rating, str):
        return list(classes).index(rating) if rating in classes else None
    if not rating or math.isnan(rating):
        return None
    fits = (number for number, (low, high) in enumerate(classes.values()) if low <= rating <= high)
    return next(fits, None)


def balanced_weights(files: Sequence[Mapping[str, Any]], key: str, classes: Classes) -> list[float]:
    """Return how often each entry is to be drawn, so that all classes that are there are alike.

    Args:
        files: entries with a rating under ``key``, each of which has a class.
        key: of the rating.
        classes: see :func:`rating_class`.

    Returns:
        Weights that add up to the number of classes that are there.

    Raises:
        ValueError: if an entry has no class.

    Example:
        >>> classes = {"benign": [1, 2], "malignant": [4, 5]}
        >>> balanced_weights([{"m": 1}, {"m": 2}, {"m": 5}], "m", classes)
        [0.5, 0.5, 1.0]
    """
    numbers = [rating_class(entry.get(key), classes) for entry in files]
    if None in numbers:
        odd = files[numbers.index(None)].get(key)
        raise ValueError(f"{key} must be a rating of the classes {list(classes)}, got {odd!r}")
    return [1 / numbers.count(number) for number in numbers]


def lesion_patch(image: np.ndarray, label: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return the voxels round the middle of all that is marked; the mirror image beyond the scan.

    Args:
        image: ``(H, W, D)``.
        label: lesion above 0, same shape; empty: the middle of the image is taken.
        size: voxels of the patch.

    Returns:
        An array of that size and the type of the image.

    Example:
        >>> image = np.arange(6)[:, None, None] * np.ones((1, 2, 2), int)
        >>> lesion_patch(image, image == 4, (4, 2, 2))[:, 0, 0].tolist()
        [2, 3, 4, 5]
    """
    marked = np.argwhere(label > 0)
    ends = (marked.min(0), marked.max(0) + 1) if len(marked) else (np.zeros(3), image.shape)
    return patch_from(image, np.floor((np.add(*ends) - np.asarray(size)) / 2).astype(int), size)


def patch_from(image: np.ndarray, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """Return the voxels from a first one on; the mirror image beyond the scan.

    Args:
        image: ``(H, W, D)``.
        start: index of the first voxel, which may lie outside.
        size: voxels of the patch.
    """
    index = []
    for first, count, length in zip(start, size, image.shape, strict=True):
        places = np.arange(first, first + count) % (2 * length)  # whole mirror images take turns
        index.append(np.where(places < length, places, 2 * length - 1 - places))
    return image[np.ix_(*index)]


class LesionPatchd(EachKey):
    """Cut the patch round a lesion, see :func:`lesion_patch`.

    The sample gets ``filename_or_obj``, by which MONAI names the row of a prediction. Without a
    mask the middle of the image is taken to be the lesion's.

    Args:
        keys: images ``(1, H, W, D)``.
        size: voxels of the patch.
        mask_key: mask ``(1, H, W, D)`` of one lesion.
    """

    def __init__(
        self, keys: KeysCollection, size: Sequence[int], mask_key: str = "lesion_mask"
    ) -> None:
        super().__init__(keys)
        self.size, self.mask_key = tuple(int(n) for n in size), mask_key

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        image = sample[key]
        values = convert_to_tensor(image)[0].numpy()
        mask = sample.get(self.mask_key)
        label = np.zeros(values.shape) if mask is None else convert_to_tensor(mask)[0].numpy()
        patch = torch.from_numpy(lesion_patch(values, label, self.size).copy())
        sample[key] = patch[None]
        if isinstance(image, MetaTensor):
            sample["filename_or_obj"] = str(image.meta.get("filename_or_obj", ""))


class RatingClassd(EachKey):
    """Replace a rating by the number of its class, a whole number, see :func:`rating_class`.

    Args:
        keys: of the rating.
        classes: names with lowest and highest rating.
        class_key: of the number.

    Raises:
        ValueError: for a rating without class.

    Example:
        >>> transform = RatingClassd("malignancy", {"benign": [1, 2], "malignant": [4, 5]})
        >>> transform({"malignancy": 4.25})["label"]
        tensor(1)
    """

    def __init__(self, keys: KeysCollection, classes: Classes, class_key: str = "label") -> None:
        super().__init__(keys)
        self.classes, self.class_key = dict(classes), class_key

    def _change(self, sample: dict[Hashable, Any], key: Hashable) -> None:
        number = rating_class(sample[key], self.classes)
        if number is None:
            raise ValueError(
                f"{key} must be a rating of the classes {list(self.classes)}, got {sample[key]!r}"
            )
        sample[self.class_key] = torch.tensor(number)
