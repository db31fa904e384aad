"""The command ``python -m tools prepare phantom``: embedded data written where one can open it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tools.files import claimed
from tools.phantoms.datasets import write_chest_phantom, write_lesion_rois
from tools.phantoms.heart_datasets import write_heart_dataset, write_heart_phantom

__all__ = ["prepare_phantom"]

KINDS = ("chest", "lesion_rois", "heart")


def prepare_phantom(
    out: str | os.PathLike[str],
    kind: str = "chest",
    seed: int = 0,
    nodules: int = 0,
    spacing_mm: float = 2.0,
    count: int = 24,
) -> dict[str, str]:
    """Write phantom data into a folder.

    Args:
        out: folder, made if it does not exist.
        kind: "chest" (a whole chest CT of 384 x 320 x 288 mm with its lung mask), "lesion_rois"
            (cubes round nodules with a datalist, for training), "heart" (late-enhancement MRI: a
            healthy heart, and 22 smaller stacks with a datalist, for training) or "all", which
            puts the hearts into a folder of their own.
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
    hearts = Path(out) / "heart" if kind == "all" else Path(out)
    writers: dict[str, Callable[[], dict[str, Any]]] = {
        "chest": partial(write_chest_phantom, out, seed, (x, y, z), spacing_mm, nodules),
        "lesion_rois": partial(_write_rois, Path(out), count, seed),
        "heart": partial(_write_hearts, hearts, seed),
    }
    paths: dict[str, str] = {}
    with claimed(out, ("phantom_*", "rois", "cases", "datalist.json", "heart")):
        for name in tqdm(KINDS if kind == "all" else [kind], desc="phantom", unit="set"):
            written = writers[name]()
            paths |= {f"heart_{key}" if name == "heart" else key: v for key, v in written.items()}
    return paths


def _write_rois(out: Path, count: int, seed: int) -> dict[str, str]:
    write_lesion_rois(out, count, seed)
    return {"datalist": str(out / "datalist.json")}


def _write_hearts(out: Path, seed: int) -> dict[str, str]:
    paths = write_heart_phantom(out, seed)
    write_heart_dataset(out, seed)
    return paths | {"datalist": str(out / "datalist.json")}
