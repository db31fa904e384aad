"""Small phantom datasets on disk, and the datalist that the configs read."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.phantoms.chest_ct import ChestPhantom, chest_ct
from tools.phantoms.datalists import NOTICE, cached_phantom, read_section, save_json, save_volume
from tools.phantoms.nodule_insertion import add_nodules, place_mask
from tools.phantoms.nodule_shapes import nodule_masks
from tools.phantoms.nodule_textures import TEXTURE_HISTOGRAMS, paint_nodule

__all__ = ["PHANTOM_VERSION", "lesion_datalist", "write_chest_phantom", "write_lesion_rois"]

# Goes into the name of the cache: raise it whenever a seed gives other voxels than before.
PHANTOM_VERSION = "2"
ROI_SIZE = 32
_DIAMETER_MM = (6.0, 25.0)
# Parts of the chest from which regions are cut: (centre in mm, RAS) in the right and the left lung.
_LUNG_CENTRES_MM = ((75.0, -10.0, 5.0), (-80.0, -15.0, 5.0))
_LUNG_SHAPE = (100, 120, 120)


def write_chest_phantom(
    out_dir: str | os.PathLike[str],
    seed: int = 0,
    shape: tuple[int, int, int] = (192, 160, 144),
    spacing_mm: float | tuple[float, float, float] = 2.0,
    nodules: int = 0,
) -> dict[str, str]:
    """Write a chest CT phantom with its lung mask, healthy unless nodules are asked for.

    Args:
        out_dir: folder, made if it does not exist.
        seed: of the anatomy and the noise.
        shape: voxels per axis.
        spacing_mm: voxel size.
        nodules: how many nodules to put into the lungs.

    Returns:
        Paths by name: ``image`` (int16 HU), ``lung`` (uint8), ``record`` (JSON) and, with nodules,
        ``label`` (uint8, 1 in the nodules).
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    phantom, lesions = add_nodules(chest_ct(shape, spacing_mm, seed), nodules, seed)
    paths = {
        "image": folder / "phantom_chest_image.nii.gz",
        "lung": folder / "phantom_chest_lung.nii.gz",
        "record": folder / "phantom_chest.json",
    }
    save_volume(paths["image"], phantom.image, phantom.affine)
    save_volume(paths["lung"], phantom.lung_mask, phantom.affine)
    if nodules:
        paths["label"] = folder / "phantom_chest_label.nii.gz"
        save_volume(paths["label"], phantom.lesion_mask, phantom.affine)
    spacing = [float(v) for v in np.linalg.norm(phantom.affine[:3, :3], axis=0)]
    record = {"name": "phantom_chest", "phantom": True, "notice": NOTICE, "seed": seed}
    record |= {"version": PHANTOM_VERSION, "shape": list(shape), "spacing_mm": spacing}
    record |= {"lesions": lesions}
    save_json(paths["record"], record)
    return {name: str(path) for name, path in paths.items()}


def _cut_roi(
    lung: ChestPhantom,
    mask: NDArray[np.bool_],
    texture: str,
    rng: np.random.Generator,
    size: int,
) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.float64]]:
    """Paint one nodule into a lung and return the cube round it, its label and its affine."""
    cube = np.zeros((size, size, size), dtype=bool)
    offset = (size - np.array(mask.shape)) // 2
    cube[tuple(slice(a, a + n) for a, n in zip(offset, mask.shape, strict=True))] = mask
    box = place_mask(cube, lung.lung_mask > 0, lung.vessel_mask > 0, rng, attempts=5000)
    if box is None:
        raise RuntimeError(f"lung must have room for a nodule of {mask.sum()} mm3, found none")
    image = paint_nodule(lung.image[box], cube, texture, int(rng.integers(2**31)))
    affine = lung.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([part.start for part in box])
    return image, cube.astype(np.uint8), affine


def _validates(patient: str) -> bool:
    """Return whether a patient belongs to the validation section: a fixed third, by name."""
    return zlib.crc32(patient.encode()) % 3 == 0


def write_lesion_rois(
    out_dir: str | os.PathLike[str], count: int = 24, seed: int = 0, size: int = ROI_SIZE
) -> dict[str, Any]:
    """Write a small training set: cubes at 1 mm round phantom nodules, with labels and a datalist.

    Two thirds of the cubes are the section "training", the rest "validation"; no patient's outline
    is in both, and textures take turns in each.

    Args:
        out_dir: folder, made if it does not exist.
        count: number of cubes, at least 3.
        seed: of lungs, shapes, sites and textures.
        size: edge of the cube in mm (= voxels), at least 32.

    Returns:
        The content of ``datalist.json`` (paths relative to ``out_dir``).

    Raises:
        ValueError: if ``count`` or ``size`` is too small.
    """
    if count < 3 or size < ROI_SIZE:
        raise ValueError(f"count must be >= 3 and size >= {ROI_SIZE}, got {count} and {size}")
    folder = Path(out_dir)
    (folder / "rois").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 3])
    lungs = [chest_ct(_LUNG_SHAPE, 1.0, seed, centre) for centre in _LUNG_CENTRES_MM]
    textures = sorted(TEXTURE_HISTOGRAMS)
    entries = []
    split = count - count // 3
    shapes = nodule_masks(split, seed, _DIAMETER_MM, lambda patient: not _validates(patient))
    shapes += nodule_masks(count - split, seed + 1, _DIAMETER_MM, _validates)
    for index, (mask, information) in enumerate(shapes):
        texture = textures[index % len(textures)]
        image, label, affine = _cut_roi(lungs[index % 2], mask, texture, rng, size)
        name = f"rois/phantom_{index:03d}"
        save_volume(folder / f"{name}_image.nii.gz", image, affine)
        save_volume(folder / f"{name}_label.nii.gz", label, affine)
        entry = {"image": f"{name}_image.nii.gz", "label": f"{name}_label.nii.gz", "phantom": True}
        entry |= {"texture": texture, "diameter_mm": information["diameter_mm"]}
        entry |= {"shape_source": information["shape_source"]}
        entries.append(entry | {"patient": information.get("patient_id", f"phantom_{index:03d}")})
    datalist = {"name": "phantom lung nodules", "description": NOTICE, "phantom": True}
    datalist |= {"version": PHANTOM_VERSION, "training": entries[:split]}
    datalist |= {"validation": entries[split:]}
    save_json(folder / "datalist.json", datalist)
    return datalist


def lesion_datalist(
    dataset_dir: str | os.PathLike[str] | None,
    section: str = "training",
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """Return one section of a dataset's datalist, of the embedded phantom if no dataset is named.

    Args:
        dataset_dir: folder with ``datalist.json`` (Decathlon form); None or "" stands for the
            embedded phantom data, which is made on first use and announced in the log.
        section: "training", "validation", ...
        cache_dir: where the phantom is kept; None is ``~/.cache/synthetic-lesions``.

    Returns:
        Dictionaries with absolute paths under ``image`` and ``label``, other keys as in the file.

    Raises:
        FileNotFoundError: if ``dataset_dir`` or its datalist does not exist; nothing replaces it.
        ValueError: if the section is missing or empty.
    """
    name = f"phantom-{PHANTOM_VERSION}"
    return read_section(
        dataset_dir, section, lambda: cached_phantom(name, write_lesion_rois, cache_dir)
    )
