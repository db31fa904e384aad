"""What an evaluation writes beside its picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.files import new_file

__all__ = ["write_results"]


def write_results(out: Path, results: Mapping[str, Any], page: str) -> None:
    """Write ``results.json`` and ``results.md``, each whole or not at all, and print the page.

    Args:
        out: folder, made if need be.
        results: JSON values.
        page: the same as Markdown tables.

    Raises:
        ValueError: if a value is NaN or infinite.
    """
    content = json.dumps(results, indent=1, allow_nan=False) + "\n"
    for name, text in (("results.json", content), ("results.md", page)):
        with new_file(out / name) as partial:
            partial.write_text(text, encoding="utf-8")
    print(page)
