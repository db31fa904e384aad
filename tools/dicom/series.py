"""One DICOM series as an array in HU with its affine and the identity of each slice."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from tools.dicom.files import Slice, choose_series
from tools.dicom.frames import SlicePixels, split_frames
from tools.dicom.storage import SliceStorage

__all__ = ["DicomSeries", "read_series"]

logger = logging.getLogger(__name__)

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ROUNDING_MM = 1e-4  # what decimal strings of 16 characters lose, with room to spare
JITTER = 1e-3  # by which scanners write the orientation differently from slice to slice
SPACING_MM = (0.01, 100.0)  # of pixels; metres, micrometres and zeros are beyond
MAX_VOXELS = 2**31  # ten times a whole body; a header that claims more is broken
IDENTITY = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
GREY = ("MONOCHROME1", "MONOCHROME2", None)
# what a slice must say of its plane, and how many numbers that is
PLANE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
PLANE |= {"Rows": 1, "Columns": 1}


class DicomSeries(NamedTuple):
    """One volume of a DICOM series; slices ascend along the normal of the image plane.

    Attributes:
        image: shape (columns, rows, slices); HU for CT, rescaled values for MR. int16, or float32
            where rescaled values are no whole numbers or need more than 16 bits.
        affine: 4x4, voxel index to RAS mm; sheared where the gantry was tilted.
        sop_uids: SOP instance UID of each slice; of several frames in a file, with their number.
        slice_positions_mm: position of each slice along the normal, ascending, shape (slices,).
        series_uid: series instance UID.
        patient_id: as in the first slice; empty if absent.
        modality: ``CT`` or ``MR``, as in the first slice.
        paths: file of each slice; empty if the volume was not read from files.
        storage: how each slice stores its values; empty likewise.
        multiframe: whether a file holds several slices.
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
    multiframe: bool = False


def read_series(
    folder: str | Path,
    series_uid: str | None = None,
    tolerance_mm: float = 0.1,
    pixels: bool = True,
) -> DicomSeries:
    """Read one CT or MR series; slices are ordered by where they lie, never by name or number.

    The place of a slice is ImagePositionPatient projected on the normal of the image plane
    (ImageOrientationPatient; the mean where slices differ by less than 1e-3). Rescale slope and
    intercept are those of each slice. Frames of enhanced objects are slices like any other. Of
    slices that are there twice, geometry and pixels identical, one is taken.

    Args:
        folder: holds the files of a scan; files that are no DICOM are ignored, localizers, reports
            and other objects passed over with a line in the log, subfolders are not searched.
        series_uid: series instance UID to read; None takes the only one.
        tolerance_mm: how far a slice may lie from its place on an even grid.
        pixels: False where the geometry is all that is wanted: only headers are read, and
            ``image`` is 0 everywhere, read-only, and takes no memory.

    Returns:
        The volume; nothing of the datasets is kept but what identifies slice, series and patient,
        and what it takes to store changed values.

    Raises:
        FileNotFoundError: if ``folder`` does not exist.
        ValueError: if there is no scan, several series and no choice, a single slice, no image
            with a position, slices of different shape, pixel spacing or orientation, two different
            slices at one position, a missing slice, uneven spacing, sizes that cannot be, or pixels
            that cannot be read.

    Example:
        ``read_series("LIDC-IDRI-0001/1.3.6.1/3000566")``, then ``series.image[i, j, k]``
        lies at ``series.affine @ (i, j, k, 1)``.
    """
    slices = [part for file in choose_series(Path(folder), series_uid) for part in _frames(file)]
    if len(slices) == 1:
        raise ValueError(f"series must have at least two slices, got one in {folder}")
    _check_alike(slices)
    across, down = _orientation(slices)
    normal = np.cross(across, down)
    slices.sort(key=lambda part: float(_corner(part) @ normal))
    slices = _without_doubles(slices, normal)
    corners = np.stack([_corner(part) for part in slices])
    positions = corners @ normal
    _check_positions(slices, positions, tolerance_mm)
    step = (corners[-1] - corners[0]) / (len(slices) - 1)
    _check_line(slices, corners, step, tolerance_mm)
    first = slices[0].header
    row_mm, column_mm = (float(value) for value in first.PixelSpacing)
    affine = np.eye(4)  # PixelSpacing is between rows first, then between columns
    affine[:3] = np.stack([across * column_mm, down * row_mm, step, corners[0]], axis=1)
    shape = (int(first.Columns), int(first.Rows), len(slices))
    storage = tuple(_storage(part) for part in slices)
    return DicomSeries(
        _read_image(slices, storage) if pixels else np.broadcast_to(np.int16(0), shape),
        LPS_TO_RAS @ affine,
        tuple(_uid(part) for part in slices),
        positions,
        str(first.SeriesInstanceUID),
        str(first.get("PatientID", "") or ""),
        str(first.get("Modality", "") or ""),
        tuple(part.path for part in slices),
        storage,
        any(part.frame is not None for part in slices),
    )


