"""A writer of small DICOM series."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SPACING = (0.8, 0.7)  # between rows, between columns


def write_dicom_series(
    folder: Path, stored: np.ndarray, names: str = "{}.dcm", tag: str = ""
) -> None:
    """Write axial slices 2.5 mm apart, stored with an offset of 1024, the last slice first."""
    folder.mkdir(parents=True)
    for k, plane in reversed(list(enumerate(stored))):
        item = Dataset()
        item.file_meta = FileMetaDataset()
        item.file_meta.MediaStorageSOPClassUID = CTImageStorage
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.SOPClassUID, item.SeriesInstanceUID, item.Modality = CTImageStorage, "1.2.3", "CT"
        item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k + 1}"
        item.PatientID, item.SeriesDescription = "P1", tag
        item.Rows, item.Columns = plane.shape
        item.ImagePositionPatient = [-10.0, 20.0, 2.5 * k]
        item.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        item.PixelSpacing = list(SPACING)
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated, item.BitsStored, item.HighBit = 16, 16, 15
        item.PixelRepresentation, item.RescaleSlope, item.RescaleIntercept = 0, 1, -1024
        item.PixelData = plane.astype("<u2").tobytes()
        pydicom.dcmwrite(folder / names.format(len(stored) - k), item, enforce_file_format=True)


@pytest.fixture
def write_series() -> Callable[..., None]:
    """The writer, for tests that cannot import one another."""
    return write_dicom_series
