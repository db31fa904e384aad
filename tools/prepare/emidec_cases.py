"""Cases of late-enhancement MRI: found in a download, read, checked, written whole."""

from __future__ import annotations

import gzip
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from tqdm import tqdm

from tools.files import new_file, write_json
from tools.transforms.wall import HEART_CLASSES, measure_heart

__all__ = ["CaseFiles", "StoredFile", "find_cases", "write_case"]

_RELEASED = re.compile(r"^(.*/)?(?P<kind>Images|Contours)/Case_(?P<case>[^/]+?)\.nii(\.gz)?$")
_FLAT = re.compile(
    r"^(.*/)?(?P<source>emidec8bit_Case|native)_(?P<case>[^/]+)_(?P<kind>image|label)\.nii(\.gz)?$"
)
_KINDS = {"Images": "image", "Contours": "label"}


class StoredFile(NamedTuple):
    """A file on disk, or a member of a .zip archive, which is read where it lies.

    Attributes:
        path: the file or the archive.
        member: name in the archive; empty for a file on disk.
    """

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @property
    def name(self) -> str:
        """Name of the file, or of the member with its folders."""
        return self.member or self.path.name

    def read(self) -> bytes:
        """Return the content, decompressed if it is gzip.

        Raises:
            ValueError: if it cannot be read.
        """
        try:
            if self.member:
                with zipfile.ZipFile(self.path) as archive:
                    content = archive.read(self.member)
            else:
                content = self.path.read_bytes()
            return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"file must be readable, got {self}: {error}") from error


class CaseFiles(NamedTuple):
    """What a download holds of one case; several files of a kind are a fault named later.

    Attributes:
        name: such as P001 (pathological) or N006 (normal).
        image: the candidates.
        label: the candidates.
    """

    name: str
    image: list[StoredFile]
    label: list[StoredFile]


def find_cases(source: str | Path) -> dict[str, CaseFiles]:
    """Return the cases of a download by name, sorted; archives in it are looked into.

    Known are ``Images/Case_X.nii.gz`` with ``Contours/Case_X.nii.gz``, at any depth, and pairs
    ``emidec8bit_Case_X_image.nii.gz``, ``native_X_image.nii.gz`` with ``_label``. Where a case
    exists with full precision, its 8-bit copy is not taken.

    Args:
        source: folder or .zip archive.

    Raises:
        FileNotFoundError: if there is nothing at ``source``, or no case in it.
        ValueError: if an archive cannot be read, or a member's name leads out of it.
    """
    root = Path(source)
    if not root.is_dir() and not zipfile.is_zipfile(root):
        raise FileNotFoundError(f"source must be an existing folder or .zip archive, got {source}")
    cases: dict[str, CaseFiles] = {}
    reduced: dict[str, CaseFiles] = {}
    for name, file in tqdm(_files(root), desc="looking for cases", unit=" files"):
        found = None if Path(name).name.startswith(".") else _RELEASED.match(name)
        found = found or _FLAT.match(name)
        if found is None:
            continue
        copies = reduced if "8bit" in (found.groupdict().get("source") or "") else cases
        case = copies.setdefault(found["case"], CaseFiles(found["case"], [], []))
        getattr(case, _KINDS.get(found["kind"], found["kind"])).append(file)
    if not cases and not reduced:
        raise FileNotFoundError(
            "source must hold cases (Images/Case_X.nii.gz and Contours/Case_X.nii.gz), found none "
            f"in {source}"
        )
    return dict(sorted((reduced | cases).items()))


def _files(root: Path) -> Iterator[tuple[str, StoredFile]]:
    """Yield names with forward slashes and files, those in archives included."""
    if root.is_file():
        yield from _members(root)
        return
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if name.lower().endswith(".zip"):
                yield from _members(path)
            else:
                yield path.as_posix(), StoredFile(path)


def _members(path: Path) -> Iterator[tuple[str, StoredFile]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"archive must be a readable .zip file, got {path}: {error}") from error
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        # Members are read in place, but an archive that tries to escape is not to be trusted.
        if parts.is_absolute() or ".." in parts.parts or re.match(r"^[A-Za-z]:", name):
            raise ValueError(f"members of {path} must stay inside its folder, got {name!r}")
        if "__MACOSX" not in parts.parts:
            yield parts.as_posix(), StoredFile(path, name)


