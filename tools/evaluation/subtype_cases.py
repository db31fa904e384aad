"""Real lesions with their subtype, in the windows of a model that works in latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from tqdm import tqdm

from tools.histograms import intensity_histogram
from tools.synthesis.latent_settings import LatentSettings
from tools.transforms.conditions import SUBTYPES, lesion_subtype

__all__ = ["SubtypeCase", "histogram_hu", "load_subtype_cases", "rebin"]


class SubtypeCase(NamedTuple):
    """A real lesion in its window.

    Attributes:
        name: of the case.
        patient: who has it.
        image: HU, ``(H, W, D)``, float32.
        lesion_mask: True inside, same shape.
        subtype: its number, see :data:`tools.transforms.conditions.SUBTYPES`.
        diameter_mm: of the sphere of its volume.
        histogram: of the real HU inside the mask, ``(bins,)``.
    """

    name: str
    patient: str
    image: np.ndarray
    lesion_mask: np.ndarray
    subtype: int
    diameter_mm: float
    histogram: list[float]


def histogram_hu(
    image: np.ndarray, lesion_mask: np.ndarray, bins: int, window_hu: Sequence[float]
) -> list[float]:
    """Return the normalised histogram of HU inside a mask; the end bins collect what is beyond.

    Example:
        >>> histogram_hu(np.array([-900.0, 300.0, 900.0]), np.ones(3, bool), 2, (-1000, 400))
        [0.3333333432674408, 0.6666666865348816]
    """
    values = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
    inside = torch.from_numpy(np.ascontiguousarray(lesion_mask))[None, None]
    low, high = float(window_hu[0]), float(window_hu[1])
    return intensity_histogram(values, inside, bins, (low, high))[0].tolist()


def rebin(histogram: Sequence[float], bins: int) -> list[float]:
    """Return a histogram over the same window with another number of bins.

    Within a bin the weight is taken to be spread evenly.

    Example:
        >>> rebin([0.0, 0.5, 0.5], 2)
        [0.25, 0.75]
    """
    total = np.concatenate([[0.0], np.cumsum(np.asarray(histogram, float))])
    edges = np.linspace(0, 1, len(total))
    return np.diff(np.interp(np.linspace(0, 1, bins + 1), edges, total)).tolist()


def load_subtype_cases(
    files: Sequence[Mapping[str, Any]],
    settings: LatentSettings,
    window_hu: Sequence[float],
    bins: int = 40,
    limit: int | None = None,
) -> list[SubtypeCase]:
    """Return the lesions of a datalist whose subtype is known.

    Args:
        files: entries with ``image`` (HU, 1 mm isotropic), ``label`` and ``texture`` (rating from 1
            to 5, or a name).
        settings: of the windows, which are cut down to the image where it is smaller.
        window_hu: of the histograms.
        bins: of the histograms.
        limit: lesions in all, at most, shared equally by the subtypes: a rare one keeps all it has.

    Raises:
        ValueError: if ``limit`` is below 1 or no lesion has a subtype.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    chosen: list[tuple[Mapping[str, Any], int]] = []
    for number in range(len(SUBTYPES)):
        mine = [entry for entry in files if lesion_subtype(entry.get("texture")) == number]
        share = len(mine) if limit is None else min(len(mine), -(-limit // len(SUBTYPES)))
        chosen += [(mine[i * len(mine) // share], number) for i in range(share)]
    if not chosen:
        raise ValueError("dataset must have lesions with a texture (prepare scans keeps ratings)")
    bar = tqdm(chosen, desc="loading lesions")
    return [_load(entry, number, settings, window_hu, bins) for entry, number in bar]


def _load(
    entry: Mapping[str, Any],
    subtype: int,
    settings: LatentSettings,
    window_hu: Sequence[float],
    bins: int,
) -> SubtypeCase:
    inside = np.asarray(nib.Nifti1Image.from_filename(entry["label"]).dataobj) > 0
    box = _window(inside, settings)
    image = np.asarray(nib.Nifti1Image.from_filename(entry["image"]).dataobj[box], np.float32)
    mask = inside[box]
    name = str(entry.get("name", entry["image"]))
    diameter = float((6 * inside.sum() / np.pi) ** (1 / 3))
    histogram = histogram_hu(image, mask, bins, window_hu)
    patient = str(entry.get("patient", name))
    return SubtypeCase(name, patient, image, mask, subtype, diameter, histogram)


def _window(inside: np.ndarray, settings: LatentSettings) -> tuple[slice, ...]:
    """Return the window round a lesion, moved inside the array or cut down to it."""
    voxels = np.argwhere(inside)
    if not len(voxels):
        raise ValueError("label must hold a lesion, got an empty one")
    low, high = voxels.min(0), voxels.max(0) + 1
    side = settings.size(float((high - low).max()) * settings.spacing_mm)
    side = min(side, min(inside.shape) // settings.step * settings.step)
    start = np.clip((low + high - side) // 2, 0, np.array(inside.shape) - side)
    return tuple(slice(int(a), int(a) + side) for a in start)
