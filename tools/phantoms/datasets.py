"""Phantom datasets of nodules in the lung on disk, and the datalist that the configs read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tools.files import write_json
from tools.phantoms.chest_ct import NODULE_TEXTURES, Nodule, chest_ct, draw_nodules
from tools.phantoms.datalists import (
    NOTICE,
    PHANTOM_VERSION,
    cached_phantom,
    read_section,
    write_case,
    write_scan,
)

__all__ = ["PHANTOM_VERSION", "lesion_datalist", "write_chest_phantom", "write_lesion_rois"]

ROI_SIZE = 32
CUBES_OF_A_BODY = 4


def write_chest_phantom(
    out_dir: str | os.PathLike[str],
    seed: int = 0,
    shape: tuple[int, int, int] = (192, 160, 144),
    spacing_mm: float | tuple[float, float, float] = 2.0,
    nodules: int = 0,
) -> dict[str, str]:
    """Write a chest CT phantom, see :func:`chest_ct`, with its lung mask and so many nodules.

    Returns:
        Paths by name: ``image`` (int16 HU), ``lung`` (uint8), ``record`` (JSON) and, with nodules,
        ``label`` (uint8, 1 in the nodules).
    """
    size_mm = np.array(shape) * spacing_mm
    lesions = draw_nodules(seed, nodules, size_mm=size_mm.tolist())
    phantom = chest_ct(shape, spacing_mm, seed, nodules=lesions)
    volumes: dict[str, Any] = {"image": phantom.image, "lung": phantom.lung_mask}
    volumes |= {"label": phantom.lesion_mask} if nodules else {}
    return write_scan(
        Path(out_dir),
        "phantom_chest",
        volumes,
        phantom.affine,
        seed=seed,
        shape=list(shape),
        spacing_mm=[float(v) for v in np.linalg.norm(phantom.affine[:3, :3], axis=0)],
        lesions=[_facts(nodule) | {"site_mm": nodule.site_mm} for nodule in lesions],
    )


def _facts(nodule: Nodule) -> dict[str, Any]:
    facts = {"texture": nodule.texture, "diameter_mm": nodule.diameter_mm}
    return facts | {"shape_source": "ellipsoid"}


def write_lesion_rois(
    out_dir: str | os.PathLike[str], count: int = 24, seed: int = 0, size: int = ROI_SIZE
) -> dict[str, Any]:
    """Write a small training set: cubes at 1 mm round phantom nodules, with labels and a datalist.

    Two thirds of the cubes are the section "training", the rest "validation"; no body is in both,
    and textures take turns in each.

    Args:
        out_dir: folder, made if it does not exist.
        count: number of cubes, at least 3.
        seed: of bodies, shapes and sites.
        size: edge of the cube in mm (= voxels), at least 32.

    Returns:
        The content of ``datalist.json`` (paths relative to ``out_dir``).

    Raises:
        ValueError: if ``count`` or ``size`` is too small.
    """
    if count < 3 or size < ROI_SIZE:
        raise ValueError(f"count must be >= 3 and size >= {ROI_SIZE}, got {count} and {size}")
    folder = Path(out_dir)
    datalist: dict[str, Any] = {"name": "phantom lung nodules", "description": NOTICE}
    datalist |= {"phantom": True, "version": PHANTOM_VERSION}
    sections = {"training": count - count // 3, "validation": count // 3}
    body, number = 1000 * seed, 0
    for section, cubes in sections.items():
        datalist[section] = []
        for left in range(cubes, 0, -CUBES_OF_A_BODY):
            for nodule in draw_nodules(body, min(left, CUBES_OF_A_BODY)):
                name = f"rois/phantom_{number:03d}"
                nodule = nodule._replace(texture=NODULE_TEXTURES[number % len(NODULE_TEXTURES)])
                datalist[section].append(_write_cube(folder, name, body, nodule, size))
                number += 1
            body += 1
    write_json(folder / "datalist.json", datalist, indent=1)
    return datalist


def _write_cube(folder: Path, name: str, body: int, nodule: Nodule, size: int) -> dict[str, Any]:
    window = chest_ct((size, size, size), 1.0, body, nodule.site_mm, [nodule])
    volumes: dict[str, Any] = {"image": window.image, "label": window.lesion_mask}
    facts = _facts(nodule) | {"patient": f"phantom_{body}"}
    return write_case(folder, name, volumes, window.affine, **facts)


def lesion_datalist(
    dataset_dir: str | os.PathLike[str] | None,
    section: str = "training",
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """Return one section of a dataset's datalist, of the embedded phantom if no dataset is named.

    Arguments and errors are those of :func:`tools.phantoms.datalists.read_section`; the phantom is
    made on first use and kept in ``cache_dir``, None for ``~/.cache/synthetic-lesions``.
    """
    name = f"phantom-{PHANTOM_VERSION}"
    return read_section(
        dataset_dir, section, lambda: cached_phantom(name, write_lesion_rois, cache_dir)
    )
