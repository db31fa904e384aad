"""The folder of one case: written whole or not at all, kept if the same request made it."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from tools.bundle import sha256_file
from tools.files import clear_leftovers, new_folder, read_json, remove_ours
from tools.synthesis.records import (
    DICOM_FOLDER,
    IMAGE_FILE,
    INSTANCES_FILE,
    LABEL_FILE,
    RECORD_FILE,
    SEGMENTATION_FILE,
    BundleRecord,
    read_record,
)

__all__ = [
    "describe_source",
    "is_whole",
    "new_case_folder",
    "remove_broken",
    "request_hash",
    "require_same",
]

logger = logging.getLogger(__name__)

FILES = (IMAGE_FILE, LABEL_FILE, RECORD_FILE)
# .report.html: up to version 0.7.0
OWNS = (
    *FILES,
    INSTANCES_FILE,
    f"{DICOM_FOLDER}/*.dcm",
    SEGMENTATION_FILE,
    "report.html",
    ".report.html",
)


def is_whole(folder: Path) -> bool:
    """Return whether a case is finished: all its files are there and can be read to their end.

    Those are image, label and record, in every format; for DICOM see
    :func:`tools.synthesis.dicom.derived.is_dicom_whole`.

    Example:
        >>> is_whole(Path("no/such/folder"))
        False
    """
    paths = [folder / name for name in FILES]
    if not all(path.is_file() and path.stat().st_size for path in paths):
        return False
    try:
        read_json(folder / RECORD_FILE, "record")
        there = [folder / name for name in (IMAGE_FILE, LABEL_FILE, INSTANCES_FILE)]
        for path in filter(Path.is_file, there):
            with gzip.open(path) as stream:  # its end holds length and checksum
                while stream.read(1 << 22):
                    pass
    except (OSError, EOFError, zlib.error, ValueError):
        return False
    return True


def remove_broken(folder: Path) -> None:
    """Remove a case folder that is not whole, so that it can be written again.

    Raises:
        ValueError: if this program did not make it and all that is in it; it is untouched then.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    clear_leftovers(folder)
    remove_ours(folder)
    logger.warning("%s was not whole (its run was interrupted), made again", folder)


def require_same(
    folder: Path, sha256: str, bundle: BundleRecord, request: Mapping[str, Any]
) -> None:
    """Refuse a finished case that another scan, another bundle or another request made.

    Args:
        folder: of the case, whole.
        sha256: of the scan.
        bundle: of this run.
        request: of this run, JSON values only.

    Raises:
        ValueError: naming the first difference.
    """
    record = read_record(folder / RECORD_FILE)
    if record.sha256 != sha256:
        raise ValueError(
            f"out must not hold a case of another scan, got {folder} from {record.name}"
        )
    made = {"bundle": _text(record.bundle), **(record.request or {})}
    wanted = {"bundle": _text(bundle), **json.loads(json.dumps(request))}
    for key in sorted(made.keys() | wanted.keys()):
        if made.get(key) != wanted.get(key):
            raise ValueError(
                f"out must hold cases of one request only, got {folder} made with "
                f"{key}={made.get(key)} where {wanted.get(key)} is asked for; name another folder"
            )


def new_case_folder(
    folder: Path, request: str | None, replace: bool = False
) -> AbstractContextManager[Path]:
    """Give a hidden folder to write a case into; it takes its name when all went well.

    Args:
        folder: of the case; must not exist, unless ``replace``.
        request: hash of what is asked for, see :func:`request_hash`.
        replace: take the place of a case that this program made.

    Example:
        >>> target = Path(getfixture("tmp_path")) / "case"
        >>> with new_case_folder(target, "0" * 64) as partial:
        ...     _ = (partial / "image.nii.gz").write_bytes(b"")
        >>> sorted(path.name for path in target.iterdir())
        ['.synthetic-lesions.json', 'image.nii.gz']
    """
    return new_folder(folder, OWNS, request, replace)


def request_hash(bundle: BundleRecord, request: Mapping[str, Any]) -> str:
    """Return what tells one request from another: a SHA-256.

    Args:
        bundle: that makes the lesions.
        request: what is asked for, JSON values only.
    """
    text = json.dumps({"bundle": _text(bundle), **request}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def describe_source(source: object) -> dict[str, Any]:
    """Return what tells one source of shapes from another: its kind, settings and data, no paths.

    Example:
        >>> from tools.shapes import EllipsoidShapes
        >>> describe_source(EllipsoidShapes())
        {'kind': 'EllipsoidShapes', 'deformation': 1.0}
    """
    description: dict[str, Any] = {"kind": type(source).__name__}
    for name, value in sorted(vars(source).items()):
        if name.startswith("_"):
            continue
        if isinstance(value, Path) and value.is_file():
            description[f"{name}_sha256"] = sha256_file(value)
        elif isinstance(value, np.ndarray):
            description[f"{name}_crc32"] = zlib.crc32(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, bool | int | float | str):
            description[name] = value
    return description


def _text(bundle: BundleRecord) -> str:
    return f"{bundle.name} {bundle.version} ({(bundle.weights_sha256 or 'no weights')[:12]})"
