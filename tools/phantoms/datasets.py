"""Phantoms on disk: chests, datasets of nodules, and a healthy scan of each organ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tools.files import write_json
from tools.phantoms.chest_ct import NODULE_TEXTURES, Nodule, chest_ct, draw_nodules
from tools.phantoms.datalists import (
    PHANTOM_VERSION,
    cached_phantom,
    read_section,
    write_case,
    write_datalist,
    write_scan,
)
from tools.phantoms.heart_datasets import write_heart_phantom

__all__ = [
    "PHANTOM_VERSION",
    "lesion_datalist",
    "phantom_scan",
    "write_chest_phantom",
    "write_lesion_rois",
]

ROI_SIZE = 32
CUBES_OF_A_BODY = 4


def write_chest_phantom(
    out_dir: str | Path,
    seed: int = 0,
    shape: tuple[int, int, int] = (192, 160, 144),
    spacing_mm: float | tuple[float, float, float] = 2.0,
) -> dict[str, str]:
    """Write a healthy chest CT phantom, see :func:`chest_ct`, with its lung mask.

    Returns:
        Paths by name: ``image`` (int16 HU), ``lung`` (uint8) and ``record`` (JSON).
    """
    phantom = chest_ct(shape, spacing_mm, seed)
    return write_scan(
        Path(out_dir),
        "phantom_chest",
        {"image": phantom.image, "lung": phantom.lung_mask},
        phantom.affine,
        seed=seed,
        shape=list(shape),
        spacing_mm=[float(v) for v in np.linalg.norm(phantom.affine[:3, :3], axis=0)],
        lesions=[],
    )


def write_lesion_rois(out_dir: str | Path, count: int = 24, seed: int = 0) -> dict[str, Any]:
    """Write a small training set: cubes of 32 mm round phantom nodules, with labels and a datalist.

    Two thirds of the cubes are the section "training", the rest "validation"; no body is in both,
    and textures take turns in each. The content of ``datalist.json`` is returned.

    Raises:
        ValueError: if ``count``, of the cubes, is less than 3.
    """
    if count < 3:
        raise ValueError(f"count must be >= 3, got {count}")
    folder = Path(out_dir)
    sections: dict[str, Any] = {}
    body, number = 1000 * seed, 0
    for section, cubes in {"training": count - count // 3, "validation": count // 3}.items():
        sections[section] = []
        for left in range(cubes, 0, -CUBES_OF_A_BODY):
            for nodule in draw_nodules(body, min(left, CUBES_OF_A_BODY)):
                name = f"rois/phantom_{number:03d}"
                nodule = nodule._replace(texture=NODULE_TEXTURES[number % len(NODULE_TEXTURES)])
                sections[section].append(_write_cube(folder, name, body, nodule))
                number += 1
            body += 1
    return write_datalist(folder, "phantom lung nodules", sections)


def _write_cube(folder: Path, name: str, body: int, nodule: Nodule) -> dict[str, Any]:
    window = chest_ct((ROI_SIZE,) * 3, 1.0, body, nodule.site_mm, [nodule])
    return write_case(
        folder,
        name,
        {"image": window.image, "label": window.lesion_mask},
        window.affine,
        texture=nodule.texture,
        diameter_mm=nodule.diameter_mm,
        shape_source="ellipsoid",
        patient=f"phantom_{body}",
    )


def lesion_datalist(
    dataset_dir: str | Path | None,
    section: str = "training",
    cache_dir: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Return one section of a dataset's datalist, of the embedded phantom if no dataset is named.

    See :func:`tools.phantoms.datalists.read_section`; the phantom is made on first use and kept in
    ``cache_dir``, None for ``~/.cache/synthetic-lesions``.
    """
    name = f"phantom-{PHANTOM_VERSION}"
    return read_section(dataset_dir, section, name, write_lesion_rois, cache_dir)


def phantom_scan(organ: str) -> Path:
    """Return a folder with a healthy phantom scan and the mask of an organ, made on first use.

    Raises:
        ValueError: if there is no phantom of the organ.
    """
    writers: dict[str, Callable[[Path], object]]
    writers = {"lung": write_chest_phantom, "heart": write_heart_phantom}
    if organ not in writers:
        raise ValueError(f"scan must be given, there is no phantom of the {organ}, got none")

    def write(folder: Path) -> None:
        writers[organ](folder)
        write_json(folder / "datalist.json", {"training": []})

    return cached_phantom(f"phantom-{PHANTOM_VERSION}-scan-{organ}", write)
