"""A series with two lesions in it, for the tests of what is written from it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from tests.dicom_series import AXIAL, write_dicom_series
from tools.scans.scan import Scan
from tools.synthesis.dicom.derived import write_dicom
from tools.synthesis.records import BundleRecord, LesionRecord, ScanRecord, write_record

SHAPE = (6, 9, 12)  # slices, rows, columns
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)  # normal: -x
BUNDLE = BundleRecord("lefusion_lidc", "9.9.9", "ab" * 32)


class WrittenCase(NamedTuple):
    """What a test looks at."""

    folder: Path
    scan: Scan
    stored: np.ndarray
    label: np.ndarray


def twelve_bits(k: int, header: Dataset) -> None:
    """Unsigned, as most CT scanners write."""
    header.BitsStored, header.HighBit, header.PixelRepresentation = 12, 11, 0
    header.StudyInstanceUID, header.FrameOfReferenceUID = "1.2.9", "1.2.10"
    header.SeriesNumber, header.SeriesDescription = 3, "Thorax 2.5"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]
    header.StudyDate = header.ContentDate = "20010203"
    header.InstanceNumber = 10 - k


def as_mr(k: int, header: Dataset) -> None:
    """MR without any rescaling, signed or not as it was."""
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = MRImageStorage
    header.Modality, header.SliceThickness = "MR", 8.0
    del header.RescaleSlope, header.RescaleIntercept


def source(
    folder: Path,
    edit: Callable[[int, Dataset], None] = twelve_bits,
    orientation: tuple[float, ...] = AXIAL,
    slope: float = 1.0,
    intercept: float = -1024.0,
    low: int = 0,
) -> Path:
    """Write the series, its last slice first, and return its folder."""
    stored = np.random.default_rng(0).integers(low, 2000, SHAPE)
    step = np.cross(orientation[:3], orientation[3:]) * -2.5
    places = [np.array([-10.0, 20.0, 30.0]) + k * step for k in range(SHAPE[0])]
    write_dicom_series(
        folder,
        stored,
        positions=places,
        spacing=(0.8, 0.7),
        orientation=orientation,
        slope=slope,
        intercept=intercept,
        edit=edit,
    )
    return folder


def with_lesions(folder: Path, series: Path, out: str = "case") -> WrittenCase:
    """Put a box of too high values and a smaller one of low values into a series and write it."""
    scan = Scan(series)
    stored, label = scan.stored.copy(), np.zeros(scan.stored.shape, np.uint8)
    boxes = ((slice(2, 5), slice(3, 6), slice(1, 4)), (slice(8, 10), slice(1, 3), slice(2, 3)))
    lesions = []
    for box, value in zip(boxes, (9000, -990), strict=True):
        stored[box], label[box] = value, 1
        site = apply_affine(scan.affine, [(side.start + side.stop - 1) / 2 for side in box])
        lesions.append(LesionRecord(1, "lesion", site.tolist(), 4.0, 33.5, "solid", "box", 7))
    index = np.argwhere(label)
    stored[label > 0] = scan.storable(stored[label > 0], index)
    lesions.reverse()  # records need not be in the order that voxels are found
    record = ScanRecord("s", scan.sha256, scan.spacing_mm, stored.shape, BUNDLE, lesions)
    target = folder / out
    target.mkdir(parents=True)
    write_record(target / "lesions.json", record)
    write_dicom(target, scan, stored, label)
    return WrittenCase(target, scan, stored, label)


def noisy_lung(folder: Path) -> Scan:
    """Return a scan of nothing but lung; its mask is ``lung.nii.gz`` in the folder."""
    values = np.random.default_rng(0).normal(-850, 30, (44, 44, 36)).astype(np.int16)
    scan = Scan(nib.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])))
    organ = np.zeros(values.shape, np.uint8)
    organ[3:-3, 3:-3, 3:-3] = 1
    scan.write_label(folder / "lung.nii.gz", organ)
    return scan
