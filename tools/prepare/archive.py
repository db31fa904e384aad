"""What the archives of lesions share: where they lie, and the datalist that is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.files import write_json

__all__ = ["SECTIONS", "find_archive", "write_datalist"]

# split in the archive -> section of the datalist
SECTIONS = {"train": "training", "val": "validation"}


def find_archive(source: str | Path, content: str, argument: str = "source") -> Path:
    """Return an archive (``*.npz``), or the first in a folder.

    Args:
        source: the file or the folder.
        content: what the archive holds, for the message.
        argument: its name in the message.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = Path(source)
    found = [path] if path.is_file() else sorted(path.glob("*.npz"))
    if not found:
        raise FileNotFoundError(
            f"{argument} must be a {content} archive or a folder with one, got {source}"
        )
    return found[0]


def write_datalist(
    path: Path,
    sections: Mapping[str, Sequence[Mapping[str, Any]]],
    description: Mapping[str, Any],
) -> None:
    """Write a datalist in Decathlon form, whole or not at all.

    Args:
        path: the file.
        sections: entries by section.
        description: what stands before them: name, description, modality; labels where there are
            others than 1, lesion.
    """
    labels = description.get("labels", {"0": "background", "1": "lesion"})
    write_json(path, {**description, "labels": labels, **sections}, indent=1)
