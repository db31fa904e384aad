"""Radiologists' contours of lung nodules in an SQLite file that an optional wheel carries."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["contour_database", "read_contours"]

Contour = tuple[float, NDArray[np.float64], bool]


def contour_database(package: str) -> Path | None:
    """Return the SQLite file with the contours, or None where the wheel is not installed.

    Args:
        package: name of the wheel, which is located but never imported.

    Example:
        >>> contour_database("no_such_package_anywhere") is None
        True
    """
    specification = importlib.util.find_spec(package)
    for folder in (specification.submodule_search_locations or []) if specification else []:
        path = Path(folder) / f"{package}.sqlite"
        if path.is_file():
            return path
    return None


def read_contours(
    connection: sqlite3.Connection, annotations: Sequence[int]
) -> dict[int, list[Contour]]:
    """Read the contours of annotations.

    Args:
        connection: to the database.
        annotations: their ids, at most 999.

    Returns:
        (z in mm, (column, row) in pixels of shape ``(n, 2)``, True to add or False to cut out) per
        contour, by annotation.
    """
    contours: dict[int, list[Contour]] = defaultdict(list)
    marks = ",".join("?" * len(annotations))
    query = (
        "SELECT annotation_id, inclusion, image_z_position, coords FROM contours "
        f"WHERE annotation_id IN ({marks})"
    )
    for annotation, is_added, height, text in connection.execute(query, list(annotations)):
        pixels = np.array([line.split(",") for line in text.split("\n")], dtype=float)
        contours[annotation].append((height, pixels, bool(is_added)))
    return contours
