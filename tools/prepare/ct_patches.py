"""Whole CT scans and real nodule crops to one training set of 1 mm patches (``prepare ct``)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from tqdm import tqdm

from tools.files import claimed, new_file, safe_names
from tools.phantoms.chest_ct import chest_ct, draw_nodules
from tools.prepare.archive import SECTIONS, write_datalist
from tools.prepare.crops import prepare_crops
from tools.prepare.lidc_split import lidc_split
from tools.transforms.window import WindowGrid, cut_window

__all__ = ["CtScan", "find_scans", "prepare_ct"]

MANIFEST = "MANIFEST.json"
AIR_HU = -1024
OUTSIDE_HU = -960  # below it only air outside the body, airways and bullae
BODY_SHARE = 0.2
SMALLEST = 32  # voxels along an axis, what the autoencoder is trained on at least
PHANTOM_CENTRES_MM = ((75.0, -10.0, 5.0), (-80.0, -15.0, 5.0))
PHANTOM_SHAPE = (128, 128, 128)


class CtScan(NamedTuple):
    """A scan on disk.

    Attributes:
        name: of its patches.
        patient: who decides to which section they belong.
        image: NIfTI file, HU.
        lesion: NIfTI file on the same grid, above 0 in lesions; None where none is outlined.
    """

    name: str
    patient: str
    image: Path
    lesion: Path | None


def prepare_ct(
    source: str | Path,
    out: str | Path,
    patch_size: int = 64,
    window_size: int = 48,
    coarsest_mm: float = 2.0,
    phantoms: int = 2,
    non_commercial: bool = False,
) -> dict[str, int]:
    """Write patches of 1 mm (int16 HU, uint8 lesion label) and a datalist split by patient.

    Scans are cut into patches that touch; where the size of a scan is no multiple, neighbours
    overlap. Patches that hold almost nothing but air are dropped. An archive of nodule crops below
    ``source`` adds one window for each nodule, as ``prepare crops`` makes them; other files in the
    folder of an archive are samples of it and are not read twice. Patients are split by
    :func:`tools.prepare.lidc_split.lidc_split`; what it calls test is left out.

    Args:
        source: folder, searched to any depth. With MANIFEST.json in it, the CT files that it lists;
            without, all ``*.nii.gz`` and ``*.nii``. ``NAME_image`` may have ``NAME_lesion`` beside
            it.
        out: folder for ``patches/``, ``rois/`` and ``datalist.json``.
        patch_size: voxels per side of a patch; scans that are thinner give thinner patches.
        window_size: voxels per side of a window round a nodule, at least; a multiple of 8.
        coarsest_mm: scans whose smallest voxel edge is longer are left out: at 1 mm they hold no
            detail.
        phantoms: computed chests to add to the training section.
        non_commercial: also use scans whose licence forbids commercial use, and so weights made of
            them.

    Returns:
        Number of patches and windows by section, and of scans and nodules left out.

    Raises:
        FileNotFoundError: if ``source`` is no folder or nothing in it can be used.
        ValueError: if a size is too small.

    Example:
        ``python -m tools prepare ct --source ../shared/data --out work/ct``
    """
    for name, size in (("patch_size", patch_size), ("window_size", window_size)):
        if size < SMALLEST:
            raise ValueError(f"{name} must be >= {SMALLEST}, got {size}")
    archives, scans = find_scans(source, non_commercial)
    out = Path(out)
    with claimed(out, ("patches", "rois", "datalist.json")):
        sections, left_out = _windows(archives, out, window_size)
        for scan in tqdm(scans, desc="cutting scans"):
            split = lidc_split(scan.patient)
            entries = _scan_patches(scan, out, patch_size, coarsest_mm) if split in SECTIONS else []
            left_out += not entries
            if entries:
                sections[SECTIONS[split]] += entries
        for number in tqdm(range(phantoms), desc="computing phantoms", disable=phantoms == 0):
            sections["training"] += _phantom_patches(number, out, patch_size)
        if not any(sections.values()):
            raise FileNotFoundError(f"source must hold CT scans or a crops archive, got {source}")
        description = {
            "name": "CT patches",
            "description": "patches of 1 mm, windows round nodules, phantoms; split by patient",
            "modality": {"0": "CT"},
        }
        write_datalist(out / "datalist.json", sections, description)
    return {name: len(entries) for name, entries in sections.items()} | {"left_out": left_out}


def find_scans(source: str | Path, non_commercial: bool = False) -> tuple[list[Path], list[CtScan]]:
    """Return the archives of nodule crops and the scans below a folder, sorted by path.

    Args:
        source: folder.
        non_commercial: also return what MANIFEST.json calls non-commercial.

    Raises:
        FileNotFoundError: if ``source`` is no folder.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(f"source must be an existing folder, got {source}")
    listed = _listed(folder, non_commercial)
    archives = [path for path in listed if path.suffix == ".npz" and _holds_crops(path)]
    sampled = {path.parent for path in archives}
    scans = []
    for path, patient in listed.items():
        stem = path.name.removesuffix(".gz").removesuffix(".nii")
        if path.suffix == ".npz" or path.parent in sampled or stem.endswith(("_lesion", "_label")):
            continue
        name = stem.removesuffix("_image")
        lesion = path.with_name(f"{name}_lesion{path.name[len(stem) :]}")
        scans.append(CtScan(name, patient or name, path, lesion if lesion.is_file() else None))
    return archives, _told_apart(scans, folder)


