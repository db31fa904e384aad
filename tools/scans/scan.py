"""Scans in and out: stored values, affine, data type and header scaling stay as they are."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener

from tools.bundle import sha256_file
from tools.dicom.series import DicomSeries, read_series
from tools.scans.changed import Converted, PackedMask
from tools.scans.grid import on_grid, require_place, whole_numbers
from tools.scans.reader import (
    count_not_finite,
    open_image,
    read_planes,
    read_values,
    require_hu,
    scaling,
)

__all__ = ["AIR_HU", "Scan", "read_labels", "scan_hash"]

AIR_HU = -1000.0
SYNTHETIC = "SYNTHETIC lesions"
LABEL_INTENT = 1002
ONE_FILE = (".nii", ".nii.gz", ".nrrd", ".mha")  # all there is of a scan

logger = logging.getLogger(__name__)


class Scan:
    """A scan whose stored values are changed in a few voxels and written back as they were.

    A DICOM series becomes a NIfTI image in memory with the values and the geometry of the series,
    which itself is at hand as ``series``.

    Args:
        source: an image file (see :func:`tools.scans.reader.open_image`), the folder of a DICOM
            series, or an image in memory.
        series_uid: which series of the folder; None where it holds only one.
        in_hu: whether it is to be a CT in HU. Numbers of 16 bits that were written without their
            sign (63536 for -2000) get it back.
        hu_offset: added to its values, where its HU were stored with a number added.
        fill_nan: what stands for NaN and infinite values, which are refused without it; what is
            written keeps them.
        argument: its name in messages.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as :func:`tools.scans.reader.open_image` does, or if the series is not whole.

    Example:
        >>> scan = Scan(nib.Nifti1Image(np.zeros((4, 4, 2), np.int16), np.diag([1, 1, 2.5, 1])))
        >>> scan.spacing_mm
        (1.0, 1.0, 2.5)
    """

    def __init__(
        self,
        source: str | Path | nib.Nifti1Image,
        series_uid: str | None = None,
        in_hu: bool = False,
        hu_offset: float = 0.0,
        fill_nan: float | None = None,
        argument: str = "scan",
    ) -> None:
        self.path = None if isinstance(source, nib.Nifti1Image) else Path(source)
        self.series: DicomSeries | None = None
        self.in_hu, self.hu_offset, self.fill_nan = in_hu, hu_offset, fill_nan
        self.argument = argument
        self.notes: list[str] = []  # on masks that had to be resampled
        self.nifti: Any  # a nib.Nifti1Image; its type names a base class
        if self.path is None:
            self.nifti = source
        elif self.path.is_dir():
            self.series = read_series(self.path, series_uid)
            self.nifti = _as_nifti(self.series)
        else:
            self.nifti = open_image(self.path, argument)
        if self.path is None and len(self.nifti.shape) != 3:
            raise ValueError(f"{argument} must have 3 dimensions, got shape {self.nifti.shape}")
        if self.path is None and abs(np.linalg.det(self.affine[:3, :3])) < 1e-9:
            raise ValueError(
                f"{argument} must have an invertible affine, got {self.affine.tolist()}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(self.nifti.shape[:3])

    @property
    def name(self) -> str:
        """Name of the file or folder, with its endings; empty for an image in memory."""
        return "" if self.path is None else self.path.resolve().name

    @cached_property
    def sha256(self) -> str:
        """Hash of the input: of the file; of a series or an image in memory, see below.

        One in two files counts as one in memory. For a series: the affine, then of each slice, in
        ascending order along the normal, its SOP instance UID and its rescaled values (as in the
        image, little endian, row by row). So neither file names nor tags that do not touch the
        picture change it. An image in memory: affine and values.
        """
        if self.series is None and str(self.path).lower().endswith(ONE_FILE):
            return sha256_file(str(self.path))
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
        return read_values(self.nifti, self.path, self.argument)

    @cached_property
    def image(self) -> Any:
        """Values in the scan's units (HU for CT), all finite: an array, or what stands for one.

        There is no copy: scaled values are computed for the part that is asked for.

        Raises:
            ValueError: if values are not finite and nothing stands for them, or no HU.
        """
        values: Any = self.stored
        if (self._slope, self._inter) != (1.0, 0.0):
            values = Converted(values, _scaling_of(values, self._slope, self._inter))
        broken = count_not_finite(values)
        if broken:
            if self.fill_nan is None:
                raise ValueError(
                    f"{self.argument} must hold finite values, got NaN or infinity in {broken} of "
                    f"{values.size} voxels{self._where} (fill_nan says what stands for them)"
                )
            values = Converted(values, partial(_filled, value=self.fill_nan))
        if values.dtype == np.uint16 and self._lost_its_sign:
            values = values.view(np.int16)
        if self.in_hu:
            require_hu(values, self.argument, self.path)
        return values

    @cached_property
    def _lost_its_sign(self) -> bool:
        """Whether stored values are HU below 0 as if they were above 32767, which no HU is."""
        plain = self.stored.dtype == np.uint16 and (self._slope, self._inter) == (1.0, 0.0)
        return self.in_hu and plain and bool(self.stored.max() > np.iinfo(np.int16).max)

    def copied(self) -> Scan:
        """Return the scan with stored values of its own, to be written to; hash and name stay."""
        _ = self.sha256  # of what was given
        result = copy(self)
        result.stored = self.stored.copy(order="K")
        result.__dict__.pop("image", None)
        return result

    def values_of(self, stored: np.ndarray) -> np.ndarray:
        """Return stored values in the scan's units."""
        if self._lost_its_sign:
            return np.asarray(stored).view(np.int16)
        return _scaled(stored, self._slope, self._inter)

    @property
    def _slope(self) -> float:
        return scaling(self.nifti)[0]

    @property
    def _inter(self) -> float:
        return scaling(self.nifti)[1] + self.hu_offset

    @property
    def _where(self) -> str:
        return f" in {self.path}" if self.path else ""

    def require_level(self, inside: Any, levels_hu: Sequence[float], organ: str) -> float:
        """Return the median HU of an organ; refuse what no such organ has: something was added.

        Args:
            inside: True in the organ.
            levels_hu: lowest and highest that its median may have.
            organ: its name.

        Raises:
            ValueError: if the median is another.
        """
        low, high = levels_hu
        planes = [k for k in range(self.shape[2]) if inside[..., k].any()]
        # a hundred tell enough: all are as much again as the organ's part of the scan, twice
        chosen = planes[:: max(1, len(planes) // 100)]
        parts = [self.image[..., k][inside[..., k]] for k in chosen]
        median = float(np.median(np.concatenate(parts), overwrite_input=True))
        if not low <= median <= high:
            raise ValueError(
                f"{self.argument} must be in HU, where the median of the {organ} lies from {low:g} "
                f"to {high:g}, got {median:g}{self._where} (hu_offset adds what is missing, such "
                "as -1024; or is organ_mask one of another organ?)"
            )
        return median

    @property
    def phantom(self) -> bool:
        """Whether the file says of itself that it is a phantom."""
        return b"phantom" in bytes(self.nifti.header["descrip"].tobytes()).lower()

    def stored_values(self, values: np.ndarray) -> np.ndarray:
        """Return values in the scan's units as the file stores them, rounded, within its type."""
        values = (np.asarray(values, np.float64) - self._inter) / self._slope
        dtype = np.dtype(np.int16) if self._lost_its_sign else self.stored.dtype
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        return values.astype(dtype).view(self.stored.dtype)

    def storable(self, values: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Return new values of some voxels such as the source can store.

        A NIfTI file can store all that :meth:`stored_values` returns. A slice of a DICOM series may
        have fewer bits or wider steps than whole numbers of 16 bits.

        Args:
            values: as :attr:`stored`, of the voxels.
            index: their place, ``(n, 3)``.
        """
        if self.series is None:
            return values
        result = values.copy()
        before = self.stored[tuple(index.T)]
        for k in np.unique(index[:, 2]):
            storage = self.series.storage[k]
            changed = (index[:, 2] == k) & (values != before)
            result[changed] = storage.to_values(storage.to_stored(values[changed]), values.dtype)
        return result

    def write(self, path: Path, stored: Any, synthetic: bool = True) -> None:
        """Write stored values with this scan's header: data type, scaling, affine codes and all."""
        header = self._header(stored.dtype, synthetic)
        header.set_slope_inter(*scaling(self.nifti))
        _write(path, header, stored)

    def write_label(
        self, path: Path, label: np.ndarray, synthetic: bool = True, dtype: Any = np.uint8
    ) -> None:
        """Write a label of whole numbers where this scan lies."""
        header = self._header(dtype, synthetic)
        header.set_intent(LABEL_INTENT, name="lesion labels")
        header["cal_min"] = header["cal_max"] = 0  # the scan's range of display
        header.set_slope_inter(1, 0)
        _write(path, header, label)

    def _header(self, dtype: Any, synthetic: bool) -> nib.Nifti1Header:
        """Return a header for values at the scan's place; a synthetic one says so.

        ITK refuses axes that are not at right angles, as of a tilted gantry, unless the header says
        beside how the nearest right-angled grid lies.
        """
        before = self.nifti.header
        header = nib.Nifti1Header(endianness=before.endianness)  # ITK reads no NIfTI-2
        for name in set(header) & set(before if isinstance(before, nib.Nifti1Header) else ()):
            if name not in ("sizeof_hdr", "magic", "vox_offset", "dim", "datatype", "bitpix"):
                header[name] = before[name]
        header.set_data_shape(self.shape)  # without a fourth axis of 1
        nothing: Any = np.lib.stride_tricks.as_strided(np.zeros(1, dtype), self.shape, (0, 0, 0))
        result: Any = nib.Nifti1Image(nothing, self.affine, header, dtype=nothing.dtype)
        if int(result.header["qform_code"]) == 0 and int(result.header["sform_code"]) > 0:
            result.header.set_qform(self.affine, int(result.header["sform_code"]))
        result.header.set_data_dtype(dtype)
        if not synthetic:
            return result.header
        words = bytes(result.header["descrip"].tobytes()).decode("ascii", "replace")
        words = words.rstrip("\0").removeprefix(SYNTHETIC).strip("; ")
        described = f"{SYNTHETIC}; {words}".rstrip("; ")[:79]
        result.header["descrip"] = described.encode("ascii", "replace")
        return result.header

    def load_mask(self, path: Any, argument: str, empty: bool = False) -> Any:
        """Return a mask file as booleans on this scan's grid, an array or a packed one.

        Args:
            path: image file, or an image in memory; voxels above 0 are the mask, above 0.5 of a
                soft one.
            argument: its name in messages.
            empty: whether the mask may be empty.

        Raises:
            ValueError: naming ``argument``, as :meth:`labels_on_grid`, or if the mask is empty and
                must not be.
        """
        mask: Any = self._mask_by_planes(path, argument)
        if mask is None:
            mask = self.load_labels(path, argument) > 0
        if not (empty or mask.any()):
            raise ValueError(f"{argument} must mark at least one voxel, got none in {path}")
        return mask

    def _mask_by_planes(self, path: Any, argument: str) -> PackedMask | None:
        """Return a mask of whole numbers on the scan's own grid, None where it is none such."""
        image = path if isinstance(path, nib.Nifti1Image) else open_image(path, argument)
        kind: Any = image.get_data_dtype()
        same = tuple(image.shape[:3]) == self.shape and np.array_equal(image.affine, self.affine)
        if not same or kind not in (np.uint8, np.int8, np.int16) or scaling(image) != (1.0, 0.0):
            return None
        return PackedMask(self.shape, (plane > 0 for plane in read_planes(image, path, argument)))

    def load_labels(self, path: Any, argument: str) -> np.ndarray:
        """Return the label map of a file on this scan's grid, see :meth:`labels_on_grid`."""
        if isinstance(path, nib.Nifti1Image):
            return self.labels_on_grid(path, argument)
        return self.labels_on_grid(open_image(path, argument), argument, path)

    def on_grid(self, image: nib.Nifti1Image, argument: str) -> np.ndarray:
        """Return where an image in memory is above 0, see :meth:`labels_on_grid`."""
        return self.labels_on_grid(image, argument) > 0

    def labels_on_grid(
        self, image: Any, argument: str, path: str | Path | None = None
    ) -> np.ndarray:
        """Return a label map on this scan's grid, whole numbers.

        Args:
            image: its axes in any order, on any grid.
            argument: its name in messages.
            path: of its file.

        Raises:
            ValueError: naming ``argument``, if its values are no labels, it does not say where it
                lies, or lies outside of the scan, see :func:`tools.scans.grid.on_grid`.
        """
        labels = _whole_numbers_of(image, argument, path)
        same = labels.shape == self.shape and np.allclose(image.affine, self.affine, atol=1e-2)
        try:
            if not same:
                require_place(image, argument)
            found, note = on_grid(labels, image.affine, self.shape, self.affine, argument)
        except ValueError as error:
            raise ValueError(f"{error}{_shown(path)}") from error
        if note:
            logger.warning("%s%s", note, _shown(path))
        if note and note not in self.notes:
            self.notes.append(note)
        return found


def read_labels(path: str | Path, argument: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a label map on its own grid, whole numbers, and its affine.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no image, or its values are no labels.
    """
    image = open_image(path, argument)
    return _whole_numbers_of(image, argument, path), np.asarray(image.affine, float)


def _whole_numbers_of(image: Any, argument: str, path: object) -> np.ndarray:
    slope, inter = scaling(image)
    values = read_values(image, None if path is None else str(path), argument)
    if (slope, inter) != (1.0, 0.0):
        values = values * slope + inter
    try:
        return whole_numbers(values, argument)
    except ValueError as error:
        raise ValueError(f"{error}{_shown(path)}") from error


def scan_hash(path: str | Path) -> str:
    """Return :attr:`Scan.sha256` of a file; what lies in one file is not opened."""
    one = str(path).lower().endswith(ONE_FILE)
    return sha256_file(path) if one else Scan(path).sha256


def _shown(path: object) -> str:
    return f" ({path})" if path else ""


def _write(path: Path, header: nib.Nifti1Header, values: Any) -> None:
    """Write an image plane by plane, so that there is no copy of it in memory."""
    dtype = header.get_data_dtype()
    with ImageOpener(str(path), mode="wb") as stream:
        header.write_to(stream)
        for k in range(values.shape[2]):
            stream.write(values[..., k].astype(dtype).tobytes(order="F"))


def _filled(values: np.ndarray, value: float) -> np.ndarray:
    return np.where(np.isfinite(values), values, values.dtype.type(value))


def _scaling_of(
    values: np.ndarray, slope: float, inter: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Return how to scale parts of an array, all to the type that holds the whole of it."""
    if values.dtype.kind in "iu" and values.size:
        ends = np.array([values.min(), values.max()])
        kind = _scaled(ends, slope, inter).dtype
        return lambda part: _scaled(part, slope, inter).astype(kind, copy=False)
    return lambda part: _scaled(part, slope, inter)


def _scaled(values: np.ndarray, slope: float, inter: float) -> np.ndarray:
    """Return scaled values, in the smallest type that holds them well."""
    if (slope, inter) == (1.0, 0.0):
        return values
    if values.dtype.kind in "iu" and slope == 1 and inter.is_integer() and values.size:
        limits = np.iinfo(np.int16)
        low, high = int(values.min()) + int(inter), int(values.max()) + int(inter)
        if limits.min <= low and high <= limits.max:
            return values.astype(np.int16) + np.int16(inter)
    small = values.dtype.kind in "iu" and values.dtype.itemsize <= 2
    kind = np.float32 if small else np.float64
    result: Any = values.astype(kind)
    result *= kind(slope)  # in place: scans are large
    result += kind(inter)
    return result


def _as_nifti(series: DicomSeries) -> nib.Nifti1Image:
    """Return the series as an image whose header places it as the scanner did."""
    result = nib.Nifti1Image(series.image, series.affine)
    result.header.set_xyzt_units("mm")
    result.set_sform(series.affine, code="scanner")
    result.set_qform(series.affine, code="scanner")
    return result
