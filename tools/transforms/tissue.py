"""Texture presets of images without units: stated with the tissue round them, moved to a scan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from tools.transforms.histogram import load_presets

__all__ = ["TissueHistogramd", "adapt_histogram", "tissue_levels"]

TissueLevels = Sequence[float]


def tissue_levels(
    image: Tensor | np.ndarray,
    label: Tensor | np.ndarray,
    wall: Sequence[int] = (2,),
    cavity: Sequence[int] = (1,),
) -> tuple[float, float]:
    """Return the median intensities of healthy myocardium and of blood.

    Medians of whole masks: without their outermost voxels they differ by 0.02 to 0.03 of the range
    [-1, 1] only, on both sides of a comparison, and small masks have nothing but outermost voxels.

    Args:
        image: intensities, any unit, any shape.
        label: integer label map of the same shape.
        wall: labels of healthy myocardium; voxels of lesions must not be among them.
        cavity: labels of the blood pool; papillary muscles in it do not move a median.

    Returns:
        ``(myocardium, blood)`` in the unit of the image.

    Raises:
        ValueError: if the shapes differ, or the label map holds no wall or no cavity.

    Example:
        >>> image, label = np.array([3.0, 5, 9, 4, 1]), np.array([2, 2, 1, 2, 0])
        >>> tissue_levels(image, label)
        (4.0, 9.0)
    """
    values, classes = np.asarray(image), np.asarray(label)
    if values.shape != classes.shape:
        raise ValueError(f"label must have the shape of image {values.shape}, got {classes.shape}")
    levels = []
    for name, wanted in (("wall", wall), ("cavity", cavity)):
        inside = np.isin(classes, list(wanted))
        if not inside.any():
            held = np.unique(classes).tolist()
            raise ValueError(f"{name} must be labels that the label map holds {held}, got {wanted}")
        levels.append(float(np.median(values[inside])))
    return levels[0], levels[1]


def adapt_histogram(
    histogram: Sequence[float],
    tissue_from: TissueLevels,
    tissue_to: TissueLevels,
    classes: int = 2,
    value_range: Sequence[float] = (-1.0, 1.0),
    gain: float = 1.0,
) -> list[float]:
    r"""Return the histogram that a lesion seen in one scan would have in another.

    .. math:: x \mapsto c' + (x - c) \left(\frac{b' - m'}{b - m}\right)^{gain}

    with myocardium m, blood b and their middle c = (m + b) / 2. ``gain=1`` takes both tissues of
    the one scan to those of the other, so that a lesion halfway between myocardium and blood stays
    there; ``gain=0`` moves by the difference of the middles and keeps the width: how far blood is
    from myocardium depends on the minutes since the contrast agent, and weighs less then.
    Each block is a piecewise uniform distribution; what leaves the range counts in the end bins.

    Args:
        histogram: ``(classes * bins,)`` non-negative numbers, blocks of bins side by side.
        tissue_from: levels (myocardium, blood) of the scan that the histogram is of.
        tissue_to: those of the scan that it is for.
        classes: number of blocks; a block keeps its sum, and one of zeros stays zero.
        value_range: outer edges of the bins.
        gain: see above, in 0..1.

    Raises:
        ValueError: if the length is no multiple of ``classes``, or ``gain`` is outside 0..1, or
            blood and myocardium do not lie in the same order in both scans (unless gain is 0).

    Example:
        >>> adapt_histogram([0, 1, 0, 0], (-0.5, 0.0), (0.0, 0.5), classes=1)
        [0.0, 0.0, 1.0, 0.0]
        >>> adapt_histogram([0, 0, 1, 0], (0.0, 0.5), (0.0, 1.0), classes=1)
        [0.0, 0.0, 0.5, 0.5]
    """
    values = np.asarray(histogram, dtype=float)
    if values.ndim != 1 or classes < 1 or values.size % classes:
        raise ValueError(
            f"histogram must be a row of {classes} blocks of equal length, got shape {values.shape}"
        )
    if not 0 <= gain <= 1:
        raise ValueError(f"gain must be in 0..1, got {gain}")
    (wall, blood), (wall_to, blood_to) = tissue_from, tissue_to
    if gain and not (blood - wall) * (blood_to - wall_to) > 0:
        raise ValueError(
            "tissue_to must have blood on the same side of myocardium as tissue_from "
            f"{list(tissue_from)}, got {list(tissue_to)}"
        )
    scale = ((blood_to - wall_to) / (blood - wall)) ** gain if gain else 1.0
    blocks = values.reshape(classes, -1)
    edges = np.linspace(value_range[0], value_range[1], blocks.shape[1] + 1)
    # where the edges of the result lie in the distribution that is moved
    places = (wall + blood) / 2 + (edges - (wall_to + blood_to) / 2) / scale
    moved = []
    for block in blocks:
        total = np.cumsum(block)
        running = np.interp(places, edges, [0.0, *total])
        running[[0, -1]] = (
            0.0,
            total[-1],
        )  # block.sum() may differ in the last digit: -1e-17 in a bin
        moved.append(np.diff(running))
    return np.concatenate(moved).tolist()


class TissueHistogramd(MapTransform):
    """Add the histogram of a preset as it would look in this scan; absent classes have zeros.

    Without wall or cavity in the label map there is nothing to adapt to: the preset is taken as it
    stands in the file.

    Args:
        keys: image ``(C, ...)``, scaled to the range of the presets; its first channel is measured.
        path: presets file whose entries state their ``tissue``, see
            :func:`tools.transforms.histogram.load_presets`; entries that do not are not adapted.
            How they are moved is stated there too (``gain``, see :func:`adapt_histogram`).
        name: preset; "none" or None (no control) writes -1 throughout.
        label_key: integer label map ``(1, ...)`` on the grid of the image, lesions drawn in.
        wall: labels of healthy myocardium.
        cavity: labels of the blood pool.
        classes: label of each lesion class, in the order of the blocks.
        histogram_key: where the histogram goes, a float tensor ``(classes * bins,)``.
        value_range: outer edges of the bins.
        allow_missing_keys: skip samples without the image.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it has no such preset, or its histograms do not fit ``classes``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        path: str | Path,
        name: str | None,
        label_key: str = "label",
        wall: Sequence[int] = (2,),
        cavity: Sequence[int] = (1,),
        classes: Sequence[int] = (3, 4),
        histogram_key: str = "histogram",
        value_range: Sequence[float] = (-1.0, 1.0),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        presets = load_presets(path)
        if name not in (*presets, "none", None):
            raise ValueError(f"name must be one of {sorted(presets)} or none, got {name!r}")
        self.size = len(next(iter(presets.values()))["histogram"])
        if self.size % len(classes):
            raise ValueError(
                f"classes must divide the {self.size} numbers of the presets, got {list(classes)}"
            )
        self.preset = None if name in ("none", None) else presets[str(name)]
        self.label_key, self.histogram_key = label_key, histogram_key
        self.wall, self.cavity, self.classes = list(wall), list(cavity), list(classes)
        self.value_range = (float(value_range[0]), float(value_range[1]))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with ``histogram_key`` added."""
        sample = dict(data)
        label = np.asarray(torch.as_tensor(sample[self.label_key]).as_subclass(Tensor).cpu())[0]
        for key in self.key_iterator(sample):
            image = np.asarray(torch.as_tensor(sample[key]).as_subclass(Tensor).float().cpu())[0]
            sample[self.histogram_key] = self._histogram(image, label)
        return sample

    def _histogram(self, image: np.ndarray, label: np.ndarray) -> Tensor:
        if self.preset is None:
            return torch.full((self.size,), -1.0)
        histogram, tissue = self.preset["histogram"], self.preset.get("tissue")
        if tissue and np.isin(label, self.wall).any() and np.isin(label, self.cavity).any():
            levels = tissue_levels(image, label, self.wall, self.cavity)
            histogram = adapt_histogram(
                histogram, tissue, levels, len(self.classes), self.value_range, self.preset["gain"]
            )
        blocks = torch.tensor(histogram, dtype=torch.float32).reshape(len(self.classes), -1)
        present = torch.tensor([bool((label == name).any()) for name in self.classes])
        return (blocks * present[:, None]).flatten()
