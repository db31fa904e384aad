"""Scans in and out: stored values, affine, data type and header scaling stay as they are."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import io_orientation, ornt_transform

from tools.bundle import sha256_file
from tools.dicom.series import DicomSeries, read_series

__all__ = ["Scan"]


class Scan:
    """A scan whose stored values are changed in a few voxels and written back as they were.

    A DICOM series becomes a NIfTI image in memory with the values and the geometry of the series,
    which itself is at hand as ``series``.

    Args:
        source: a 3-D ``.nii`` or ``.nii.gz``, the folder of a DICOM series, or an image in memory.
        series_uid: which series of the folder; None where it holds only one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no NIfTI image, not 3-D, or has no invertible affine, or the
            series is not whole.

    Example:
        >>> scan = Scan(nib.Nifti1Image(np.zeros((4, 4, 2), np.int16), np.diag([1, 1, 2.5, 1])))
        >>> scan.spacing_mm
        (1.0, 1.0, 2.5)
    """

    def __init__(self, source: str | Path | nib.Nifti1Image, series_uid: str | None = None) -> None:
        self.path = None if isinstance(source, nib.Nifti1Image) else Path(source)
        self.series: DicomSeries | None = None
        self.nifti: Any  # a nib.Nifti1Image; its type names a base class
        if self.path is None:
            self.nifti = source
        elif self.path.is_dir():
            self.series = read_series(self.path, series_uid)
            self.nifti = _as_nifti(self.series)
        else:
            self.nifti = _load(self.path)
        where = "" if self.path is None else f" in {source}"
        if len(self.nifti.shape) != 3:
            raise ValueError(f"scan must have 3 dimensions, got shape {self.nifti.shape}{where}")
        if abs(np.linalg.det(self.affine[:3, :3])) < 1e-9:
            raise ValueError(
                f"scan must have an invertible affine, got {self.affine.tolist()}{where}"
            )

    @property
    def name(self) -> str:
        """Name of the file or folder, with its endings; empty for an image in memory."""
        return "" if self.path is None else self.path.resolve().name

    @cached_property
    def sha256(self) -> str:
        """Hash of the input: of the file; of a series or an image in memory, see below.

        For a series: the affine, then of each slice, in ascending order along the normal, its SOP
        instance UID and its rescaled values (as in the image, little endian, row by row). So
        neither file names nor tags that do not touch the picture change it. An image in memory:
        affine and values.
        """
        if self.path is not None and self.series is None:
            return sha256_file(self.path)
        digest = hashlib.sha256(" ".join(f"{v:.4f}" for v in self.affine.ravel()).encode())
        uids = [""] * self.stored.shape[2] if self.series is None else self.series.sop_uids
        for uid, plane in zip(uids, np.moveaxis(self.stored, 2, 0), strict=True):
            values = np.ascontiguousarray(plane.T)
            digest.update(uid.encode() + values.astype(values.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()

    @property
    def affine(self) -> np.ndarray:
        """Voxel index to RAS mm, 4x4."""
        return self.nifti.affine

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size along each axis."""
        return tuple(float(s) for s in nib.affines.voxel_sizes(self.affine))

    @cached_property
    def stored(self) -> np.ndarray:
        """Values as they lie in the file, before header scaling; read once."""
        data = self.nifti.dataobj
        return np.asanyarray(data.get_unscaled() if nib.is_proxy(data) else data)

    @cached_property
    def image(self) -> np.ndarray:
        """Values in the scan's units (HU for CT); no copy if there is no scaling."""
        slope, inter = self._scaling
        return self.stored if (slope, inter) == (1.0, 0.0) else self.stored * slope + inter

    @property
    def _scaling(self) -> tuple[float, float]:
        # nibabel takes the scaling out of the header while loading and keeps it in the proxy
        data = self.nifti.dataobj
        return (float(data.slope), float(data.inter)) if nib.is_proxy(data) else (1.0, 0.0)

    @property
    def phantom(self) -> bool:
        """Whether the file says of itself that it is a phantom."""
        return b"phantom" in bytes(self.nifti.header["descrip"].tobytes()).lower()

    def stored_values(self, values: np.ndarray) -> np.ndarray:
        """Return values in the scan's units as the file stores them, rounded, within its type."""
        slope, inter = self._scaling
        values = (np.asarray(values, np.float64) - inter) / slope
        dtype = self.stored.dtype
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        return values.astype(dtype)

    def storable(self, stored: np.ndarray) -> np.ndarray:
        """Return a result whose changed values are such as the source can store.

        A NIfTI file can store all that :meth:`stored_values` returns. A slice of a DICOM series may
        have fewer bits or wider steps than whole numbers of 16 bits.

        Args:
            stored: as :attr:`stored`, with changed values; not changed itself.
        """
        if self.series is None:
            return stored
        result = stored.copy(order="K")
        for k, storage in enumerate(self.series.storage):
            plane = result[..., k]
            changed = plane != self.stored[..., k]
            plane[changed] = storage.to_values(storage.to_stored(plane[changed]), plane.dtype)
        return result

    def write(self, path: Path, stored: np.ndarray) -> None:
        """Write stored values with this scan's header: data type, scaling, affine codes and all."""
        header = self.nifti.header.copy()
        result = nib.Nifti1Image(stored, self.affine, header)
        result.header.set_data_dtype(self.nifti.get_data_dtype())
        # a scaling in the header makes nibabel write the stored values as they are
        result.header.set_slope_inter(*self._scaling)
        nib.save(result, path)

    def write_label(self, path: Path, label: np.ndarray) -> None:
        """Write a uint8 label on this scan's grid."""
        result = nib.Nifti1Image(label.astype(np.uint8), self.affine)
        result.header.set_xyzt_units("mm")
        nib.save(result, path)

    def load_mask(self, path: str | Path, argument: str, empty: bool = False) -> np.ndarray:
        """Return a mask file as booleans on this scan's grid.

        The axes of the file may be turned or swapped against the scan's, as masks that other
        programs draw on a DICOM series are.

        Args:
            path: NIfTI file; voxels above 0 are the mask.
            argument: its name in messages.
            empty: whether the mask may be empty.

        Raises:
            ValueError: naming ``argument``, if shape or affine differ from the scan's, or it is
                empty and must not be.
        """
        mask = self.on_grid(Scan(path).nifti, argument)
        if not (empty or mask.any()):
            raise ValueError(f"{argument} must mark at least one voxel, got none in {path}")
        return mask

    def load_labels(self, path: str | Path, argument: str) -> np.ndarray:
        """Return a label map on this scan's grid, whole numbers.

        Args:
            path: NIfTI file, its axes in any order.
            argument: its name in messages.

        Raises:
            ValueError: naming ``argument``, if shape or affine differ from the scan's.
        """
        return self.labels_on_grid(Scan(path).nifti, argument)

    def labels_on_grid(self, image: nib.Nifti1Image, argument: str) -> np.ndarray:
        """Return a label map in memory on this scan's grid, whole numbers.

        Raises:
            ValueError: naming ``argument``, if it lies on another grid.
        """
        return np.rint(self._turned(image, argument)).astype(np.int16)

    def on_grid(self, image: nib.Nifti1Image, argument: str) -> np.ndarray:
        """Return where an image on this scan's grid, its axes in any order, is above 0.

        Raises:
            ValueError: naming ``argument``, if it lies on another grid.
        """
        return self._turned(image, argument) > 0

    def _turned(self, image: nib.Nifti1Image, argument: str) -> np.ndarray:
        turn = ornt_transform(io_orientation(image.affine), io_orientation(self.affine))
        turned = image.as_reoriented(turn)
        if turned.shape != self.nifti.shape:
            raise ValueError(
                f"{argument} must have the scan's shape {self.nifti.shape}, got {turned.shape}"
            )
        if not np.allclose(turned.affine, self.affine, atol=1e-2):
            raise ValueError(
                f"{argument} must have the scan's affine, got {turned.affine.tolist()}"
            )
        return np.asarray(turned.dataobj)


def _load(path: Path) -> nib.Nifti1Image:
    if not path.is_file():
        raise FileNotFoundError(f"scan must be an existing NIfTI file, got {path}")
    try:
        return nib.Nifti1Image.load(path)
    except ImageFileError as error:
        raise ValueError(f"scan must be a NIfTI image (.nii, .nii.gz), got {path}") from error


def _as_nifti(series: DicomSeries) -> nib.Nifti1Image:
    """Return the series as an image whose header places it as the scanner did."""
    result = nib.Nifti1Image(series.image, series.affine)
    result.header.set_xyzt_units("mm")
    result.set_sform(series.affine, code="scanner")
    result.set_qform(series.affine, code="scanner")
    return result
