"""The folder in which a check of another program works."""

from __future__ import annotations

import shutil
from pathlib import Path

from tools.files import mark_folder, read_mark

__all__ = ["empty_work_folder"]


def empty_work_folder(folder: Path) -> None:
    """Make a folder, or empty the one that an earlier check made.

    Raises:
        ValueError: if something is there that no check made.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"work must be a folder, got the file {folder}")
    if folder.is_dir() and any(folder.iterdir()):
        if read_mark(folder) is None:
            raise ValueError(f"work must be new, or a folder of an earlier check, got {folder}")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark_folder(folder, ["*"])
