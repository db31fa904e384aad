"""The DICOM files of a folder: which are slices of a scan, and which series is meant."""

from __future__ import annotations

import logging
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RTDoseStorage,
    SegmentationStorage,
)

from tools.dicom.storage import STORAGE_TAGS

__all__ = [
    "Slice",
    "choose_series",
    "is_dicom",
    "is_dicom_folder",
    "read_dataset",
    "scan_in",
    "series_folders",
    "series_uids",
]

logger = logging.getLogger(__name__)

HEADER_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "Modality",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    *STORAGE_TAGS,
]
# what is wrong with one of these is said; it is never passed over
SCANS = {
    CTImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
}
# they have pixels and positions, but no scan
OVERLAID = {RTDoseStorage, SegmentationStorage}
PLACED = ("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
LOCALIZERS = {"LOCALIZER", "SCOUT", "TOPOGRAM"}
SUFFIXES = (".dcm", ".ima")
FIRST_VRS = (b"UL", b"UI", b"OB", b"CS", b"SH", b"DA")  # of group 2, or of the start of group 8


class Slice(NamedTuple):
    """Header of a file, or of one frame of it (from 0)."""

    path: Path
    header: Dataset
    frame: int | None = None

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return self.path.name if self.frame is None else f"{self.path.name} frame {self.frame + 1}"


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, with the preamble or without; no ``DICOMDIR``, none hidden.

    Args:
        path: any path.
    """
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or (_starts_with_an_element(head) and _has_class(path))


def is_dicom_folder(path: str | Path) -> bool:
    """Return whether a folder holds a DICOM file; subfolders are not searched.

    Args:
        path: any path; False for what is no folder. A ``DICOMDIR`` alone does not count.

    Example:
        >>> is_dicom_folder("no/such/folder")
        False
    """
    folder = Path(path)
    return folder.is_dir() and any(is_dicom(file) for file in folder.iterdir())


def read_dataset(path: Path, **options: Any) -> Dataset:
    """Return what a file holds; a file without meta header gets the transfer syntax it is in.

    Args:
        path: of a DICOM file.
        options: of :func:`pydicom.dcmread`.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        dataset = pydicom.dcmread(path, force=True, **options)
    except OSError:
        raise
    except Exception as error:  # pydicom raises whatever the broken bytes lead to
        raise ValueError(f"file must be readable DICOM, got {path} ({error})") from error
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def series_folders(folder: Path, seen: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Yield the folders with DICOM files at and below a folder; links are followed, circles not.

    Args:
        folder: to look through; what is hidden is passed over.
        seen: folders on the way to it.
    """
    if is_dicom_folder(folder):
        yield folder
    seen |= {folder.resolve()}
    for path in sorted(folder.glob("*")):
        if path.is_dir() and not path.name.startswith(".") and path.resolve() not in seen:
            yield from series_folders(path, seen)


def series_uids(folder: Path) -> set[str]:
    """Return the series that the files of a folder belong to.

    Args:
        folder: subfolders are not searched; files that cannot be read count for none.
    """
    found = set()
    for path in filter(is_dicom, folder.iterdir()):
        try:
            header = read_dataset(
                path, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True
            )
        except ValueError:
            continue
        found.add(str(header.get("SeriesInstanceUID", "")))
    return found - {""}


def scan_in(folder: Path) -> Dataset | None:
    """Return the header of a slice of a scan in a folder of DICOM files; None if there is none.

    As many files are read as that takes. One that is broken may be of a scan, of which nothing is
    known (an empty header): reading will tell. What there is in place of a scan is logged.

    Args:
        folder: subfolders are not searched.
    """
    counts: dict[str, int] = defaultdict(int)
    other = []
    for path in sorted(filter(is_dicom, folder.iterdir())):
        try:
            header = read_dataset(path, specific_tags=HEADER_TAGS, stop_before_pixels=True)
        except ValueError:
            return Dataset()
        reason = _no_slice(header)
        if reason is None:
            uid = _text(header, "SeriesInstanceUID")
            counts[uid] += int(header.get("NumberOfFrames") or 1)
            if counts[uid] > 1 or not uid:
                return header
            reason = "a single slice"
        other.append((path.name, reason))
    _log_passed_over(folder, other)
    return None


def choose_series(folder: Path, series_uid: str | None) -> list[Slice]:
    """Return the files with the slices of one series; what else is there is logged.

    Args:
        folder: subfolders are not searched.
        series_uid: series to take; None takes the only one that is a scan.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is none, several and no choice, or a file that cannot be read.
    """
    series: dict[str, list[Slice]] = defaultdict(list)
    localizers: dict[str, list[Slice]] = defaultdict(list)
    others: list[tuple[str, str, str]] = []  # name, series, what it is
    for part in _headers(folder):
        uid, reason = _text(part.header, "SeriesInstanceUID"), _no_slice(part.header)
        if reason is None:
            series[uid].append(part)
        else:
            others.append((part.path.name, uid, reason))
            if reason == "localizer":
                localizers[uid].append(part)
    if not series and not localizers:
        listed = ", ".join(sorted({reason for *_, reason in others})) or "none"
        raise ValueError(f"folder must hold DICOM files of a scan, found {listed} in {folder}")
    chosen = _choice(folder, series or localizers, {**localizers, **series}, series_uid)
    used = {part.path.name for part in series.get(chosen) or localizers[chosen]}
    left = [(name, reason) for name, uid, reason in others if name not in used]
    if series_uid is None:
        lone = (part for uid, parts in series.items() if uid != chosen for part in parts)
        left += [(part.path.name, "slice of another series") for part in lone]
    left += [(path.name, "left by macOS") for path in sorted(folder.glob("._*"))]
    _log_passed_over(folder, left)
    return series.get(chosen) or localizers[chosen]


def _choice(
    folder: Path, series: dict[str, list[Slice]], known: dict[str, list[Slice]], wanted: str | None
) -> str:
    """Return the series that is asked for, or the only one that can be meant."""
    if wanted is not None:
        if wanted not in known:
            found = _listed(known)
            raise ValueError(f"series_uid must be in {folder}, got {wanted}, found {found}")
        return wanted
    scans = {uid: parts for uid, parts in series.items() if _may_be_scan(parts)} or series
    if len(scans) > 1:
        raise ValueError(
            f"folder must hold one series unless series_uid is given, got {len(scans)} "
            f"in {folder}: {_listed(scans)}"
        )
    return next(iter(scans))


def _may_be_scan(parts: list[Slice]) -> bool:
    """Whether there are several slices, and one of them says where it lies."""
    count = sum(int(part.header.get("NumberOfFrames") or 1) for part in parts)
    places = ("ImagePositionPatient", "PerFrameFunctionalGroupsSequence")
    return count > 1 and any(part.header.get(name) for part in parts for name in places)


def _listed(series: dict[str, list[Slice]]) -> str:
    return ", ".join(f"{uid} ({len(parts)} files)" for uid, parts in sorted(series.items()))


def _headers(folder: Path) -> Iterator[Slice]:
    if not folder.is_dir():
        raise FileNotFoundError(f"folder must be an existing folder, got {folder}")
    for path in sorted(folder.iterdir()):
        if is_dicom(path):
            header = read_dataset(path, specific_tags=HEADER_TAGS, stop_before_pixels=True)
            yield Slice(path, header)
        elif path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and _lost(path):
            raise ValueError(f"file must be readable DICOM, got {path}, which is none (cut short?)")


def _lost(path: Path) -> bool:
    """Whether a slice may be lost with it: a file that is not DICOM, or a link to nowhere."""
    return path.is_file() or path.is_symlink()


def _no_slice(header: Dataset) -> str | None:
    """Return what a file is, in words, if it is no slice of a scan; None if it may be one."""
    storage = header.get("SOPClassUID")
    if not storage:  # broken, which is said by whoever reads it; or a directory by another name
        storage = header.file_meta.get("MediaStorageSOPClassUID")
        return storage.name if storage == MediaStorageDirectoryStorage else None
    placed = all(header.get(name) not in (None, "") for name in PLACED)
    if storage not in SCANS and (storage in OVERLAID or not placed):
        return UID(storage).name
    words = header.get("ImageType") or ()
    words = (words,) if isinstance(words, str) else words
    return "localizer" if LOCALIZERS & {str(word).upper() for word in words} else None


def _log_passed_over(folder: Path, files: list[tuple[str, str]]) -> None:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in files:
        by_reason[reason].append(name)
    for reason, names in by_reason.items():
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        logger.warning("passed over in %s: %s (%s)", folder, listed, reason)


def _starts_with_an_element(head: bytes) -> bool:
    """Whether bytes begin as files without the preamble do: at group 2 or at group 8."""
    if len(head) < 132:
        return False
    for order in "<>":
        group, element, length = struct.unpack(f"{order}HHI", head[:8])
        if group in (2, 8) and element <= 0x18:
            return head[4:6] in FIRST_VRS or (order == "<" and length <= 64)
    return False


def _has_class(path: Path) -> bool:
    try:
        found = read_dataset(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
    except ValueError:
        return False
    return "SOPClassUID" in found


def _text(header: Dataset, name: str) -> str:
    return str(header.get(name, "") or "")