def _told_apart(scans: list[CtScan], folder: Path) -> list[CtScan]:
    """Return the scans, those that share a name (``P1/ct.nii``, ``P2/ct.nii``) called by path."""
    shared = {name for name, count in Counter(scan.name for scan in scans).items() if count > 1}
    result = []
    for scan in scans:
        if scan.name in shared:
            where = scan.image.parent.relative_to(folder).parts
            name = "_".join((*where, scan.name))
            patient = scan.patient if scan.patient != scan.name else "_".join(where) or name
            scan = scan._replace(name=name, patient=patient)
        result.append(scan)
    names = safe_names(scan.name for scan in result)
    return [scan._replace(name=name) for scan, name in zip(result, names, strict=True)]


def _listed(folder: Path, non_commercial: bool) -> dict[Path, str | None]:
    """Return the files that may be read, with their patients where they are known."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        found = [path for kind in ("*.nii.gz", "*.nii", "*.npz") for path in folder.rglob(kind)]
        return dict.fromkeys(sorted(found))
    files = {}
    for entry in json.loads(manifest.read_text(encoding="utf-8"))["files"]:
        free = "NON-COMMERCIAL" not in entry.get("data_licence", "").upper()
        is_image = entry.get("modality", "").startswith("CT") and entry.get("dtype") != "uint8"
        if is_image and (free or non_commercial):
            files[folder / entry["path"]] = entry.get("patient")
    return dict(sorted(files.items()))


def _holds_crops(path: Path) -> bool:
    with np.load(path, allow_pickle=False) as archive:
        return {"image_flat", "mask_flat_packed"} <= set(archive.files)


def _windows(archives: list[Path], out: Path, size: int) -> tuple[dict[str, list[Any]], int]:
    """Write the windows of all archives; return their entries by section and how many failed."""
    sections: dict[str, list[Any]] = {name: [] for name in SECTIONS.values()}
    left_out = 0
    for archive in archives:
        left_out += prepare_crops(archive, out, size, max(72, size))["left_out"]
        content = json.loads((out / "datalist.json").read_text(encoding="utf-8"))
        for name, entries in sections.items():
            entries += content[name]
    return sections, left_out


def _scan_patches(scan: CtScan, out: Path, size: int, coarsest_mm: float) -> list[dict[str, Any]]:
    """Write the patches of a scan and return their entries; none if the scan is too coarse."""
    volume = nib.load(scan.image)
    if volume.ndim != 3 or voxel_sizes(volume.affine).min() > coarsest_mm:
        return []
    grid = _grid_of(volume.shape, volume.affine)
    if min(grid.size) < SMALLEST:
        return []
    values = np.maximum(np.asarray(volume.dataobj), AIR_HU)
    image = cut_window(values, volume.affine, grid).round().astype(np.int16)
    label = np.zeros(grid.size, np.uint8)
    if scan.lesion is not None:
        inside = (np.asarray(nib.load(scan.lesion).dataobj) > 0).astype(np.float32)
        label = (cut_window(inside, volume.affine, grid) >= 0.5).astype(np.uint8)
    return _write_patches(scan.name, scan.patient, image, label, grid.affine, out, size)


def _grid_of(shape: tuple[int, ...], affine: np.ndarray) -> WindowGrid:
    """Return the grid of 1 mm that covers a scan."""
    corners = apply_affine(affine, list(product(*[(-0.5, n - 0.5) for n in shape[:3]])))
    low, high = corners.min(0), corners.max(0)
    return WindowGrid.around((low + high) / 2, np.floor(high - low + 1e-6).astype(int))


def _phantom_patches(number: int, out: Path, size: int) -> list[dict[str, Any]]:
    """Write the patches of both lungs of a computed chest with nodules."""
    entries = []
    for side, centre in zip("rl", PHANTOM_CENTRES_MM, strict=True):
        nodules = draw_nodules(number, 8, centre_mm=centre, size_mm=PHANTOM_SHAPE)
        phantom = chest_ct(PHANTOM_SHAPE, 1.0, number, centre, nodules)
        name, patient = f"phantom_{number:02d}{side}", f"phantom_{number:02d}"
        content = (phantom.image, phantom.lesion_mask, phantom.affine)
        entries += _write_patches(name, patient, *content, out, size)
    return [entry | {"phantom": True} for entry in entries]


def _write_patches(
    name: str,
    patient: str,
    image: np.ndarray,
    label: np.ndarray,
    affine: np.ndarray,
    out: Path,
    size: int,
) -> list[dict[str, Any]]:
    """Write the patches of a volume that hold some body, and return their entries."""
    entries = []
    for number, start in enumerate(_starts(image.shape, size)):
        box = tuple(slice(a, a + size) for a in start)
        if (image[box] > OUTSIDE_HU).mean() < BODY_SHARE:
            continue
        corner = np.array(affine, float)
        corner[:3, 3] = apply_affine(affine, start)
        entry: dict[str, Any] = {"name": f"{name}_{number:03d}", "patient": patient}
        for key, values in (("image", image[box]), ("label", label[box])):
            entry[key] = f"patches/{entry['name']}_{key}.nii.gz"
            _save(nib.Nifti1Image(np.ascontiguousarray(values), corner), out / entry[key])
        entries.append(entry)
    return entries


def _starts(shape: tuple[int, ...], size: int) -> Iterator[tuple[int, ...]]:
    """Yield the first voxels of patches that cover a volume evenly."""
    axes = []
    for length in shape:
        steps = max(1, -(-length // size))
        axes.append(np.linspace(0, max(0, length - size), steps).round().astype(int).tolist())
    yield from product(*axes)


def _save(volume: nib.Nifti1Image, path: Path) -> None:
    with new_file(path) as partial:
        nib.save(volume, partial)
