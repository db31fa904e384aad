"""A case as DICOM: the source series with the lesions in it, and a segmentation of them."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from tqdm import tqdm

from tools import __version__
from tools.dicom.files import Slice, read_dataset
from tools.dicom.frames import read_pixels
from tools.dicom.series import DicomSeries
from tools.files import MARK, read_mark
from tools.scans.scan import Scan
from tools.synthesis.case_folder import new_case_folder
from tools.synthesis.dicom.deidentify import deidentify
from tools.synthesis.dicom.header import derived_header, derived_uid
from tools.synthesis.dicom.segmentation import make_segmentation
from tools.synthesis.records import (
    DICOM_FOLDER,
    IMAGE_FILE,
    LABEL_FILE,
    RECORD_FILE,
    SEGMENTATION_FILE,
    BundleRecord,
    read_record,
)

__all__ = [
    "add_dicom",
    "is_dicom_whole",
    "require_derivable",
    "write_derived_series",
    "write_dicom",
]


def require_derivable(scan: Scan, deidentified: bool = False) -> None:
    """Refuse a scan that no series can be derived from, before anything is sampled.

    Args:
        scan: the source.
        deidentified: whether the patient must not be told from what is derived.

    Raises:
        ValueError: if it is no series of single-frame slices, or has words in its pixels.
    """
    if scan.series is None:
        raise ValueError(
            "output_format dicom must have a DICOM series as scan, there is no series to derive "
            f"from in {scan.path}"
        )
    if scan.series.multiframe:
        raise ValueError(
            "output_format dicom must have single-frame slices as scan, got a multi-frame object "
            f"in {scan.path}; output_format nifti reads it"
        )
    tags = ["BurnedInAnnotation"]
    for path in scan.series.paths if deidentified else ():
        header = read_dataset(path, specific_tags=tags, stop_before_pixels=True)
        if header.get("BurnedInAnnotation") == "YES":
            raise ValueError(
                "deidentify must have pixels without words in them, got BurnedInAnnotation YES in "
                f"{path}"
            )


def write_dicom(
    folder: Path,
    scan: Scan,
    stored: np.ndarray,
    label: np.ndarray,
    organ_labels: Path | None = None,
    deidentified: bool = False,
) -> None:
    """Write the derived series of a case and the segmentation of its lesions.

    Args:
        folder: of the case, with its record; nobody must look into it yet.
        scan: the source, a DICOM series.
        stored: its values with the lesions, as ``image.nii.gz`` holds them.
        label: uint8, of the same shape.
        organ_labels: the organ's label map that the case was made with, if ``label`` carries it;
            lesions that it held already are not synthetic and stay out of the segmentation.
        deidentified: whether to take out who the patient is, as
            :func:`tools.synthesis.dicom.deidentify.deidentify` does.

    Raises:
        ValueError: as :func:`require_derivable` does, or if the pixels cannot be read again.
    """
    require_derivable(scan, deidentified)
    assert scan.series is not None
    record = read_record(folder / RECORD_FILE)
    headers = write_derived_series(
        folder / DICOM_FOLDER, scan.series, stored, record.bundle, deidentified
    )
    if organ_labels is not None and "labels" in (record.organ_mask or {}):
        earlier = scan.load_labels(organ_labels, "organ_mask")
        label = np.where(label == earlier, 0, label)
    segmentation = make_segmentation(headers, label, scan.affine, record)
    if segmentation is not None:
        _save(segmentation, folder / SEGMENTATION_FILE)


def add_dicom(
    folder: Path, scan: Scan, organ_labels: Path | None = None, deidentified: bool = False
) -> None:
    """Complete a finished case that was written as NIfTI only; nothing is sampled again.

    Args:
        folder: of the case, whole but for DICOM; what there is of that is written anew.
        scan: the source, a DICOM series.
        organ_labels: as for :func:`write_dicom`.
        deidentified: likewise.

    Raises:
        ValueError: as :func:`write_dicom` does, or if the folder holds what others made.
    """
    request = (read_mark(folder) or {}).get("request")
    with new_case_folder(folder, request, replace=True) as partial:
        for path in folder.iterdir():
            if path.name not in (MARK, SEGMENTATION_FILE) and path.is_file():
                shutil.copy2(path, partial)
        stored, label = (Scan(partial / name).stored for name in (IMAGE_FILE, LABEL_FILE))
        write_dicom(partial, scan, stored, label, organ_labels, deidentified)


def is_dicom_whole(folder: Path) -> bool:
    """Return whether a finished case has all its DICOM files.

    Args:
        folder: of the case, with its record.
    """
    record = read_record(folder / RECORD_FILE)
    slices = [path.stat().st_size for path in (folder / DICOM_FOLDER).glob("*.dcm")]
    segmentation = folder / SEGMENTATION_FILE
    segmented = not record.lesions or (segmentation.is_file() and segmentation.stat().st_size > 0)
    return len(slices) == record.shape[2] and all(slices) and segmented


def write_derived_series(
    folder: Path,
    series: DicomSeries,
    stored: np.ndarray,
    bundle: BundleRecord,
    deidentified: bool = False,
) -> list[Dataset]:
    """Write one file per slice; what did not change keeps its stored numbers, bit for bit.

    Args:
        folder: to write, must not exist.
        series: the source; its files are read again.
        stored: values with lesions, of the shape of ``series.image``.
        bundle: that made them.
        deidentified: whether to take out who the patient is.

    Returns:
        The headers of the slices, ascending as in ``series``, without pixels.

    Raises:
        ValueError: if the shapes differ, or pixels cannot be read.
    """
    if stored.shape != series.image.shape:
        raise ValueError(f"stored must have shape {series.image.shape}, got {stored.shape}")
    identity = _identity(series, stored, bundle)
    uid = derived_uid("series", identity)
    numbers = _instance_numbers(series)
    folder.mkdir(parents=True)
    headers = []
    for k, path in enumerate(tqdm(series.paths, desc="DICOM", unit="slice", leave=False)):
        source = read_dataset(path)
        pixels = read_pixels(source, Slice(path, source)).copy()
        plane = stored[:, :, k].T
        changed = plane != series.image[:, :, k].T
        pixels[changed] = series.storage[k].to_stored(plane[changed])
        if deidentified:
            deidentify(source)
        header = derived_header(source, uid, identity, bundle, int(changed.sum()))
        header.InstanceNumber = numbers[k]
        _set_pixels(header, pixels)
        _save(header, folder / f"slice_{k + 1:04d}.dcm")
        del header.PixelData
        headers.append(header)
    return headers


def _identity(series: DicomSeries, stored: np.ndarray, bundle: BundleRecord) -> str:
    """Return a hash of source, result and maker: the same run has the same, no other has."""
    words = [series.series_uid, *series.sop_uids, bundle.name, bundle.version, __version__]
    digest = hashlib.sha256("|".join(words).encode())
    kind = "<f4" if stored.dtype.kind == "f" else "<i4"
    for k in range(stored.shape[2]):
        digest.update(np.ascontiguousarray(stored[:, :, k].T, kind).tobytes())
    return digest.hexdigest()


def _instance_numbers(series: DicomSeries) -> list[int]:
    """Return the source's numbers, so that viewers page as before, or new ones if they repeat."""
    tags = ["InstanceNumber"]
    found: list[Any] = [
        read_dataset(path, stop_before_pixels=True, specific_tags=tags).get("InstanceNumber")
        for path in series.paths
    ]
    usable = None not in found and max(Counter(found).values()) == 1
    return [int(n) for n in found] if usable else list(range(1, len(found) + 1))


def _set_pixels(header: Dataset, pixels: np.ndarray) -> None:
    """Put in pixels uncompressed; the header says already how many bits they have."""
    size = int(header.BitsAllocated) // 8
    kind = "i" if int(header.PixelRepresentation) == 1 else "u"
    data = pixels.astype(f"<{kind}{size}").tobytes()
    if "PixelData" in header:
        del header.PixelData  # its length and VR were those of the source's coding
    header.add_new("PixelData", "OW", data + b"\0" * (len(data) % 2))


def _save(dataset: Dataset, path: Path) -> None:
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
