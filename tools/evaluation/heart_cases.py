"""Real hearts to measure on: the model's window, a mask and a histogram per lesion class."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor
from tqdm import tqdm

from tools.evaluation.control import derangement
from tools.histograms import intensity_histogram
from tools.transforms.windows import PasteLesiond, PercentileScaled
from tools.windows import Window, WindowGrid, cut_window

__all__ = [
    "CLASS_NAMES",
    "HeartCase",
    "HeartWindow",
    "class_histograms",
    "load_hearts",
    "other_hearts",
    "paste_lesion",
]

# lesion classes in the order of the mask channels, as results name them
CLASS_NAMES = ("infarct", "no_reflow")
BINS = 16


class HeartWindow(NamedTuple):
    """How a heart is cut and scaled; the keys of the same names in a bundle's config.

    Attributes:
        organ: labels of all that is heart.
        classes: labels of the lesions: infarct, no-reflow.
        window_size: voxels within the slice.
        window_spacing_mm: voxel size within the slice.
        slice_step: the number of slices becomes a multiple of this.
        percentiles: of the window, that become -1 and 1.
        empty_value: intensity that does not count; None: all count.
    """

    organ: Sequence[int] = (1, 2, 3, 4)
    classes: Sequence[int] = (3, 4)
    window_size: Sequence[int] = (72, 72)
    window_spacing_mm: float = 1.5
    slice_step: int = 4
    percentiles: Sequence[float] = (0.5, 99.5)
    empty_value: float | None = 0


class HeartCase(NamedTuple):
    """A labelled heart on its own grid and in the model's window.

    Attributes:
        name: of the case.
        patient: of whom it is.
        scan: intensities on the scan's grid, ``(I, J, K)``.
        label: 0 background, 1 cavity, 2 myocardium, 3 infarct, 4 no-reflow; same shape.
        affine: voxel index of the scan to RAS mm.
        grid: the window.
        intensity_range: intensities that -1 and 1 stand for.
        image: the window scaled to [-1, 1], ``(1, H, W, D)``.
        tissue: its label map, ``(H, W, D)``.
        lesion_masks: 1 inside, a channel per class, ``(K, H, W, D)``.
        histograms: own ones of the classes, ``(K, bins)``; zeros where a class is absent.
    """

    name: str
    patient: str
    scan: np.ndarray
    label: np.ndarray
    affine: np.ndarray
    grid: WindowGrid
    intensity_range: tuple[float, float]
    image: Tensor
    tissue: Tensor
    lesion_masks: Tensor
    histograms: Tensor

    @property
    def present(self) -> tuple[bool, ...]:
        """Whether the window holds each class."""
        return tuple((self.histograms.sum(1) > 0).tolist())


def class_histograms(image: Tensor, lesion_masks: Tensor, bins: int = BINS) -> Tensor:
    """Return the histogram of each class, ``(K, bins)``; zeros where a class is absent.

    Args:
        image: in [-1, 1], ``(1, H, W, D)``.
        lesion_masks: 1 inside, ``(K, H, W, D)``.
        bins: of each histogram.
    """
    return intensity_histogram(image.expand(lesion_masks.shape), lesion_masks, bins)


def load_hearts(
    files: Sequence[Mapping[str, Any]],
    window: HeartWindow,
    limit: int | None = None,
) -> list[HeartCase]:
    """Return the hearts of a datalist; those without a lesion are left out.

    Args:
        files: entries with paths under ``image`` and ``label``; ``name`` and ``patient`` where
            known.
        window: how they are cut and scaled.
        limit: take that many, evenly spread over the list; None takes all.

    Raises:
        ValueError: if ``limit`` is below 2, or fewer than two hearts have a lesion.
    """
    if limit is not None and limit < 2:
        raise ValueError(f"limit must be at least 2, got {limit}")
    count = len(files) if limit is None else min(limit, len(files))
    chosen = [files[i * len(files) // count] for i in range(count)]
    cases = [_load(entry, window) for entry in tqdm(chosen, desc="loading hearts")]
    cases = [case for case in cases if any(case.present)]
    if len(cases) < 2:
        raise ValueError(f"dataset_dir must hold two hearts with a lesion, got {len(cases)}")
    return cases


def _load(entry: Mapping[str, Any], window: HeartWindow) -> HeartCase:
    header = nib.Nifti1Image.from_filename(entry["image"])
    scan = np.asarray(header.dataobj)
    label = np.asarray(nib.Nifti1Image.from_filename(entry["label"]).dataobj)
    affine = np.asarray(header.affine, float)
    organ = np.isin(label, window.organ)
    rule = Window(tuple(window.window_size), window.window_spacing_mm, multiple=window.slice_step)
    grid = rule.on_slices(organ, affine)
    scaled = PercentileScaled("image", window.percentiles, empty_value=window.empty_value)(
        {"image": torch.from_numpy(cut_window(scan, affine, grid))[None]}
    )
    tissue = torch.from_numpy(cut_window(label, affine, grid, order=0, beyond=0.0))
    masks = torch.stack([tissue == value for value in window.classes]).float()
    low, high = scaled["intensity_range"].tolist()
    name = str(entry.get("name", entry.get("patient", entry["image"])))
    return HeartCase(
        name=name,
        patient=str(entry.get("patient", name)),
        scan=scan,
        label=label,
        affine=affine,
        grid=grid,
        intensity_range=(low, high),
        image=scaled["image"],
        tissue=tissue,
        lesion_masks=masks,
        histograms=class_histograms(scaled["image"], masks),
    )


def other_hearts(cases: Sequence[HeartCase], seed: int = 0) -> list[int]:
    """Return for each heart another one with the same lesion classes; itself if there is none.

    Args:
        cases: any number.
        seed: of the choice.
    """
    order = list(range(len(cases)))
    for pattern in {case.present for case in cases}:
        members = [i for i, case in enumerate(cases) if case.present == pattern]
        if len(members) > 1:
            for i, place in zip(members, derangement(len(members), seed), strict=True):
                order[i] = members[place]
    return order


def paste_lesion(case: HeartCase, image: Tensor, classes: Sequence[int] = (3, 4)) -> np.ndarray:
    """Return the scan with a synthetic window brought back inside the lesion labels.

    Args:
        case: the heart.
        image: synthetic window in [-1, 1], ``(1, H, W, D)``.
        classes: labels inside which the scan changes.

    Returns:
        The scan's shape and dtype, see :class:`tools.transforms.windows.PasteLesiond`.
    """
    scan = torch.from_numpy(np.ascontiguousarray(case.scan))[None]
    sample: dict[Hashable, Any] = {
        "pred": image,
        "scan": MetaTensor(scan, affine=torch.from_numpy(case.affine)),
        "scan_label": torch.from_numpy(np.ascontiguousarray(case.label))[None],
        "window": MetaTensor(image, affine=torch.from_numpy(case.grid.affine)),
        "intensity_range": case.intensity_range,
    }
    paste = PasteLesiond("pred", mask_key="scan_label", classes=classes, window_key="window")
    composite = paste(sample)["pred"]
    return composite[0].as_subclass(Tensor).numpy()
