"""Writers of small datasets, and readers of what was prepared of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import nibabel as nib
import numpy as np

KINDS = {"dark": -650, "middle": -300, "bright": 50}  # HU of lesions


def write_pair(
    folder: Path,
    name: str,
    image: np.ndarray,
    label: np.ndarray,
    affine: np.ndarray | None = None,
    dtype: type = np.int16,
) -> dict[str, Any]:
    """Write a scan and its label; return their entry of a datalist."""
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"image": f"{name}_image.nii.gz", "label": f"{name}_label.nii.gz"}
    affine = np.eye(4) if affine is None else affine
    nib.save(nib.Nifti1Image(image.astype(dtype), affine), folder / entry["image"])
    nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), folder / entry["label"])
    return entry


def write_cube(
    folder: Path, name: str, level: float | None, side: int = 4, size: int = 12, noise: float = 30
) -> dict[str, Any]:
    """Write lung of ``size`` voxels along each axis with a lesion of that level in HU, or none."""
    rng = np.random.default_rng(crc32(name.encode()))
    label = np.zeros((size, size, size), bool)
    label[4 : 4 + side, 4 : 4 + side, 4 : 4 + side] = level is not None
    image = rng.normal(-850, 20, label.shape)
    image[label] = rng.normal(level or 0, noise, int(label.sum()))
    return {"name": name, **write_pair(folder, name, image, label)}


def write_kinds(folder: Path, per_kind: int = 4) -> Path:
    """Lesions of three kinds, interleaved, rated by kind; one entry without a lesion."""
    entries = []
    for number in range(per_kind):
        for rating, (kind, level) in zip((1, 3, 5), KINDS.items(), strict=True):
            entry = write_cube(folder, f"{kind}_{number}", level)
            entries.append(entry | {"texture": rating})
    entries.append(write_cube(folder, "healthy", None))
    write_list(folder, {"training": entries, "normal": entries[-1:]})
    return folder


def write_list(folder: Path, sections: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "datalist.json"
    path.write_text(json.dumps({"name": "tiny", **sections}))
    return path


def content(out: Path) -> dict[str, Any]:
    return json.loads((out / "datalist.json").read_text())


def load(out: Path, entry: Mapping[str, Any], key: str) -> nib.Nifti1Image:
    return nib.load(out / entry[key])


def array(out: Path, entry: Mapping[str, Any], key: str) -> np.ndarray:
    return np.asarray(load(out, entry, key).dataobj)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
