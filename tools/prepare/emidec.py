"""EMIDEC, late-enhancement MRI of the heart, as downloaded, to stacks (``prepare emidec``)."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from nibabel.affines import voxel_sizes
from tqdm import tqdm

from tools.files import claimed, safe_names, write_json
from tools.prepare.scans import Cases, Record, run_cases, volume
from tools.scans.grid import whole_numbers
from tools.scans.reader import (
    existing_files,
    open_image,
    read_values,
    require_finite,
    scaling,
)
from tools.transforms.wall import HEART_CLASSES, measure_heart

__all__ = ["TEST_CASES", "prepare_emidec", "section_of"]

# the ten cases on which published results of lesion synthesis were measured
TEST_CASES = frozenset(
    ("P005", "P008", "P039", "P057", "P061", "P071", "P072", "P077", "P078", "P082")
)
VALIDATION_SHARE = 0.2
LARGEST_MB = 256  # the largest stack of the release has 4
MOST_MEMBERS = 100_000  # the release has 400
_SALT = "emidec-split-v1:"

_RELEASED = re.compile(r"^(.*/)?(?P<kind>Images|Contours)/Case_(?P<case>[^/]+?)\.nii(\.gz)?$")
_FLAT = re.compile(
    r"^(.*/)?(?P<source>emidec8bit_Case|native)_(?P<case>[^/]+)_(?P<kind>image|label)\.nii(\.gz)?$"
)
_KINDS = {"Images": "image", "Contours": "label"}
StoredFile: TypeAlias = Path | zipfile.Path  # a member of an archive


def prepare_emidec(source: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the hearts of EMIDEC as NIfTI with a true voxel size, and a datalist by patient.

    Slices stay whole: this is what a bundle for stacks trains on. ``heart_mm`` of an entry is the
    middle (RAS) of the box round cavity and myocardium, ``heart_extent_mm`` the in-plane sides of
    that box. Label values: 1 cavity, 2 myocardium, 3 infarct, 4 no-reflow. A case that cannot be
    prepared is named in the result and tried again by the next run.

    Returned are the number of cases by section; ``unlabelled``: cases of the challenge's test set,
    which has no contours; ``broken``: a sentence for each case that could not be prepared.

    Raises:
        FileNotFoundError: if ``source`` does not exist or holds no case.
        ValueError: if a member of an archive would leave its folder, is a link or a device, or
            there are too many. What is too large unpacked is a case that cannot be prepared.
    """
    cases = _find_cases(source)
    # the challenge's own test set: numbered without a letter, and published without contours
    unlabelled = {name for name, case in cases.items() if name.isdigit() and not case.label}
    labelled = [case for name, case in cases.items() if name not in unlabelled]
    folders = safe_names(case.name for case in labelled)
    sections: dict[str, list[dict]] = {s: [] for s in ("training", "validation", "test", "normal")}
    with claimed(out, ("cases", "datalist.json")):
        place = Cases(Path(out) / "cases", {}, noun="cases")
        records, broken = run_cases(place, dict(zip(folders, labelled, strict=True)), _write_case)
        for record in records.values():
            (entry,) = record["entries"]
            sections[section_of(entry["patient"], entry["pathological"])].append(entry)
        description = {
            "labels": {"0": "background"} | {str(v): name for v, name in HEART_CLASSES.items()},
            "name": "EMIDEC late-enhancement MRI",
            "description": (
                "short-axis stacks of the heart after contrast, whole slices; split by patient. "
                "Cases of 8 bits are copies resized by others: their voxel size is nominal"
            ),
            "licence": (
                "EMIDEC: CC BY-NC-SA 4.0, Lalande et al., Data 2020, doi:10.3390/data5040089"
            ),
            "modality": {"0": "MR"},
        }
        write_json(Path(out) / "datalist.json", description | sections, indent=1)
    counts = {name: len(found) for name, found in sections.items()}
    return {**counts, "unlabelled": len(unlabelled), "broken": broken}


def section_of(patient: str, pathological: bool = True) -> str:
    """Return the section of a patient, which his name alone decides.

    ``test`` is the list of ten cases that published results use. Of the other pathological cases,
    those are for validation whose sha1 of ``"emidec-split-v1:" + name``, read as a number from 0
    to 1, lies below 0.2. Hearts without infarct are in the section ``normal``.

    Example:
        >>> [section_of(name) for name in ("P001", "P035", "P082")], section_of("N012", False)
        (['training', 'validation', 'test'], 'normal')
    """
    if not pathological:
        return "normal"
    if patient in TEST_CASES:
        return "test"
    digest = hashlib.sha1(f"{_SALT}{patient}".encode(), usedforsecurity=False).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    return "validation" if share < VALIDATION_SHARE else "training"


class CaseFiles(NamedTuple):
    """What a download holds of one case; several files of a kind are a fault named later."""

    name: str
    image: list[StoredFile]
    label: list[StoredFile]


