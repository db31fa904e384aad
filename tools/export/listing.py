"""Reading of datalists for the exports: sections, paths, modality."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.files import read_json

__all__ = ["MODALITIES", "entry_path", "read_datalist", "read_modality", "section"]

MODALITIES = {"CT": "CT", "MR": "MRI", "MRI": "MRI"}
ENDINGS = (".nii", ".nii.gz")


def read_datalist(path: Path, argument: str) -> dict[str, Any]:
    """Return the content of a datalist.

    Args:
        path: JSON file.
        argument: its name in messages.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no JSON object.
    """
    content = read_json(path, argument)
    if not isinstance(content, dict):
        raise ValueError(f"{argument} must be a datalist (a JSON object), got {path}")
    return content


def section(content: Mapping[str, Any], names: tuple[str, ...], path: Path) -> list[dict]:
    """Return the entries of the sections of these names, each a dictionary with ``image``.

    Args:
        content: of the datalist.
        names: of sections that mean the same, such as ``test`` and ``testing``.
        path: of the datalist, for messages.

    Raises:
        ValueError: if an entry is neither a path nor a dictionary with an ``image``.

    Example:
        >>> section({"test": ["a.nii.gz"]}, ("test", "testing"), Path("datalist.json"))
        [{'image': 'a.nii.gz'}]
    """
    result = []
    for entry in (item for name in names for item in content.get(name) or []):
        if isinstance(entry, str):
            entry = {"image": entry}  # the Decathlon lists its test scans so
        if not isinstance(entry, dict) or "image" not in entry:
            raise ValueError(f"entries of {names[0]} must have an image, got {entry!r} in {path}")
        result.append(entry)
    return result


def entry_path(entry: Mapping[str, Any], key: str, base: Path, datalist: Path) -> Path:
    """Return the file that an entry names.

    Args:
        entry: of the datalist.
        key: ``image`` or ``label``.
        base: folder that relative paths start from, and must not leave; absolute ones are taken
            as they are.
        datalist: for messages.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the entry names no single NIfTI file, or a path leads out of ``base``.
    """
    value = entry.get(key)
    if not isinstance(value, str) or not value.endswith(ENDINGS):
        raise ValueError(
            f"{key} of an entry must be one NIfTI file (one channel), got {value!r} in {datalist}"
        )
    path = Path(value)
    if not path.is_absolute():
        path = base / value
        # links inside the folder may lead out of it, the words of the path may not
        if ".." in Path(value).parts and not path.resolve().is_relative_to(base.resolve()):
            raise ValueError(f"{key} of an entry must lie in {base}, got {value} in {datalist}")
    if not path.is_file():
        raise FileNotFoundError(f"{key} of an entry must exist, got {path} in {datalist}")
    return path


def read_modality(content: Mapping[str, Any], argument: str) -> str | None:
    """Return ``CT`` or ``MRI``, or what else the one channel is called; None if it is not said.

    Raises:
        ValueError: if there is more than one channel.

    Example:
        >>> read_modality({"modality": {"0": "MR"}}, "real")
        'MRI'
    """
    stated = content.get("modality", content.get("channel_names"))
    names = list(stated.values()) if isinstance(stated, Mapping) else [stated] if stated else []
    if len(names) > 1:
        raise ValueError(f"{argument} must have one channel, got {names}")
    return MODALITIES.get(str(names[0]).upper(), str(names[0])) if names else None
