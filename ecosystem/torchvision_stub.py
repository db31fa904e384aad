"""Put a stand-in for torchvision into the environment that runs this file.

MONAI Label asks torchvision for two functions that make pictures, which its server never calls. The
real package wants the exact build of torch it was made with, or importing it fails.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path

FUNCTIONS = "def make_grid(*args, **options): ...\ndef save_image(*args, **options): ...\n"


def main() -> None:
    """Write the package, unless a torchvision is there."""
    if importlib.util.find_spec("torchvision") is None:
        folder = Path(sysconfig.get_paths()["purelib"]) / "torchvision"
        folder.mkdir()
        (folder / "__init__.py").write_text('__version__ = "0"\n')
        (folder / "utils.py").write_text(FUNCTIONS)


if __name__ == "__main__":
    main()
