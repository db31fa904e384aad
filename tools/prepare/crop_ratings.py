"""Radiologists' ratings for crops of nodules, from an archive that lists the same nodules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from tools.prepare.archive import find_archive

__all__ = ["NoduleRatings", "match_heights"]

TOLERANCE_MM = 2.5  # two outlines of one nodule may differ by a slice
NAMES = ("texture", "malignancy", "spiculation", "lobulation", "subtlety", "sphericity", "margin")


class NoduleRatings:
    """Ratings of nodules, looked up by patient and height in the scanner.

    The two archives name nodules differently, and where in the slice a nodule lies is in one of
    them only; but both have the height of the centre of mass in the scanner's own millimetres.
    Within a patient the pairing with the least sum of differences is taken. (LIDC: all 799 crops
    find a partner; diameters of the pairs correlate with 0.995.)

    Args:
        source: a masks archive (``*.npz`` with ``patient_id``, ``z_mm`` and mean ratings over the
            readers, 1 to 5), or a folder that holds one.

    Raises:
        FileNotFoundError: if there is no archive.
        ValueError: if it has no ratings.
    """

    def __init__(self, source: str | Path) -> None:
        path = find_archive(source, "masks", "ratings")
        with np.load(path, allow_pickle=False) as archive:
            missing = [k for k in ("patient_id", "z_mm", "texture") if k not in archive.files]
            if missing:
                raise ValueError(f"ratings must be an archive with {missing}, got {path}")
            self.patients, self.heights = archive["patient_id"], archive["z_mm"]
            self.values = {name: archive[name] for name in NAMES if name in archive.files}

    def find(
        self, patients: Sequence[str], heights_mm: Sequence[float]
    ) -> list[Mapping[str, float]]:
        """Return the ratings by name of each nodule, empty for those that are not listed.

        Args:
            patients: who has it.
            heights_mm: of its centre of mass.
        """
        found: list[Mapping[str, float]] = [{} for _ in patients]
        for patient in sorted(set(patients)):
            mine = [i for i, name in enumerate(patients) if name == patient]
            listed = np.flatnonzero(self.patients == patient)
            pairs = match_heights([heights_mm[i] for i in mine], self.heights[listed])
            for i, k in pairs.items():
                row = {name: float(column[listed[k]]) for name, column in self.values.items()}
                found[mine[i]] = {name: round(v, 3) for name, v in row.items() if v > 0}
        return found


def match_heights(
    first: Sequence[float], second: Sequence[float] | np.ndarray, tolerance: float = TOLERANCE_MM
) -> dict[int, int]:
    """Return which of the second heights belongs to each of the first, if any.

    Args:
        first: heights in mm.
        second: likewise.
        tolerance: pairs farther apart than this do not count.

    Example:
        >>> match_heights([10.0, 50.0], [49.0, 90.0, 10.5])
        {0: 2, 1: 0}
    """
    apart = np.abs(np.subtract.outer(np.asarray(first, float), np.asarray(second, float)))
    # what is out of reach must not push others out of theirs
    rows, columns = linear_sum_assignment(np.minimum(apart, 10 * tolerance))
    return {int(i): int(k) for i, k in zip(rows, columns, strict=True) if apart[i, k] <= tolerance}