def _uid(part: Slice) -> str:
    uid = str(part.header.SOPInstanceUID)
    return uid if part.frame is None else f"{uid} frame {part.frame + 1}"


def _corner(part: Slice) -> np.ndarray:
    return np.array(part.header.ImagePositionPatient, float)


def _storage(part: Slice) -> SliceStorage:
    try:
        return SliceStorage.of(part.header)
    except ValueError as error:
        raise ValueError(f"{error} in {part.path}") from error


def _frames(file: Slice) -> list[Slice]:
    """Return the slices of a file; refuse one that is no grey image with a place in the patient."""
    frames = split_frames(file)
    for part in frames:
        header = part.header
        missing = [k for k in (*IDENTITY, *PLANE) if header.get(k) in (None, "")]
        colour = int(header.get("SamplesPerPixel") or 1) > 1
        colour |= header.get("PhotometricInterpretation") not in GREY
        reason = f"without {', '.join(missing)}" if missing else ""
        if int(header.get("NumberOfFrames") or 1) > 1 or colour:
            reason = reason or "of several frames or colours"
        if "ModalityLUTSequence" in header:
            reason = reason or "rescaled by a table"
        if reason:
            storage = getattr(header.get("SOPClassUID", ""), "name", "unknown storage")
            raise ValueError(
                "series must be CT or MR slices, or enhanced multi-frame CT or MR, with positions, "
                f"got {storage} {reason}: {file.path}"
            )
        _check_plane(part)
    return frames


def _check_plane(part: Slice) -> None:
    """Refuse numbers that no image plane can have, before memory is taken for them."""
    for name, length in PLANE.items():
        numbers = np.atleast_1d(np.array(part.header[name].value, float))
        if len(numbers) != length or not np.isfinite(numbers).all():
            raise ValueError(f"{name} must be {length} number(s), got {numbers} in {part.path}")
    spacing = [float(value) for value in part.header.PixelSpacing]
    if not all(SPACING_MM[0] <= value <= SPACING_MM[1] for value in spacing):
        low, high = SPACING_MM
        raise ValueError(
            f"PixelSpacing must be from {low:g} to {high:g} mm, got {spacing} in {part.path}"
        )
    cosines = np.array(part.header.ImageOrientationPatient, float).reshape(2, 3)
    if not np.allclose(cosines @ cosines.T, np.eye(2), atol=0.01):
        raise ValueError(
            "ImageOrientationPatient must be two perpendicular unit vectors, got "
            f"{cosines.tolist()} in {part.path}"
        )


def _check_alike(slices: Sequence[Slice]) -> None:
    """Refuse slices of different planes, and more of them than any scan has."""
    first = slices[0]
    for part in slices[1:]:
        for name, value, other in _differences(first.header, part.header):
            raise ValueError(
                f"slices must share one {name}, got {value} in {first.path} and {other} in "
                f"{part.name}"
            )
    rows, columns = int(first.header.Rows), int(first.header.Columns)
    if not 0 < rows * columns * len(slices) <= MAX_VOXELS:
        raise ValueError(
            f"series must have from 1 to {MAX_VOXELS} voxels, got {columns} x {rows} x "
            f"{len(slices)} in {first.path}"
        )


