"""Scans in and out: stored values, affine, data type and header scaling stay as they are."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

__all__ = ["Scan"]


class Scan:
    """A NIfTI scan whose stored values are changed in a few voxels and written back as they were.

    Args:
        path: a 3-D ``.nii`` or ``.nii.gz``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no NIfTI image, not 3-D, or has no invertible affine.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"scan must be an existing NIfTI file, got {path}")
        try:
            self.nifti = nib.Nifti1Image.load(self.path)
        except ImageFileError as error:
            raise ValueError(f"scan must be a NIfTI image (.nii, .nii.gz), got {path}") from error
        if len(self.nifti.shape) != 3:
            raise ValueError(f"scan must have 3 dimensions, got shape {self.nifti.shape} in {path}")
        if abs(np.linalg.det(self.affine[:3, :3])) < 1e-9:
            raise ValueError(
                f"scan must have an invertible affine, got {self.affine.tolist()} in {path}"
            )

    @property
    def name(self) -> str:
        """File name without its endings."""
        return self.path.name.removesuffix(".gz").removesuffix(".nii")

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
        return np.asanyarray(self.nifti.dataobj.get_unscaled())

    @cached_property
    def image(self) -> np.ndarray:
        """Values in the scan's units (HU for CT); no copy if there is no scaling."""
        slope, inter = self._scaling
        return self.stored if (slope, inter) == (1.0, 0.0) else self.stored * slope + inter

    @property
    def _scaling(self) -> tuple[float, float]:
        # nibabel takes the scaling out of the header while loading and keeps it in the proxy
        return float(self.nifti.dataobj.slope), float(self.nifti.dataobj.inter)

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

    def load_mask(self, path: str | Path, argument: str) -> np.ndarray:
        """Return a mask file as booleans on this scan's grid.

        Raises:
            ValueError: naming ``argument``, if shape or affine differ from the scan's, or it is
                empty.
        """
        other = Scan(path)
        if other.nifti.shape != self.nifti.shape:
            raise ValueError(
                f"{argument} must have the scan's shape {self.nifti.shape}, got {other.nifti.shape}"
            )
        if not np.allclose(other.affine, self.affine, atol=1e-2):
            raise ValueError(f"{argument} must have the scan's affine, got {other.affine.tolist()}")
        mask = np.asarray(other.image) > 0
        if not mask.any():
            raise ValueError(f"{argument} must mark at least one voxel, got none in {path}")
        return mask