def write_case(case: CaseFiles, folder: Path) -> dict[str, Any]:
    """Write image, label and record of a case; return the record, a datalist entry.

    Image values keep data type and header scaling. The record is written last: where it lies, the
    case is complete.

    Args:
        case: its files.
        folder: for ``NAME_image.nii.gz``, ``NAME_label.nii.gz``, ``NAME.json``.

    Raises:
        ValueError: if a file is missing, unreadable, or not what the release promises.
    """
    image, label = _load(_only(case, "image")), _load(_only(case, "label"))
    stored = np.asanyarray(image.dataobj.get_unscaled())
    classes = _checked_label(case.name, stored.shape, np.asanyarray(label.dataobj))
    affine, rebuilt = _affine(image)
    paths = {kind: folder / f"{case.name}_{kind}.nii.gz" for kind in ("image", "label")}
    scaled = nib.Nifti1Image(stored, affine, image.header.copy())
    scaled.header.set_data_dtype(stored.dtype)
    # a scaling in the header makes nibabel write the stored values as they are
    scaled.header.set_slope_inter(float(image.dataobj.slope), float(image.dataobj.inter))
    for kind, volume in (
        ("image", scaled),
        ("label", nib.Nifti1Image(classes, affine, dtype=np.uint8)),
    ):
        volume.header.set_xyzt_units("mm")
        volume.set_sform(affine, code=1)
        volume.set_qform(affine, code=1)
        with new_file(paths[kind]) as partial:
            nib.save(volume, partial)
    entry: dict[str, Any] = {kind: f"{folder.name}/{path.name}" for kind, path in paths.items()}
    entry |= {"patient": case.name} | measure_heart(classes, affine)
    entry["bits"] = stored.dtype.itemsize * 8
    # 8-bit copies of the release were resized by others from a matrix that is not known
    entry |= {"spacing_is_nominal": stored.dtype.itemsize == 1, "affine_rebuilt": rebuilt}
    entry["source"] = case.image[0].name
    write_json(folder / f"{case.name}.json", entry, indent=1)
    return entry


def _only(case: CaseFiles, kind: str) -> StoredFile:
    files: list[StoredFile] = getattr(case, kind)
    if len(files) != 1:
        found = ", ".join(map(str, files)) or "none"
        raise ValueError(f"case {case.name} must have one {kind}, got {found}")
    return files[0]


def _load(file: StoredFile) -> nib.Nifti1Image:
    try:
        image = nib.Nifti1Image.from_bytes(file.read())
        # the values are read here, so that a file cut short is named
        np.asanyarray(image.dataobj)
    except (ImageFileError, HeaderDataError, WrapStructError, OSError) as error:
        raise ValueError(f"file must be a whole NIfTI image, got {file}: {error}") from error
    return image


def _checked_label(name: str, shape: tuple[int, ...], label: np.ndarray) -> np.ndarray:
    """Return the classes as uint8, or say what is wrong with them."""
    if len(shape) != 3:
        raise ValueError(f"image of {name} must have three axes, got shape {shape}")
    if label.shape != shape:
        raise ValueError(f"label of {name} must have the image's shape {shape}, got {label.shape}")
    values = np.unique(label)
    if not np.isin(values, range(len(HEART_CLASSES) + 1)).all():
        shown = [float(v) for v in values[:8]]
        raise ValueError(f"label of {name} must hold 0 to {len(HEART_CLASSES)} only, got {shown}")
    if not {1, 2} <= set(values.tolist()):
        raise ValueError(f"label of {name} must hold cavity and myocardium, got {values.tolist()}")
    lesions = bool((values >= 3).any())
    if name[:1] in "PN" and lesions != name.startswith("P"):
        rule = "an infarct" if name.startswith("P") else "no infarct"
        raise ValueError(f"label of {name} must hold {rule}, got {values.tolist()}")
    return label.astype(np.uint8)


def _affine(image: nib.Nifti1Image) -> tuple[np.ndarray, bool]:
    """Return voxel index to RAS mm, and whether it had to be rebuilt from the voxel size.

    The release's files say 1 mm in sform, while pixdim is right; they carry no orientation. What
    is rebuilt is nominal: axes to the patient's left, back and base of the heart.
    """
    zooms = np.asarray(image.header.get_zooms()[:3], dtype=float)
    if not (np.isfinite(zooms).all() and (zooms > 0).all()):
        raise ValueError(f"voxel size must be positive, got {zooms.tolist()}")
    codes = int(image.header["sform_code"]), int(image.header["qform_code"])
    if any(codes) and np.allclose(voxel_sizes(image.affine), zooms, rtol=0.01):
        return image.affine, False
    return np.diag([-zooms[0], -zooms[1], zooms[2], 1.0]), True
