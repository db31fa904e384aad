"""The command ``python -m tools release``: all bundles as zips, and the index that names them.

The index has the form of the model zoo's ``models/model_info.json``, which MONAI's
``get_all_bundles_list``, ``get_bundle_versions`` and ``get_bundle_info`` read.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from tools.files import claimed, new_file, write_json
from tools.release.pack import load_json, pack_bundle

__all__ = ["INDEX", "Release", "release_bundles"]

INDEX = "model_info.json"
ADDRESS = re.compile(r"(https?|file)://\S+")
KEY = re.compile(r"(\w+?)_v(\d[\w.+-]*)")

Index = dict[str, dict[str, str]]


class Release(NamedTuple):
    """What was written; the notes say what a reader may not expect."""

    zips: list[Path]
    index_file: Path
    entries: Index
    notes: list[str]


def release_bundles(
    bundles: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] = "dist",
    base_url: str | None = None,
) -> Release:
    """Pack bundles and name them, with checksum and address, in ``OUT/model_info.json``.

    Entries that the index has already are kept, so that earlier versions can still be found. All
    bundles are packed and compared with the index before anything appears in ``out``; then the
    zips are moved there, and the index last: it never names a zip that is not there.

    Args:
        bundles: folders, see :func:`tools.release.pack.pack_bundle`.
        out: folder to write to.
        base_url: address (http, https or file) of the folder that the zips will be served from.
            None: that of ``out``, and what the index says about a version that it has is kept.

    Raises:
        ValueError: if a bundle cannot be packed, the index is no index, ``base_url`` is no address,
            a version is in the index with another checksum, two bundles have one name, or a name
            or version is none that the index can hold.

    Example:
        >>> release_bundles([], base_url="elsewhere")
        Traceback (most recent call last):
        ValueError: base_url must be an address (http, https or file), got elsewhere
    """
    if base_url is not None and not ADDRESS.fullmatch(base_url):
        raise ValueError(f"base_url must be an address (http, https or file), got {base_url}")
    folder = Path(out)
    entries = _read(folder / INDEX)
    with tempfile.TemporaryDirectory() as built:
        packed = [pack_bundle(bundle, built) for bundle in tqdm(bundles, desc="pack")]
        _check_names(packed)
        for path in packed:
            _enter(entries, path, folder, base_url)
        with claimed(folder, [INDEX, *(path.name for path in packed)]):
            for path in packed:
                with new_file(folder / path.name) as partial:
                    shutil.copyfile(path, partial)
            write_json(folder / INDEX, entries, indent=4)
    zips = [folder / path.name for path in packed]
    return Release(zips, folder / INDEX, entries, _notes(entries))


def _read(path: Path) -> Index:
    """Return the entries of an index; none if there is none."""
    entries = load_json(path) if path.exists() else {}
    for key, entry in entries.items():
        texts = entry if isinstance(entry, dict) else {}
        if not KEY.fullmatch(key) or not all(
            isinstance(texts.get(name), str) for name in ("checksum", "source")
        ):
            raise ValueError(
                f"{INDEX} must give each NAME_vVERSION a checksum and a source, got {key!r}: "
                f"{entry} in {path.parent}"
            )
    return entries


def _check_names(packed: Sequence[Path]) -> None:
    """Refuse what the next release could not read in the index, and what hides another bundle."""
    for path in packed:
        if not KEY.fullmatch(path.stem):
            raise ValueError(
                "bundle must be named with letters, digits and _, and its version start with a "
                f"digit, got {path.stem}"
            )
    names = sorted(path.stem for path in packed)
    if len(set(names)) < len(names):
        raise ValueError(f"bundles must have names all different, got {names}")


def _enter(entries: Index, path: Path, folder: Path, base_url: str | None) -> None:
    """Add one zip to the entries, unless its version means other bytes already."""
    key, checksum = path.stem, hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
    earlier = entries.get(key)
    if earlier is not None and earlier["checksum"].lower() != checksum:
        name, _, version = key.rpartition("_v")
        raise ValueError(
            f"version of {name} must be raised in its metadata.json: {version} is in {INDEX} with "
            f"checksum {earlier['checksum']}, got {checksum}"
        )
    base = folder.resolve().as_uri() if base_url is None else base_url.rstrip("/")
    source = f"{base}/{path.name}"
    if earlier is not None and base_url is None:
        source = earlier["source"]
    entries[key] = {"checksum": checksum, "source": source}


def _notes(entries: Index) -> list[str]:
    """Say where MONAI, which sorts versions as text, takes an earlier one for the latest."""
    versions: dict[str, list[str]] = {}
    for name, version in (match.groups() for match in map(KEY.fullmatch, entries) if match):
        versions.setdefault(name, []).append(version)
    notes = []
    for name, found in versions.items():
        latest = max(found, key=_as_numbers)
        if max(found) != latest:
            notes.append(
                f"MONAI sorts versions as text and takes {max(found)} of {name} for the latest, "
                f"not {latest}"
            )
    return notes


def _as_numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