def _orientation(slices: Sequence[Slice]) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (LPS) of increasing column and of increasing row, of all slices together."""
    all_cosines = np.array([part.header.ImageOrientationPatient for part in slices], float)
    same = (all_cosines == all_cosines[0]).all()  # the mean of equal numbers is not always equal
    cosines = (all_cosines[0] if same else all_cosines.mean(axis=0)).reshape(2, 3)
    across, down = cosines / np.linalg.norm(cosines, axis=1, keepdims=True)
    return across, down


def _without_doubles(slices: Sequence[Slice], normal: np.ndarray) -> list[Slice]:
    """Return slices without copies; refuse two at one position that are not the same."""
    kept, copies = [slices[0]], []
    reader = SlicePixels()
    for part in slices[1:]:
        place = _corner(kept[-1]) @ normal
        if _corner(part) @ normal - place > 0.01:  # no scanner's spacing is that fine
            kept.append(part)
        elif _same(kept[-1], part, reader):
            copies.append(part.name)
        else:
            raise ValueError(
                f"slices must lie at different positions, got {kept[-1].name} and {part.name} "
                f"both at {place:.2f} mm in {part.path.parent}, and they differ"
            )
    if copies:
        listed = ", ".join(copies[:3]) + (", ..." if len(copies) > 3 else "")
        logger.warning(
            "passed over in %s: %s (%d identical copies of slices)",
            *(slices[0].path.parent, listed, len(copies)),
        )
    if len(kept) == 1:
        raise ValueError(
            f"series must have at least two slices, got copies of one in {slices[0].path.parent}"
        )
    return kept


def _same(one: Slice, two: Slice, reader: SlicePixels) -> bool:
    if not np.allclose(_corner(one), _corner(two), rtol=0, atol=ROUNDING_MM):
        return False
    first, second = (_storage(part).to_values(reader.read(part)) for part in (one, two))
    return np.array_equal(first, second)


def _differences(first: Dataset, other: Dataset) -> list[tuple[str, object, object]]:
    """Name and both values of each property of the image plane that two slices do not share."""
    found: list[tuple[str, object, object]] = []
    shapes = [(int(h.Rows), int(h.Columns)) for h in (first, other)]
    if shapes[0] != shapes[1]:
        found.append(("shape", shapes[0], shapes[1]))
    names = {"PixelSpacing": "pixel spacing", "ImageOrientationPatient": "orientation"}
    for (tag, name), within in zip(names.items(), (ROUNDING_MM, JITTER), strict=True):
        one, two = (np.array(h[tag].value, float) for h in (first, other))
        if not np.allclose(one, two, rtol=0, atol=within):
            found.append((name, one.tolist(), two.tolist()))
    return found


def _check_positions(slices: list[Slice], positions: np.ndarray, tolerance_mm: float) -> None:
    """Refuse missing and unevenly spaced slices, and say where."""
    gaps = np.diff(positions)
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
    slices: list[Slice], corners: np.ndarray, step: np.ndarray, tolerance_mm: float
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


def _read_image(slices: Sequence[Slice], storage: Sequence[SliceStorage]) -> np.ndarray:
    """Decode and rescale slice by slice; one slice at a time is held beside the volume."""
    rows, columns = int(slices[0].header.Rows), int(slices[0].header.Columns)
    all_whole = all(way.whole for way in storage)
    kind: Any = np.int16 if all_whole else np.float32
    volume = np.empty((len(slices), rows, columns), kind)
    limits = np.iinfo(np.int16)
    reader = SlicePixels()
    for k, (part, way) in enumerate(zip(slices, storage, strict=True)):
        stored = reader.read(part)
        if stored.shape != (rows, columns):
            raise ValueError(
                f"pixels must be {rows} x {columns} as the header says, got {stored.shape} in "
                f"{part.path}"
            )
        values = way.to_values(stored)
        if kind is np.int16 and (values.min() < limits.min or values.max() > limits.max):
            kind, volume = np.float32, volume.astype(np.float32)
        volume[k] = values.round() if all_whole else values
    return volume.transpose(2, 1, 0)
