"""One DICOM series as an array in HU with its affine and the identity of each slice."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from tools.dicom.storage import STORAGE_TAGS, SliceStorage, read_pixels

__all__ = ["DicomSeries", "is_dicom", "is_dicom_folder", "read_series"]

HEADER_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "Modality",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    *STORAGE_TAGS,
]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ROUNDING_MM = 1e-4  # what decimal strings of 16 characters lose, with room to spare


class DicomSeries(NamedTuple):
    """One volume of a DICOM series; slices ascend along the normal of the image plane.

    Attributes:
        image: int16, shape (columns, rows, slices); HU for CT, rescaled values for MR.
        affine: 4x4, voxel index to RAS mm; sheared where the gantry was tilted.
        sop_uids: SOP instance UID of each slice.
        slice_positions_mm: position of each slice along the normal, ascending, shape (slices,).
        series_uid: series instance UID.
        patient_id: as in the first slice; empty if absent.
        modality: ``CT`` or ``MR``, as in the first slice.
        paths: file of each slice; empty if the volume was not read from files.
        storage: how each slice stores its values; empty likewise.
    """

    image: np.ndarray
    affine: np.ndarray
    sop_uids: tuple[str, ...]
    slice_positions_mm: np.ndarray
    series_uid: str
    patient_id: str
    modality: str
    paths: tuple[Path, ...] = ()
    storage: tuple[SliceStorage, ...] = ()


class _Slice(NamedTuple):
    path: Path
    header: Dataset


def is_dicom_folder(path: str | Path) -> bool:
    """Return whether a folder holds a DICOM file, by its magic bytes; subfolders are not searched.

    Args:
        path: any path; False for what is no folder. A ``DICOMDIR`` alone does not count.

    Example:
        >>> is_dicom_folder("no/such/folder")
        False
    """
    folder = Path(path)
    return folder.is_dir() and any(is_dicom(file) for file in folder.iterdir())


def read_series(
    folder: str | Path,
    series_uid: str | None = None,
    tolerance_mm: float = 0.1,
    pixels: bool = True,
) -> DicomSeries:
    """Read one CT or MR series; slices are ordered by where they lie, never by name or number.

    The place of a slice is ImagePositionPatient projected on the normal of the image plane
    (ImageOrientationPatient). Rescale slope and intercept are those of each slice.

    Args:
        folder: holds the files of one series, or of several if ``series_uid`` is given; what is
            no DICOM file is ignored, subfolders are not searched.
        series_uid: series instance UID to read; None takes the only one.
        tolerance_mm: how far a slice may lie from its place on an even grid.
        pixels: False where the geometry is all that is wanted: only headers are read, and
            ``image`` is 0 everywhere, read-only, and takes no memory.

    Returns:
        The volume; nothing of the datasets is kept but what identifies slice, series and patient,
        and what it takes to store changed values.

    Raises:
        FileNotFoundError: if ``folder`` does not exist.
        ValueError: if there is no DICOM file, several series and no choice, a single slice, no
            image with a position, slices of different shape, pixel spacing or orientation, two
            slices at one position, a missing slice, uneven spacing, or pixels that cannot be read.

    Example:
        ``read_series("LIDC-IDRI-0001/1.3.6.1/3000566")``, then ``series.image[i, j, k]``
        lies at ``series.affine @ (i, j, k, 1)``.
    """
    slices = _choose_series(Path(folder), series_uid)
    _check_images(slices, folder)
    across, down = _orientation(slices[0].header)
    normal = np.cross(across, down)
    corners = np.array([part.header.ImagePositionPatient for part in slices], float)
    order = np.argsort(corners @ normal, kind="stable")
    slices, corners = [slices[i] for i in order], corners[order]
    positions = corners @ normal
    _check_positions(slices, positions, tolerance_mm)
    step = (corners[-1] - corners[0]) / (len(slices) - 1)
    _check_line(slices, corners, step, tolerance_mm)
    row_mm, column_mm = (float(value) for value in slices[0].header.PixelSpacing)
    affine = np.eye(4)  # PixelSpacing is between rows first, then between columns
    affine[:3] = np.stack([across * column_mm, down * row_mm, step, corners[0]], axis=1)
    first = slices[0].header
    shape = (int(first.Columns), int(first.Rows), len(slices))
    return DicomSeries(
        _read_pixels(slices) if pixels else np.broadcast_to(np.int16(0), shape),
        LPS_TO_RAS @ affine,
        tuple(str(part.header.SOPInstanceUID) for part in slices),
        positions,
        str(first.SeriesInstanceUID),
        str(first.get("PatientID", "") or ""),
        str(first.get("Modality", "") or ""),
        tuple(part.path for part in slices),
        tuple(SliceStorage.of(part.header) for part in slices),
    )


def is_dicom(path: Path) -> bool:
    """Return whether a file starts as a DICOM file does; ``DICOMDIR`` does not count.

    Args:
        path: any path.
    """
    if not path.is_file() or path.name == "DICOMDIR":
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _headers(folder: str | Path) -> list[_Slice]:
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"folder must be an existing folder, got {folder}")
    slices = []
    for path in sorted(Path(folder).iterdir()):
        if is_dicom(path):
            try:
                header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=HEADER_TAGS)
            except Exception as error:  # pydicom raises whatever the broken bytes lead to
                raise ValueError(f"file must be readable DICOM, got {path} ({error})") from error
            slices.append(_Slice(path, header))
    return slices


def _choose_series(folder: Path, series_uid: str | None) -> list[_Slice]:
    slices = _headers(folder)
    if not slices:
        raise ValueError(f"folder must hold DICOM files, found none in {folder}")
    series: dict[str, list[_Slice]] = {}
    for part in slices:
        series.setdefault(str(part.header.get("SeriesInstanceUID", "")), []).append(part)
    found = ", ".join(f"{uid} ({len(parts)} files)" for uid, parts in sorted(series.items()))
    if series_uid is None and len(series) > 1:
        raise ValueError(
            f"folder must hold one series unless series_uid is given, got {len(series)} "
            f"in {folder}: {found}"
        )
    if series_uid is not None and series_uid not in series:
        raise ValueError(f"series_uid must be in {folder}, got {series_uid}, found {found}")
    return series[series_uid] if series_uid is not None else next(iter(series.values()))


def _orientation(header: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (LPS) of increasing column and of increasing row."""
    cosines = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    across, down = cosines / np.linalg.norm(cosines, axis=1, keepdims=True)
    return across, down