def _find_cases(source: str | Path) -> dict[str, CaseFiles]:
    """Return the cases of a download by name, sorted; archives in it are looked into.

    Known are ``Images/Case_X.nii.gz`` with ``Contours/Case_X.nii.gz``, at any depth, and pairs
    ``emidec8bit_Case_X_image.nii.gz``, ``native_X_image.nii.gz`` with ``_label``. Where a case
    exists with full precision, its 8-bit copy is not taken.
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
    for path in existing_files(sorted(root.rglob("*"))):
        if path.suffix.lower() == ".zip":
            yield from _members(path)
        else:
            yield path.as_posix(), path


def _members(path: Path) -> Iterator[tuple[str, StoredFile]]:
    try:
        archive = zipfile.Path(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"archive must be a readable .zip file, got {path}: {error}") from error
    members = archive.root.infolist()
    if len(members) > MOST_MEMBERS:
        raise ValueError(
            f"archive must hold at most {MOST_MEMBERS} files, got {len(members)} in {path}"
        )
    for member in members:
        name = member.filename
        parts = PurePosixPath(name.replace("\\", "/"))
        # Members are read one by one, but an archive that tries to escape is not to be trusted.
        if parts.is_absolute() or ".." in parts.parts or re.match(r"^[A-Za-z]:", name):
            raise ValueError(f"members of {path} must stay inside its folder, got {name!r}")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"members of {path} must be files, got {name!r}, a link or device")
        if "__MACOSX" not in parts.parts:
            yield parts.as_posix(), archive / name


def _write_case(name: str, case: CaseFiles, folder: Path) -> dict[str, Any]:
    """Write image and label of a case; image values keep data type and header scaling."""
    source, stored = _load(_only(case, "image"), "image")
    label, values = _load(_only(case, "label"), "label")
    slope, inter = scaling(label)
    values = values if (slope, inter) == (1.0, 0.0) else values * slope + inter
    classes = _checked_label(
        case.name, stored.shape, whole_numbers(values, f"label of {case.name}")
    )
    affine, rebuilt = _affine(source)
    image = volume(stored, affine)
    # a scaling in the header makes nibabel write the stored values as they are
    image.header.set_slope_inter(*scaling(source))
    require_finite(stored, f"image of {case.name}")
    facts = measure_heart(classes, affine) | {"bits": stored.dtype.itemsize * 8}
    # 8-bit copies of the release were resized by others from a matrix that is not known
    facts |= {"spacing_is_nominal": stored.dtype.itemsize == 1, "affine_rebuilt": rebuilt}
    record = Record(name, case.name, folder)
    files = {"image": image, "label": volume(classes, affine)}
    facts["source"] = getattr(case.image[0], "at", case.image[0].name)
    record.add(case.name, files, facts)
    return record.content()


def _only(case: CaseFiles, kind: str) -> StoredFile:
    files: list[StoredFile] = getattr(case, kind)
    if len(files) != 1:
        found = ", ".join(map(str, files)) or "none"
        raise ValueError(f"case {case.name} must have one {kind}, got {found}")
    return files[0]


def _load(file: StoredFile, argument: str) -> tuple[Any, np.ndarray]:
    """Return header and stored values of an image, which for a moment lies in a folder."""
    if isinstance(file, Path):
        image = open_image(file, argument)
        return image, read_values(image, file, argument)
    with tempfile.TemporaryDirectory(prefix="emidec_") as work:
        path = Path(work, Path(file.name).name.removesuffix(".gz"))
        try:
            path.write_bytes(_unpacked(file))
            image = open_image(path, argument)
            return image, read_values(image, path, argument)
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"file must be readable, got {file}: {error}") from error
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), str(file))) from error


def _unpacked(file: StoredFile) -> bytes:
    """Return what a file holds, read as a stream, so that a few bytes do not fill the memory."""
    most = LARGEST_MB * 2**20
    with file.open("rb") as stream:
        content = stream.read(most + 1)
    if content[:2] == b"\x1f\x8b" and len(content) <= most:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
            content = packed.read(most + 1)
    if len(content) > most:
        raise ValueError(f"file must hold at most {LARGEST_MB} MB, unpacked, got more in {file}")
    return content


def _checked_label(name: str, shape: tuple[int, ...], label: np.ndarray) -> np.ndarray:
    """Return the classes as uint8, or say what is wrong with them."""
    if label.shape != shape:
        raise ValueError(f"label of {name} must have the image's shape {shape}, got {label.shape}")
    values = np.unique(label)
    if not np.isin(values, range(len(HEART_CLASSES) + 1)).all():
        shown = values[:8].tolist()
        raise ValueError(f"label of {name} must hold 0 to {len(HEART_CLASSES)} only, got {shown}")
    if not {1, 2} <= set(values.tolist()):
        raise ValueError(f"label of {name} must hold cavity and myocardium, got {values.tolist()}")
    lesions = bool((values >= 3).any())
    if name[:1] in "PN" and lesions != name.startswith("P"):
        rule = "an infarct" if name.startswith("P") else "no infarct"
        raise ValueError(f"label of {name} must hold {rule}, got {values.tolist()}")
    return label.astype(np.uint8)


def _affine(image: Any) -> tuple[np.ndarray, bool]:
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
