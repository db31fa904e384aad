"""A whole phantom scan for those who bring none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tools.files import write_json
from tools.phantoms.datalists import cached_phantom
from tools.phantoms.datasets import PHANTOM_VERSION, write_chest_phantom
from tools.phantoms.heart_datasets import write_heart_phantom

__all__ = ["phantom_scan"]

WRITERS: dict[str, Callable[[Path], object]] = {
    "lung": write_chest_phantom,
    "heart": write_heart_phantom,
}


def phantom_scan(organ: str) -> Path:
    """Return a folder with a healthy phantom scan and the mask of an organ, made on first use.

    Raises:
        ValueError: if there is no phantom of the organ.
    """
    if organ not in WRITERS:
        raise ValueError(f"scan must be given, there is no phantom of the {organ}, got none")

    def write(folder: Path) -> None:
        WRITERS[organ](folder)
        write_json(folder / "datalist.json", {"training": []})

    return cached_phantom(f"phantom-{PHANTOM_VERSION}-scan-{organ}", write)
