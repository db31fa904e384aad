"""Consensus masks of lesions to label files with a datalist (``prepare masks``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from tqdm import tqdm

from tools.prepare.archive import SECTIONS, find_archive, write_datalist

__all__ = ["prepare_masks"]

RATINGS = ("spiculation", "lobulation", "texture", "sphericity", "margin", "malignancy")


def prepare_masks(source: str | Path, out: str | Path) -> dict[str, int]:
    """Write one label file of 1 mm per nodule, and a datalist split by patient.

    Masks that the window of the archive cuts off are left out: their sphere would be wrong.

    Args:
        source: the archive (``*.npz`` with ``masks_packed``, ``mask_shape``, ``patient_id``,
            ``split``, ``truncated`` and ratings), or a folder that holds one.
        out: folder for ``masks/*.nii.gz`` (uint8) and ``datalist.json``.

    Returns:
        Number of masks by section, and of those left out.

    Raises:
        FileNotFoundError: if there is no archive at ``source``.

    Example:
        ``python -m tools prepare masks --source ../shared/data/lidc_masks --out work/masks``
    """
    path, out = find_archive(source, "masks"), Path(out)
    with np.load(path, allow_pickle=False) as archive:
        content = {key: archive[key] for key in archive.files}
    (out / "masks").mkdir(parents=True, exist_ok=True)
    sections: dict[str, list[dict[str, Any]]] = {name: [] for name in SECTIONS.values()}
    left_out = 0
    shape = tuple(int(n) for n in content["mask_shape"])
    for i, packed in enumerate(tqdm(content["masks_packed"], desc="preparing masks")):
        mask = np.unpackbits(packed)[: np.prod(shape)].reshape(shape)
        if content["truncated"][i] or not mask.any():
            left_out += 1
            continue
        relative = f"masks/nodule_{i:04d}.nii.gz"
        nib.save(nib.Nifti1Image(mask, np.diag([-1.0, -1.0, 1.0, 1.0])), out / relative)
        entry: dict[str, Any] = {"label": relative, "patient": str(content["patient_id"][i])}
        entry |= {name: float(content[name][i]) for name in RATINGS}
        entry["diameter_mm"] = round(float((6 * mask.sum() / np.pi) ** (1 / 3)), 2)
        sections[SECTIONS[str(content["split"][i])]].append(entry)
    description = {
        "name": "lesion masks",
        "description": f"consensus masks at 1 mm, from {path.name}; split by patient",
    }
    write_datalist(out / "datalist.json", sections, description)
    return {name: len(entries) for name, entries in sections.items()} | {"left_out": left_out}
