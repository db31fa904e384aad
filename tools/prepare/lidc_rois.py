"""Windows of one patient's scans: round each consensus nodule, and in lung without nodules."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

from tools.dicom.series import DicomSeries, read_series
from tools.files import new_folder
from tools.organs.lung_recipe import lung_mask
from tools.prepare.lidc_consensus import (
    ReadingMask,
    consensus,
    nodule_ratings,
    scan_nodules,
)
from tools.prepare.lidc_xml import Outline, ReadMessage, is_read_message, parse_read_message
from tools.windows import WindowGrid, cut_window

__all__ = ["RoiSettings", "ScanFiles", "read_marks", "write_patient"]

AIR_HU = -1024  # scanners' padding values below become air
CLEARANCE_MM = 2.0  # between a normal window and any mark
LUNG_SHARE = 0.3  # of a normal window, at least
TRIES = 20_000  # voxels drawn to find normal windows


class RoiSettings(NamedTuple):
    """What the windows of a patient depend on besides scan and marks.

    Attributes:
        min_readers: nodules marked by fewer readers get no window.
        agreement: share of those readers that must hold a voxel.
        size: voxels of a window.
        spacing_mm: voxel size of a window.
        normal_rois: windows without nodule per scan, at most.
        seed: of the choice of normal windows.
    """

    min_readers: int = 3
    agreement: float = 0.5
    size: tuple[int, int, int] = (64, 64, 32)
    spacing_mm: float = 1.0
    normal_rois: int = 3
    seed: int = 0


class ScanFiles(NamedTuple):
    """Where a scan lies: the folder of its DICOM files, its series UID, its XML candidates."""

    folder: Path
    series_uid: str
    annotations: tuple[Path, ...]


class _Place(NamedTuple):
    """Where the windows of a patient go while they are written."""

    folder: Path
    patient: str
    prefix: str


def write_patient(
    patient: str, scans: Sequence[ScanFiles], folder: str | Path, settings: RoiSettings
) -> dict[str, Any]:
    """Write all windows of a patient, then move the folder to its place: all of it or nothing.

    Args:
        patient: name, of letters a file name may have.
        scans: the patient's CT series.
        folder: to be made; holds the windows and ``record.json`` afterwards.
        settings: choices.

    Returns:
        The record: ``patient``, ``settings``, ``lesions`` and ``normal`` (entries of the datalist,
        paths relative to the parent's parent of ``folder``), ``left_out`` (counts by reason).

    Raises:
        ValueError: if a scan or its marks cannot be used, or the folder holds what others made.
    """
    folder = Path(folder)
    record: dict[str, Any] = {
        "patient": patient,
        "settings": settings._asdict(),
        "lesions": [],
        "normal": [],
        "left_out": Counter(),
    }
    with new_folder(folder, ("*.nii.gz", "record.json"), replace=True) as partial:
        for number, scan in enumerate(scans, start=1):
            place = _Place(partial, patient, f"{patient}_s{number}")
            _write_scan(scan, place, settings, record)
        (partial / "record.json").write_text(json.dumps(record, indent=1))
    return json.loads(json.dumps(record))


def read_marks(scan: ScanFiles) -> ReadMessage:
    """Return the readers' marks on a scan.

    Args:
        scan: with exactly one ``LidcReadMessage`` among its XML files.

    Raises:
        ValueError: if it has none or several, or if the file cannot be read.
    """
    messages = [path for path in scan.annotations if is_read_message(path)]
    if len(messages) != 1:
        raise ValueError(
            f"series must have one LidcReadMessage XML, got {[str(m) for m in messages]} "
            f"for {scan.folder}"
        )
    return parse_read_message(messages[0])


def _write_scan(
    scan: ScanFiles, place: _Place, settings: RoiSettings, record: dict[str, Any]
) -> None:
    message = read_marks(scan)
    series = read_series(scan.folder)
    nodules = scan_nodules(message.readings, series)
    bounds = [[m.bounds_mm(series.affine) for m in nodule] for nodule in nodules]
    boxes = np.array([[np.min(b, axis=0)[0], np.max(b, axis=0)[1]] for b in bounds])
    boxes = boxes.reshape(-1, 2, 3)
    lost = len(message.readings) - sum(len(nodule) for nodule in nodules)
    record["left_out"]["outlines that enclose no voxel"] += lost
    for number, nodule in enumerate(nodules):
        agreed = consensus(nodule, settings.agreement)
        if len(nodule) < settings.min_readers:
            record["left_out"]["too few readers"] += 1
        elif agreed is None:
            record["left_out"]["no agreement"] += 1
        else:
            name = f"{place.prefix}_n{number + 1:02d}"
            entry = _write_lesion(series, agreed, settings, place, name)
            if entry is None:
                record["left_out"]["larger than the window"] += 1
                continue
            others = np.delete(boxes, number, axis=0)
            entry["other_nodules"] = int(_touches(entry.pop("box"), others).sum())
            record["lesions"].append(entry | nodule_ratings(nodule))
    if settings.normal_rois:
        small = _small_marks(message.small_nodules, series)
        marks = np.concatenate([boxes, small])
        _write_normal(series, marks, settings, place, record)


def _small_marks(outlines: Sequence[Outline], series: DicomSeries) -> np.ndarray:
    """Boxes (n, 2, 3) of no extent round the points of nodules below 3 mm, RAS mm."""
    slices = {uid: k for k, uid in enumerate(series.sop_uids)}
    voxels = [
        (*point, slices[outline.sop_uid])
        for outline in outlines
        for point in outline.points
        if outline.sop_uid in slices
    ]
    points = apply_affine(series.affine, np.array(voxels, float).reshape(-1, 3))
    return np.stack([points, points], axis=1)


def _touches(box: np.ndarray, others: np.ndarray, margin_mm: float = 0.0) -> np.ndarray:
    """Return which of the boxes (n, 2, 3) overlap a box (2, 3)."""
    below = others[:, 0] < box[1] + margin_mm
    above = others[:, 1] > box[0] - margin_mm
    return np.all(below & above, axis=1)


def _window_box(grid: WindowGrid) -> np.ndarray:
    corners = np.array([[-0.5] * 3, np.array(grid.size) - 0.5])
    return apply_affine(grid.affine, corners)


def _grid_within(scan_box: np.ndarray, centre_mm: np.ndarray, settings: RoiSettings) -> WindowGrid:
    """Return the window round a point, moved inside the scan where the scan is large enough."""
    half = np.array(settings.size) * settings.spacing_mm / 2
    low, high = scan_box[0] + half, scan_box[1] - half
    inside = np.where(low <= high, np.clip(centre_mm, low, np.maximum(low, high)), centre_mm)
    return WindowGrid.around(inside.tolist(), settings.size, settings.spacing_mm)


def _scan_box(series: DicomSeries) -> np.ndarray:
    """Return lowest and highest voxel edge of the scan, RAS mm, shape (2, 3)."""
    ends = [(-0.5, n - 0.5) for n in series.image.shape]
    corners = apply_affine(series.affine, np.array(np.meshgrid(*ends)).reshape(3, -1).T)
    return np.stack([corners.min(0), corners.max(0)])


def _write_lesion(
    series: DicomSeries, agreed: ReadingMask, settings: RoiSettings, place: _Place, name: str
) -> dict[str, Any] | None:
    """Write image and label of a nodule; None if it does not fit the window."""
    bounds = agreed.bounds_mm(series.affine)
    grid = _grid_within(_scan_box(series), bounds.mean(0), settings)
    window = _window_box(grid)
    if (np.ptp(bounds, axis=0) > np.ptp(window, axis=0)).any():
        return None
    padded = np.pad(agreed.mask, 1)  # a linear blend of the mask crosses 1/2 at the outline
    affine = series.affine.copy()
    affine[:3, 3] = apply_affine(series.affine, agreed.start - 1)
    inside = cut_window(padded, affine, grid, beyond=0.0) >= 0.5
    if not inside.any():
        return None
    volume = float(agreed.mask.sum() * np.abs(np.linalg.det(series.affine[:3, :3])))
    return {
        **_write_image(series, grid, place, name),
        "label": _write(place, f"{name}_label.nii.gz", inside.astype(np.uint8), grid.affine),
        "diameter_mm": round((6 * volume / np.pi) ** (1 / 3), 2),
        "volume_mm3": round(volume, 2),
        "centre_mm": agreed.centroid_mm(series.affine).round(2).tolist(),
        "box": window,
    }


def _write_image(series: DicomSeries, grid: WindowGrid, place: _Place, name: str) -> dict[str, Any]:
    window = np.maximum(cut_window(series.image, series.affine, grid), AIR_HU).round()
    path = _write(place, f"{name}_image.nii.gz", window.astype(np.int16), grid.affine)
    return {
        "name": name,
        "patient": place.patient,
        "series_uid": series.series_uid,
        "image": path,
    }


def _write(place: _Place, name: str, values: np.ndarray, affine: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(values, affine), place.folder / name)
    return f"rois/{place.patient}/{name}"


def _write_normal(
    series: DicomSeries,
    marks: np.ndarray,
    settings: RoiSettings,
    place: _Place,
    record: dict[str, Any],
) -> None:
    """Write windows of lung that touch no mark of any reader, with the lung as ``organ_mask``."""
    try:
        lung = lung_mask(series.image, series.affine)
    except ValueError:  # the nodules of such a scan are as good as any
        record["left_out"]["scans whose lung was not found"] += 1
        return
    rng = np.random.default_rng([settings.seed, zlib.crc32(series.series_uid.encode())])
    voxels = np.stack([rng.integers(0, n, TRIES) for n in lung.shape], axis=1)
    scan_box, centres = _scan_box(series), np.empty((0, 3))
    half = np.array(settings.size) * settings.spacing_mm / 2
    for centre in apply_affine(series.affine, voxels[lung[tuple(voxels.T)]]):
        grid = WindowGrid.around(centre, settings.size, settings.spacing_mm)
        box = _window_box(grid)
        if (box[0] < scan_box[0]).any() or (box[1] > scan_box[1]).any():
            continue
        near = (np.abs(centres - centre) < half).all(axis=1).any()  # would share much lung
        if near or _touches(box, marks, CLEARANCE_MM).any():
            continue
        inside = cut_window(lung, series.affine, grid) >= 0.5
        if inside.mean() < LUNG_SHARE:
            continue
        centres = np.vstack([centres, centre])
        name = f"{place.prefix}_normal{len(centres):02d}"
        entry = _write_image(series, grid, place, name)
        mask = _write(place, f"{name}_organ_mask.nii.gz", inside.astype(np.uint8), grid.affine)
        record["normal"].append(entry | {"organ_mask": mask})
        if len(centres) == settings.normal_rois:
            return
