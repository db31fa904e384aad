"""The command ``python -m tools prepare phantom``: embedded data written where one can open it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tools.phantoms.datasets import write_chest_phantom, write_lesion_rois

__all__ = ["prepare_phantom"]

KINDS = ("chest_ct", "lesion_rois")


def prepare_phantom(
    out: str | os.PathLike[str],
    kind: str = "chest_ct",
    seed: int = 0,
    nodules: int = 0,
    spacing_mm: float = 2.0,
    count: int = 24,
) -> dict[str, str]:
    """Write phantom data into a folder.

    Args:
        out: folder, made if it does not exist.
        kind: "chest_ct" (a whole chest of 384 x 320 x 288 mm with its lung mask), "lesion_rois"
            (cubes round nodules with a datalist, for training) or "all".
        seed: of everything drawn at random; the same seed gives the same voxels.
        nodules: how many nodules the chest has; 0 leaves it healthy.
        spacing_mm: voxel size of the chest, isotropic.
        count: number of cubes.

    Returns:
        Paths of what was written, by name.

    Raises:
        ValueError: if ``kind`` is unknown, or a number is out of range.
    """
    if kind not in (*KINDS, "all"):
        raise ValueError(f"kind must be one of {[*KINDS, 'all']}, got {kind!r}")
    if nodules < 0 or spacing_mm <= 0:
        raise ValueError(
            f"nodules must be >= 0 and spacing_mm > 0, got nodules {nodules} and {spacing_mm}"
        )
    x, y, z = (max(8, round(extent / spacing_mm)) for extent in (384, 320, 288))
    writers: dict[str, Callable[[], dict[str, Any]]] = {
        "chest_ct": partial(write_chest_phantom, out, seed, (x, y, z), spacing_mm, nodules),
        "lesion_rois": partial(write_lesion_rois, out, count, seed),
    }
    paths: dict[str, str] = {}
    for name in tqdm(KINDS if kind == "all" else [kind], desc="phantom", unit="set"):
        written = writers[name]()
        if name == "lesion_rois":
            written = {"datalist": str(Path(out) / "datalist.json")}
        paths.update(written)
    return paths
