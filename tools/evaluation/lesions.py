"""Real lesions to measure on: windows of the model's grid, their masks, their own histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tools.histograms import intensity_histogram
from tools.intensity import HuWindow
from tools.windows import window_size

__all__ = ["ValidationLesion", "load_lesions", "mean_hu", "scale_window", "window_box"]


class ValidationLesion(NamedTuple):
    """A real lesion in the smallest window that the network can work in.

    Attributes:
        name: of the case.
        patient: lesions of one patient never lie on both sides of a split.
        image: scan scaled to [-1, 1], shape ``(1, H, W, D)``.
        lesion_mask: 1 inside the lesion, float, same shape.
        histogram: of the real intensities inside the mask, shape ``(bins,)``.
    """

    name: str
    patient: str
    image: Tensor
    lesion_mask: Tensor
    histogram: Tensor


def scale_window(image: np.ndarray, window_hu: Sequence[float]) -> np.ndarray:
    """Return HU clipped to the window and mapped to [-1, 1]."""
    return HuWindow(*window_hu).scaled(image.astype(np.float32))


def mean_hu(image: Tensor, lesion_mask: Tensor, window_hu: Sequence[float]) -> float:
    """Return the mean HU inside the lesion of an image scaled to [-1, 1]."""
    return float(HuWindow(*window_hu).unscaled(image[lesion_mask > 0].double().mean()))


def window_box(
    lesion_mask: np.ndarray, margin_mm: float = 5.0, step: int = 8
) -> tuple[slice, slice, slice]:
    """Return the smallest cube about a lesion that holds it and its margin, moved inside the array.

    Args:
        lesion_mask: True inside the lesion, on a grid of 1 mm.
        margin_mm: surroundings on each side; less where the array ends.
        step: the side is a multiple of this.

    Raises:
        ValueError: if the mask is empty, or no such cube inside the array holds the lesion.

    Example:
        >>> mask = np.zeros((32, 32, 32), bool)
        >>> mask[2, 10, 20] = True
        >>> window_box(mask)
        (slice(0, 24, None), slice(0, 24, None), slice(8, 32, None))
    """
    voxels = np.argwhere(lesion_mask)
    if len(voxels) == 0:
        raise ValueError("lesion_mask must hold a lesion, got an empty mask")
    low, high = voxels.min(0), voxels.max(0) + 1
    side = window_size(float((high - low).max()), 1.0, margin_mm, multiple=step)
    side = min(side, min(lesion_mask.shape) // step * step)
    if side < (high - low).max():
        raise ValueError(
            f"lesion_mask must fit a cube of {side} voxels inside its array of shape "
            f"{lesion_mask.shape}, got an extent of {(high - low).tolist()}"
        )
    start = np.clip((low + high - side) // 2, 0, np.array(lesion_mask.shape) - side)
    return tuple(slice(int(a), int(a) + side) for a in start)  # type: ignore[return-value]


def load_lesions(
    files: Sequence[Mapping[str, Any]],
    window_hu: Sequence[float],
    bins: int = 16,
    limit: int | None = None,
) -> list[ValidationLesion]:
    """Return the lesions of a datalist, each in its own window.

    Args:
        files: entries with paths under ``image`` (HU, 1 mm isotropic) and ``label`` (above 0
            inside the lesion); ``name`` and ``patient`` where known.
        window_hu: intensities that are mapped to -1 and 1.
        bins: of the histogram.
        limit: take that many, evenly spread over the list; None takes all.

    Raises:
        ValueError: if ``limit`` is below 1, or a label is empty.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    count = len(files) if limit is None else min(limit, len(files))
    chosen = [files[i * len(files) // count] for i in range(count)]
    return [_load(entry, window_hu, bins) for entry in tqdm(chosen, desc="loading lesions")]


def _load(entry: Mapping[str, Any], window_hu: Sequence[float], bins: int) -> ValidationLesion:
    inside = np.asarray(nib.Nifti1Image.from_filename(entry["label"]).dataobj) > 0
    box = window_box(inside)
    scan = np.asarray(nib.Nifti1Image.from_filename(entry["image"]).dataobj[box])
    image = torch.from_numpy(scale_window(scan, window_hu))[None]
    mask = torch.from_numpy(inside[box].astype(np.float32))[None]
    name = str(entry.get("name", entry["image"]))
    histogram = intensity_histogram(image, mask, bins)[0]
    return ValidationLesion(name, str(entry.get("patient", name)), image, mask, histogram)
