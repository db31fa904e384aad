"""Phantom files on disk, and the one way in which configs reach a dataset or a phantom."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tools.files import (
    clear_leftovers,
    listed_path,
    new_file,
    new_folder,
    read_entries,
    read_object,
    write_json,
)

__all__ = [
    "NOTICE",
    "PHANTOM_VERSION",
    "cached_phantom",
    "read_section",
    "save_volume",
    "write_case",
    "write_datalist",
    "write_scan",
]

PATH_KEYS = ("image", "label")

logger = logging.getLogger(__name__)

# Goes into the names of the caches: raise it whenever a seed gives other voxels than before.
PHANTOM_VERSION = "3"

NOTICE = (
    "PHANTOM: computed images, no patient. Made for trying the software; results on them say "
    "nothing about real scans."
)


def save_volume(path: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> None:
    """Write a NIfTI file whose header says that it is a phantom; ``affine`` leads to RAS mm."""
    volume = nib.Nifti1Image(array, affine)
    volume.header["descrip"] = b"phantom"
    volume.header.set_xyzt_units("mm")
    volume.set_sform(affine, code=1)
    volume.set_qform(affine, code=1)
    with new_file(path) as partial:
        nib.save(volume, partial)


def write_case(
    folder: Path,
    name: str,
    volumes: Mapping[str, NDArray[Any]],
    affine: NDArray[np.float64],
    **facts: Any,
) -> dict[str, Any]:
    """Write ``NAME_KIND.nii.gz`` for each kind of volume and return the entry of a datalist."""
    files = {kind: f"{name}_{kind}.nii.gz" for kind in volumes}
    for kind, array in volumes.items():
        save_volume(folder / files[kind], array, affine)
    return files | {"phantom": True} | facts


def write_datalist(
    folder: Path, name: str, sections: Mapping[str, Any], **facts: Any
) -> dict[str, Any]:
    """Write ``datalist.json`` of a phantom dataset and return its content."""
    content = {"name": name, "description": NOTICE, "phantom": True, "version": PHANTOM_VERSION}
    content |= {**facts, **sections}
    write_json(folder / "datalist.json", content, indent=1)
    return content


def write_scan(
    folder: Path,
    name: str,
    volumes: Mapping[str, NDArray[Any]],
    affine: NDArray[np.float64],
    **facts: Any,
) -> dict[str, str]:
    """Write a single phantom and its record; return paths by kind, and as ``record``."""
    record = {"name": name, "notice": NOTICE, "version": PHANTOM_VERSION}
    record |= write_case(folder, name, volumes, affine, **facts)
    path = write_json(folder / f"{name}.json", record, indent=1)
    return {kind: str(folder / record[kind]) for kind in volumes} | {"record": str(path)}


@cache
def _announce(folder: Path) -> None:
    """Say it once in a process: trainings and commands ask for several sections."""
    logger.info("no dataset_dir given: running on the embedded phantom data in %s", folder)


def cached_phantom(
    name: str, write: Callable[[Path], object], cache_dir: str | Path | None = None
) -> Path:
    """Return the folder of a phantom dataset, made on first use and named once in the log.

    The set is built under another name and renamed when complete, so processes that start together
    never see half of it; all but the first throw their copy away. ``write`` is given the folder;
    the name says the version of the phantom; a ``cache_dir`` of None is
    ``~/.cache/synthetic-lesions``.
    """
    folder = Path(cache_dir or Path.home() / ".cache" / "synthetic-lesions") / name
    _announce(folder)
    if (folder / "datalist.json").is_file():
        return folder
    clear_leftovers(folder.parent)
    try:
        with new_folder(folder, ("*.json", "*.nii.gz", "*/*.nii.gz")) as partial:
            write(partial)
    except (OSError, ValueError):
        if not (folder / "datalist.json").is_file():
            raise
    return folder


def read_section(
    dataset_dir: str | Path | None,
    section: str,
    name: str,
    write: Callable[[Path], object],
    cache_dir: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Return one section of a dataset's ``datalist.json`` (Decathlon form).

    None or "" as its folder stands for a phantom, see :func:`cached_phantom`. Paths under ``image``
    and ``label`` come back absolute, other keys as in the file.

    Raises:
        FileNotFoundError: if ``dataset_dir`` or its datalist does not exist; nothing replaces it.
        ValueError: if the section is missing or empty, or an entry holds no paths.
    """
    if not dataset_dir:
        folder = cached_phantom(name, write, cache_dir)
    else:
        folder = Path(dataset_dir).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"dataset_dir must be an existing folder, got {dataset_dir}")
    path = folder / "datalist.json"
    if not path.is_file():
        raise FileNotFoundError(f"dataset_dir must hold datalist.json, got {dataset_dir}")
    sections = read_object(path, "dataset_dir")
    entries = read_entries(path, "dataset_dir", section)
    if not entries:
        found = sorted(name for name, value in sections.items() if isinstance(value, list))
        raise ValueError(
            f"section must be a non-empty list of {path}, one of {found}, got {section!r}"
        )
    return [_with_paths(entry, folder.resolve(), path) for entry in entries]


def _with_paths(entry: Any, folder: Path, datalist: Path) -> dict[str, Any]:
    """Return an entry with its paths as they lead from anywhere."""
    if not isinstance(entry, dict):
        raise ValueError(f"entries of a datalist must be objects, got {entry!r} in {datalist}")
    result = dict(entry)
    for key, value in entry.items():
        if key in PATH_KEYS or (isinstance(value, str) and value and (folder / value).exists()):
            result[key] = str(listed_path(value, key, folder, datalist))
    return result
