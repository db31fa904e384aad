"""The lobes of the lungs: their names, and label maps that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["LOBES", "LUNG_CLASSES", "check_lobes", "lobe_region", "numbered_lobes", "read_lobes"]

LOBES = {"left_upper": 1, "left_lower": 2, "right_upper": 3, "right_middle": 4, "right_lower": 5}
# TotalSegmentator and the bundle trained on its data name the lobes alike, in the order of LOBES
LUNG_CLASSES = (
    "lung_upper_lobe_left",
    "lung_lower_lobe_left",
    "lung_upper_lobe_right",
    "lung_middle_lobe_right",
    "lung_lower_lobe_right",
)
# value of the first lobe: bare; TotalSegmentator 2; TotalSegmentator 1 and the bundle
FIRST_VALUES = (1, 10, 13)


def check_lobes(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of lobes, each once.

    Args:
        names: of :data:`LOBES`.

    Raises:
        ValueError: if there is none, or one is unknown.

    Example:
        >>> check_lobes(["right_upper", "left_lower", "right_upper"])
        ('right_upper', 'left_lower')
    """
    known = tuple(dict.fromkeys(str(name).strip() for name in names))
    unknown = [name for name in known if name not in LOBES]
    if unknown or not known:
        raise ValueError(f"lobe must be any, or one or several of {list(LOBES)}, got {names}")
    return known


def numbered_lobes(labels: np.ndarray, values: Mapping[str, int]) -> np.ndarray:
    """Return lobes as numbers of :data:`LOBES`, 0 elsewhere.

    Args:
        labels: label map of a segmentation program.
        values: of the lobes in it, by class name.
    """
    result = np.zeros(labels.shape, np.uint8)
    for number, name in enumerate(LUNG_CLASSES, 1):
        if name in values:
            result[labels == values[name]] = number
    return result


def read_lobes(labels: np.ndarray, argument: str = "organ_mask") -> np.ndarray:
    """Return lobes as numbers of :data:`LOBES`, 0 elsewhere, from a label map of nothing but lobes.

    Args:
        labels: whole numbers; the lobes are 1 to 5 in the order of :data:`LOBES`, 10 to 14
            (TotalSegmentator 2), or 13 to 17 (wholeBody_ct_segmentation of the model zoo).
        argument: its name in messages.

    Raises:
        ValueError: if the values fit none of the three, or two of them; or if there are only 1
            and 2, as in masks of two lungs.

    Example:
        >>> read_lobes(np.array([0, 10, 14]))
        array([0, 1, 5], dtype=uint8)
    """
    present = np.unique(labels[labels != 0])
    fitting = [
        first for first in FIRST_VALUES if len(present) and np.isin(present - first, range(5)).all()
    ]
    if len(present) and present.max() <= 2:
        fitting = []  # more likely a mask of the lungs, or one value for each of the two
    if len(fitting) != 1:
        raise ValueError(
            f"{argument} must be a label map of lobes where a lobe is asked for (1 to 5, 10 to 14 "
            f"or 13 to 17: left upper, left lower, right upper, right middle, right lower), "
            f"got values {present[:8].tolist()}"
        )
    return np.where(labels == 0, 0, labels - fitting[0] + 1).astype(np.uint8)


def lobe_region(lobes: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return where some lobes are.

    Args:
        lobes: numbers of :data:`LOBES`.
        names: of the lobes wanted.

    Raises:
        ValueError: if none of them is there.
    """
    region = np.isin(lobes, [LOBES[name] for name in names])
    if not region.any():
        there = [name for name, number in LOBES.items() if (lobes == number).any()]
        raise ValueError(f"lobe must be one that the scan shows ({there}), got {list(names)}")
    return region
