"""What a folder was made for: results of one request are not taken for those of another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.files import read_json, write_json

__all__ = ["digest", "require_one_request"]


def digest(path: Path) -> str:
    """Return a short hash of what a file holds, wherever it lies."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def require_one_request(folder: Path, request: Mapping[str, Any]) -> None:
    """Refuse what was made for another request: it would be taken for this one's.

    The first request is kept, ``request.json``, each value as text.
    """
    wanted = {key: str(value) for key, value in request.items()}
    path = folder / "request.json"
    made = read_json(path, "out") if path.is_file() else wanted
    for key in wanted:
        if made.get(key) != wanted[key]:
            raise ValueError(
                f"out must hold one request only, got {folder} made with {key}={made.get(key)} "
                f"where {wanted[key]} is asked for; name another folder"
            )
    write_json(path, wanted)
