"""The folder of one case: written whole or not at all, kept if the same request made it."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tools.synthesis.records import (
    DICOM_FOLDER,
    IMAGE_FILE,
    LABEL_FILE,
    RECORD_FILE,
    SEGMENTATION_FILE,
    BundleRecord,
    read_record,
    sha256_file,
)

__all__ = ["describe_source", "is_whole", "new_case_folder", "remove_broken", "require_same"]

logger = logging.getLogger(__name__)

FILES = (IMAGE_FILE, LABEL_FILE, RECORD_FILE)
OPTIONAL = (DICOM_FOLDER, SEGMENTATION_FILE)


def is_whole(folder: Path) -> bool:
    """Return whether a case is finished: all its files are there and can be read to their end.

    Those are image, label and record, in every format; for DICOM see
    :func:`tools.dicom.derived.is_dicom_whole`.

    Example:
        >>> is_whole(Path("no/such/folder"))
        False
    """
    paths = [folder / name for name in FILES]
    if not all(path.is_file() and path.stat().st_size for path in paths):
        return False
    try:
        json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        for name in (IMAGE_FILE, LABEL_FILE):
            with gzip.open(folder / name) as stream:  # its end holds length and checksum
                while stream.read(1 << 22):
                    pass
    except (OSError, EOFError, zlib.error, ValueError):
        return False
    return True


def remove_broken(folder: Path) -> None:
    """Remove a case folder that is not whole, so that it can be written again.

    Raises:
        ValueError: if it holds files that no case has; they are left alone.
    """
    if not folder.exists():
        return
    foreign = sorted(path.name for path in folder.glob("*") if path.name not in FILES + OPTIONAL)
    if foreign or not folder.is_dir():
        raise ValueError(
            f"out must not hold other files where a case goes, got {folder} with {foreign[:3]}"
        )
    logger.warning("%s is not whole (its run was interrupted), made again", folder)
    shutil.rmtree(folder)


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


@contextlib.contextmanager
def new_case_folder(folder: Path) -> Iterator[Path]:
    """Give a hidden folder to write a case into; it takes its name when all went well.

    What an interrupted run left under the hidden name is removed.

    Args:
        folder: of the case; must not exist.

    Example:
        >>> target = Path(getfixture("tmp_path")) / "case"
        >>> with new_case_folder(target) as partial:
        ...     _ = (partial / "image.nii.gz").write_bytes(b"")
        >>> [path.name for path in target.iterdir()]
        ['image.nii.gz']
    """
    # one fixed name: each case belongs to one process, so what lies there is a leftover
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def describe_source(source: object) -> dict[str, Any]:
    """Return what tells one source of shapes from another: its kind, settings and data, no paths.

    Example:
        >>> from tools.synthesis.shapes import EllipsoidShapes
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
