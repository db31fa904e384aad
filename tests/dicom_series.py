"""A writer of small DICOM series, for the tests of all that reads or writes them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def write_dicom_series(
    folder: Path,
    stored: np.ndarray,
    *,
    positions: Sequence[Sequence[float]],
    spacing: tuple[float, float] = (1.0, 1.0),
    orientation: Sequence[float] = AXIAL,
    slope: float | Sequence[float] = 1.0,
    intercept: float | Sequence[float] = 0.0,
    series_uid: str = "1.2.3",
    patient: str = "P1",
    names: Sequence[str] | None = None,
    edit: Callable[[int, Dataset], None] | None = None,
) -> list[str]:
    """Write ``stored`` (slices, rows, columns) as given; return the SOP UIDs in that order."""
    folder.mkdir(parents=True, exist_ok=True)
    uids = []
    for k, plane in enumerate(stored):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_ = Dataset()
        slice_.file_meta = meta
        slice_.SOPClassUID = CTImageStorage
        slice_.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = f"{series_uid}.{k + 1}"
        slice_.SeriesInstanceUID, slice_.PatientID, slice_.Modality = series_uid, patient, "CT"
        slice_.Rows, slice_.Columns = plane.shape
        slice_.InstanceNumber = 1  # says nothing: the same in all
        slice_.ImagePositionPatient = [float(v) for v in positions[k]]
        slice_.ImageOrientationPatient = list(orientation)
        slice_.PixelSpacing = list(spacing)
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated = slice_.BitsStored = 16
        slice_.HighBit, slice_.PixelRepresentation = 15, 1
        slice_.RescaleSlope = float(np.broadcast_to(slope, len(stored))[k])
        slice_.RescaleIntercept = float(np.broadcast_to(intercept, len(stored))[k])
        slice_.PixelData = plane.astype("<i2").tobytes()
        if edit is not None:
            edit(k, slice_)
        name = names[k] if names is not None else f"{k:03d}.dcm"
        pydicom.dcmwrite(folder / name, slice_, enforce_file_format=True)
        uids.append(str(slice_.SOPInstanceUID))
    return uids
