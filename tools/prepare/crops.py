"""Real nodule crops in native spacing to training windows of 1 mm (``prepare crops``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from tools.files import claimed, new_file, safe_names
from tools.prepare.archive import SECTIONS, find_archive, write_datalist
from tools.prepare.crop_ratings import NoduleRatings
from tools.windows import WindowGrid, cut_window, window_size

__all__ = ["prepare_crops"]


class Crop(NamedTuple):
    """One nodule as published: HU and mask on the native grid."""

    name: str
    patient: str
    split: str
    image: np.ndarray
    mask: np.ndarray
    affine: np.ndarray


def prepare_crops(
    source: str | Path,
    out: str | Path,
    smallest: int = 32,
    largest: int = 72,
    air_hu: int = -1024,
    ratings: str | Path | None = None,
) -> dict[str, int]:
    """Write windows of 1 mm round real nodules, with masks and a datalist split by patient.

    The crops are about 30 mm wide and **tight in depth**: they end with the first and last slice of
    the nodule. A window needs surroundings there, and neither a constant (a wall that no scan has)
    nor the last slice repeated (streaks) will do. So the crop is continued by its own mirror image
    from which the nodule was taken out; the lesion-focused loss never looks at the continuation, it
    is context only.

    Args:
        source: a crops archive (``*.npz`` with ``image_flat``, ``mask_flat_packed``, ``offset``,
            ``shape``, ``spacing_xyz_mm``, ``origin_ras_mm``, ``nodule_id``, ``patient_id``,
            ``split``), or a folder that holds one.
        out: folder for ``rois/*.nii.gz`` (int16 HU, uint8 label) and ``datalist.json``.
        smallest: voxels per side of a window, at least; a multiple of 8.
        largest: nodules that need a larger window are left out, and counted.
        air_hu: lower limit of HU; scanners' padding values below it become air.
        ratings: archive of masks of the same nodules with radiologists' ratings (or its folder),
            which become keys of the entries (``texture``, ``malignancy``, ...); None: no ratings.

    Returns:
        Number of windows by section, of those left out and, with ratings, of those ``unrated``.

    Raises:
        FileNotFoundError: if there is no archive at ``source``.

    Example:
        ``python -m tools prepare crops --source ../shared/data/lidc_voi --out work/rois``
    """
    archive = find_archive(source, "crops")
    out = Path(out)
    sections: dict[str, list[dict]] = {name: [] for name in SECTIONS.values()}
    left_out = 0
    crops = list(_read_archive(archive))
    rated = _ratings(crops, ratings)
    unrated = 0
    with claimed(out, ("rois", "datalist.json")):
        for crop, values in zip(tqdm(crops, desc="preparing crops"), rated, strict=True):
            entry = _write_window(crop, out, smallest, largest, air_hu)
            if entry is None:
                left_out += 1
            else:
                sections[SECTIONS[crop.split]].append(entry | dict(values))
                unrated += not values
        description = {
            "name": "lesion windows",
            "description": f"windows of 1 mm round lesions, from {archive.name}; split by patient",
            "modality": {"0": "CT"},
        }
        write_datalist(out / "datalist.json", sections, description)
    counts = {name: len(entries) for name, entries in sections.items()} | {"left_out": left_out}
    return counts if ratings is None else counts | {"unrated": unrated}


def _ratings(crops: Sequence[Crop], source: str | Path | None) -> list[Mapping[str, float]]:
    """Return the ratings of each crop by name."""
    if source is None:
        return [{} for _ in crops]
    heights = [float((crop.affine @ [*np.argwhere(crop.mask).mean(0), 1])[2]) for crop in crops]
    return NoduleRatings(source).find([crop.patient for crop in crops], heights)


def _read_archive(path: Path) -> Iterator[Crop]:
    with np.load(path, allow_pickle=False) as archive:
        content = {key: archive[key] for key in archive.files}
    masks = np.unpackbits(content["mask_flat_packed"])
    names = safe_names(content["nodule_id"])
    for i, shape in enumerate(content["shape"]):
        part = slice(content["offset"][i], content["offset"][i + 1])
        # array axes run to patient left, posterior, superior
        affine = np.diag([*(content["spacing_xyz_mm"][i] * (-1, -1, 1)), 1.0]).astype(float)
        affine[:3, 3] = content["origin_ras_mm"][i]
        yield Crop(
            names[i],
            str(content["patient_id"][i]),
            str(content["split"][i]),
            content["image_flat"][part].reshape(shape),
            masks[part].reshape(shape).astype(bool),
            affine,
        )


def _write_window(
    crop: Crop, out: Path, smallest: int, largest: int, air_hu: int
) -> dict[str, object] | None:
    """Write one window and return its datalist entry, or None if the nodule is too large."""
    spacing = np.abs(np.diag(crop.affine)[:3])
    extent = ((np.ptp(np.argwhere(crop.mask), axis=0) + 1) * spacing).max()
    size = window_size(extent, smallest=smallest)
    if size > largest:
        return None
    centre = crop.affine[:3, :3] @ np.argwhere(crop.mask).mean(0) + crop.affine[:3, 3]
    grid = WindowGrid.around(centre, (size,) * 3)
    image, mask, affine = continue_surroundings(crop, margin_mm=size / 2 + 4, air_hu=air_hu)
    window = cut_window(image, affine, grid)
    # a linear blend of the mask crosses 1/2 at the outline
    inside = cut_window(mask.astype(np.float32), affine, grid) >= 0.5
    if not inside.any():
        return None
    entry: dict[str, object] = {"name": crop.name, "patient": crop.patient}
    for key, values, dtype in (("image", window.round(), np.int16), ("label", inside, np.uint8)):
        relative = f"rois/{crop.name}_{key}.nii.gz"
        with new_file(out / relative) as partial:
            nib.save(nib.Nifti1Image(values.astype(dtype), grid.affine), partial)
        entry[key] = relative
    entry["diameter_mm"] = round(float((6 * inside.sum() / np.pi) ** (1 / 3)), 2)
    return entry


def continue_surroundings(
    crop: Crop, margin_mm: float, air_hu: int = -1024
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image, mask and affine of a crop continued on all sides by its healthy mirror image.

    Args:
        crop: the nodule; its image is unchanged inside the result.
        margin_mm: how far the continuation reaches beyond the crop.
        air_hu: lower limit of HU.
    """
    image = np.maximum(crop.image, air_hu).astype(np.float32)
    spacing = np.abs(np.diag(crop.affine)[:3])
    width = np.ceil(margin_mm / spacing).astype(int)
    sides = [(n, n) for n in width]
    extended = np.pad(remove_lesion(image, crop.mask, spacing), sides, mode="symmetric")
    inner = tuple(slice(n, n + size) for n, size in zip(width, image.shape, strict=True))
    extended[inner] = image
    affine = crop.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ width
    return extended, np.pad(crop.mask, sides), affine


def remove_lesion(
    image: np.ndarray, mask: np.ndarray, spacing_mm: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Return the image with its lesion replaced by smoothed surroundings and their noise.

    Args:
        image: HU.
        mask: True inside the lesion.
        spacing_mm: voxel size.
        seed: of the noise.
    """
    near = ndimage.distance_transform_edt(~mask, sampling=spacing_mm) < 1.5
    known = (~near).astype(np.float32)
    # local mean of lung only: walls and vessels beside the lesion must not be smeared into it
    lung = known * (image < -500) if (known * (image < -500)).any() else known
    sigma = 4.0 / spacing_mm
    weight = ndimage.gaussian_filter(lung, sigma) + 1e-6
    smooth = ndimage.gaussian_filter(image * lung, sigma) / weight
    deviation = float((image - smooth)[lung > 0].std()) if lung.any() else 0.0
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=image.shape), 0.6)
    noise *= min(deviation, 60.0) / max(noise.std(), 1e-6)
    return np.where(near, smooth + noise, image).astype(np.float32)
