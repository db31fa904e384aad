"""Frames of enhanced multi-frame objects, each with a header as single slices have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

from tools.dicom.files import Slice, read_dataset

__all__ = ["SlicePixels", "read_pixels", "split_frames"]

# functional groups, and what single slices have in their place
GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}


def split_frames(part: Slice) -> list[Slice]:
    """Return the frames of an enhanced object; of any other file, the file itself.

    Args:
        part: of a whole file.

    Raises:
        ValueError: if the number of frames is not that of their functional groups.
    """
    groups = part.header.get("PerFrameFunctionalGroupsSequence")
    if not groups:
        return [part]
    count = int(part.header.get("NumberOfFrames") or 1)
    if count != len(groups):
        raise ValueError(
            f"NumberOfFrames must be the number of functional groups, got {count} and "
            f"{len(groups)} in {part.path}"
        )
    shared = part.header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    plain = Dataset()
    plain.update({e.tag: e for e in part.header if e.VR != "SQ" and e.keyword != "NumberOfFrames"})
    plain.file_meta = part.header.file_meta
    return [
        Slice(part.path, _frame_header(plain, shared[0], own), frame)
        for frame, own in enumerate(groups)
    ]


def _frame_header(plain: Dataset, shared: Dataset, own: Dataset) -> Dataset:
    header = Dataset()
    header.update(plain)
    header.file_meta = plain.file_meta
    for group, names in GROUPS.items():
        items = own.get(group) or shared.get(group) or [Dataset()]
        for name in names:
            if name in items[0]:
                header[name] = items[0][name]
    return header


class SlicePixels:
    """Reads stored values slice by slice; of several frames in a file, the file only once."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._dataset = Dataset()

    def read(self, part: Slice) -> np.ndarray:
        """Return the stored values of one slice, shape (rows, columns), decompressed if need be.

        Args:
            part: a file, or a frame of it.

        Raises:
            ValueError: if there is no decoder for its compression, or the file is cut short.
        """
        if part.path != self._path or part.frame is None:
            self._path, self._dataset = part.path, read_dataset(part.path)
        return read_pixels(self._dataset, part)


def read_pixels(dataset: Dataset, part: Slice) -> np.ndarray:
    """Return the stored values of one slice of a dataset.

    Args:
        dataset: of the whole file.
        part: which slice of it.

    Raises:
        ValueError: if there is no decoder for its compression, or the file is cut short.
    """
    try:
        pixels = pixel_array(dataset, raw=True, index=part.frame or 0)
    except Exception as error:  # missing decoder, truncated file: each has its own type
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        coding = f" in {syntax.name}" if syntax is not None and syntax.is_compressed else ""
        reason = " ".join(str(error).split())
        raise ValueError(f"pixels must be readable, got {part.path}{coding} ({reason})") from error
    return pixels
