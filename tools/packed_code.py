"""One release of this code per process: what a zip was packed with is what must run."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["require_packed_code"]


def require_packed_code(root: str | os.PathLike[str]) -> Path:
    """Return the folder of the code that runs, which must be what a bundle was packed with.

    A process imports ``tools`` once. The second bundle of a process therefore runs on the code of
    the first, and a bundle run from the root of a checkout on that of the checkout: good if both
    are of one release, wrong without a word if they are not. Configs name this under
    ``_requires_`` of what MONAI builds first. Without a folder ``tools`` in the bundle, as in the
    repository, there is nothing to compare.

    Raises:
        ValueError: if a Python file of the packed code is missing from the running one, or has
            other content there.
    """
    packed, running = Path(root) / "tools", Path(__file__).resolve().parent
    if not packed.is_dir() or packed.samefile(running):
        return running
    for path in sorted(packed.rglob("*.py")):
        name = path.relative_to(packed)
        other = running / name
        if not other.is_file() or other.read_bytes() != path.read_bytes():
            raise ValueError(
                f"root must hold the code that this process runs, which is {running}, got "
                f"another release in {packed} ({name.as_posix()} differs): run them in processes "
                "of their own, outside of a checkout"
            )
    return running