def _check_images(slices: list[_Slice], folder: str | Path) -> None:
    """Refuse what is no stack of single-frame slices of one geometry."""
    identity = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
    plane = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
    for path, header in slices:
        missing = [name for name in (*identity, *plane) if header.get(name) in (None, "")]
        frames, samples = header.get("NumberOfFrames") or 1, header.get("SamplesPerPixel") or 1
        if missing or int(frames) > 1 or int(samples) > 1:
            storage = getattr(header.get("SOPClassUID", ""), "name", "unknown storage")
            reason = f"without {', '.join(missing)}" if missing else "of several frames or colours"
            raise ValueError(
                f"series must be single-frame CT or MR slices with positions, got {storage} "
                f"{reason}: {path}"
            )
    if len(slices) == 1:
        raise ValueError(f"series must have at least two slices, got one in {folder}")
    first = slices[0]
    for part in slices[1:]:
        for name, value, other in _differences(first.header, part.header):
            raise ValueError(
                f"slices must share one {name}, got {value} in {first.path} "
                f"and {other} in {part.path.name}"
            )


def _differences(first: Dataset, other: Dataset) -> list[tuple[str, object, object]]:
    """Name and both values of each property of the image plane that two slices do not share."""
    found: list[tuple[str, object, object]] = []
    shapes = [(int(h.Rows), int(h.Columns)) for h in (first, other)]
    if shapes[0] != shapes[1]:
        found.append(("shape", shapes[0], shapes[1]))
    names = {"PixelSpacing": "pixel spacing", "ImageOrientationPatient": "orientation"}
    for tag, name in names.items():
        one, two = (np.array(h[tag].value, float) for h in (first, other))
        if not np.allclose(one, two, rtol=0, atol=ROUNDING_MM):
            found.append((name, one.tolist(), two.tolist()))
    return found


def _check_positions(slices: list[_Slice], positions: np.ndarray, tolerance_mm: float) -> None:
    """Refuse duplicated, missing and unevenly spaced slices, and say where."""
    gaps = np.diff(positions)
    duplicates = np.flatnonzero(gaps <= 0.01).tolist()  # no scanner's spacing is that fine
    if duplicates:
        k = duplicates[0]
        raise ValueError(
            f"slices must lie at different positions, got {slices[k].path.name} and "
            f"{slices[k + 1].path.name} both at {positions[k]:.2f} mm in {slices[k].path.parent}"
        )
    spacing = float(np.quantile(gaps, 0.5, method="lower"))
    for k in np.flatnonzero(np.abs(gaps - spacing) > tolerance_mm + ROUNDING_MM).tolist():
        between = f"between {positions[k]:.2f} and {positions[k + 1]:.2f} mm"
        steps = round(gaps[k] / spacing)
        if steps >= 2 and abs(gaps[k] - steps * spacing) <= tolerance_mm + ROUNDING_MM:
            raise ValueError(
                f"series must be complete, got {steps - 1} missing at "
                f"{positions[k] + spacing:.2f} mm ({between}, spacing {spacing:.3f} mm) "
                f"in {slices[k].path.parent}"
            )
        raise ValueError(
            f"slices must be evenly spaced within tolerance_mm={tolerance_mm:g}, got a gap of "
            f"{gaps[k]:.3f} mm {between} and {spacing:.3f} mm elsewhere in {slices[k].path.parent}"
        )


def _check_line(
    slices: list[_Slice], corners: np.ndarray, step: np.ndarray, tolerance_mm: float
) -> None:
    """Refuse slices that small steps or sideways shifts took off the even grid of the affine."""
    even = corners[0] + np.arange(len(corners))[:, None] * step
    off = np.linalg.norm(corners - even, axis=1)
    worst = int(off.argmax())
    if off[worst] > tolerance_mm + ROUNDING_MM:
        raise ValueError(
            f"slices must lie on an even grid within tolerance_mm={tolerance_mm:g}, got "
            f"{off[worst]:.3f} mm off in {slices[worst].path}"
        )


def _read_pixels(slices: list[_Slice]) -> np.ndarray:
    """Decode and rescale slice by slice; one slice at a time is held beside the volume."""
    rows, columns = int(slices[0].header.Rows), int(slices[0].header.Columns)
    volume = np.empty((len(slices), rows, columns), np.int16)
    limits = np.iinfo(np.int16)
    for plane, (path, header) in zip(volume, slices, strict=True):
        values = SliceStorage.of(header).to_values(read_pixels(pydicom.dcmread(path), path))
        if values.min() < limits.min or values.max() > limits.max:
            raise ValueError(
                f"rescaled values must fit 16 bits, got {values.min():g} to {values.max():g} "
                f"in {path}"
            )
        plane[:] = values
    return volume.transpose(2, 1, 0)
