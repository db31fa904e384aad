"""Commands that turn scans with lesions into what bundles train on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.commands.arguments import Seed
from tools.commands.result import Result
from tools.sentences import a_few

__all__ = [
    "prepare_dlcs",
    "prepare_emidec",
    "prepare_kits",
    "prepare_lidc",
    "prepare_msd",
    "prepare_phantom",
    "prepare_scans",
]

logger = logging.getLogger(__name__)


def prepare_scans(
    datalist: str,
    out: str,
    bundle: str = "lefusion_lidc",
    stage: str = "",
    classes: Sequence[int] | None = None,
    smallest: int | None = None,
    largest: int | None = None,
    normal_windows: int = 0,
    validation_fraction: float = 0.2,
    fold: int = 0,
    workers: int = 1,
    seed: Seed = 0,
    dataset_dir: str | None = None,
    fill_nan: str | None = None,
    hu_offset: float = 0.0,
) -> Result:
    """Turn any scans with lesion masks into what a bundle trains on.

    Example: python -m tools prepare scans --datalist lidc_nodules/datalist.json --bundle
        lefusion_lidc --out work/lesions

    Example: python -m tools prepare scans --datalist kits/datalist.json --bundle diffmask --classes
        2 --out work/masks

    The datalist is a JSON file in the form of the Decathlon: {"training": [{"image":
    "a.nii.gz", "label": "a_lesions.nii.gz", "patient": "p1"}, ...]}. An image is an image
    file (NIfTI, NRRD, MetaImage) or the folder of a DICOM series; a label is an image file of whole
    numbers, 0 where there is no lesion, which is resampled if it lies on another grid. Further keys
    that are read: series_uid (which series of the folder), ratings ({"texture": 4.5, ...}: the
    label is one lesion then), lesions ([{"value": 1, "ratings": {...}}, ...]: one for each value of
    the label), fold, organ_mask or lung, marks; all others are kept. Sections beside training
    (validation, test, ...) stay as they are; without a validation section the patients of training
    are divided.

    What is written, its bundle says in the section "prepare" of its train.json: windows round each
    lesion (lesions that touch are one), stacks of whole slices with their label map, masks alone
    (no image needed), or, for --stage autoencoder, patches of whole scans. Train with --dataset_dir
    OUT.

    An interrupted run goes on where it stopped when the same command is given again. Scans that
    cannot be prepared are named in the log, and the command fails; all others are done by then.

    Args:
        datalist: the JSON file; paths in it are relative to its folder, and stay in it.
        out: folder to write: OUT/cases/SCAN/*.nii.gz and OUT/datalist.json, split by patient.
        bundle: name or folder of the model that is to be trained.
        stage: a further training of the bundle: train_STAGE.json, or STAGE.json on top of
            train.json (autoencoder of hr_ldm, cardiac of diffmask).
        classes: label values that are lesions, e.g. 2 or 3,4; otherwise as the bundle says.
        smallest: voxels per side of a window, at least; a multiple of 8.
        largest: lesions that need a larger window are left out, and counted.
        normal_windows: windows without lesion per scan, at most, where its organ_mask is known:
            section normal.
        validation_fraction: about this share of the patients is for validation, by a hash of the
            name, where the datalist has neither a section validation nor folds.
        fold: which fold of the datalist is for validation; with validation_fraction 0, none.
        workers: scans prepared at once; each takes about 1 GB.
        seed: of the split, and of where normal windows lie.
        dataset_dir: folder that the paths may lead to as well; / for any.
        fill_nan: what stands for NaN and infinite values of a scan, which is refused without it: a
            number, or air.
        hu_offset: number added to the values of CT scans that were stored without their intercept,
            such as -1024.
    """
    from tools.prepare.scans import bundle_rule
    from tools.prepare.scans import prepare_scans as run

    changes = {"smallest": smallest, "largest": largest, "normal": normal_windows, "seed": seed}
    rule = bundle_rule(bundle, stage, classes=classes and list(classes), **changes)
    made = run(
        datalist, out, rule, workers, validation_fraction, fold, dataset_dir, fill_nan, hu_offset
    )
    return _made(made, out, "scans")


def prepare_emidec(source: str, out: str) -> Result:
    """Write the hearts of EMIDEC with a true voxel size and a datalist by patient.

    Example: python -m tools prepare emidec --source emidec-dataset-1.0.1.zip --out work/emidec

    An interrupted run goes on where it stopped when the same command is given again. Cases that
    cannot be prepared are named in the log, and the command fails; all others are done by then.

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
    facts: dict[str, Any] = {k: str(v) if isinstance(v, Path) else v for k, v in summary.items()}
    broken = facts.pop("broken", None)
    if broken:
        print(facts)
        for name, reason in broken.items():
            logger.warning("%s could not be prepared: %s", name, reason)
        sentences = a_few(f"{name}: {reason}" for name, reason in broken.items())
        raise ValueError(f"{len(broken)} {noun} could not be prepared: {sentences}")
    shown = ", ".join(f"{key} {value}" for key, value in facts.items())
    return Result(f"{shown}; in {out}", {**facts, "out": out})


def prepare_lidc(
    dicom: str,
    out: str,
    bundle: str = "lefusion_lidc",
    min_readers: int = 3,
    agreement: float = 0.5,
    workers: int = 2,
    size: tuple[int, int, int] = (64, 64, 32),
    normal_rois: int = 3,
    seed: Seed = 0,
    validation_fraction: float = 0.2,
) -> Result:
    """Make consensus masks of LIDC-IDRI as downloaded, and of them what a bundle trains on.

    Example: python -m tools prepare lidc --dicom LIDC-IDRI --out work/lidc --workers 8

    Example: python -m tools prepare lidc --dicom LIDC-IDRI --bundle diffmask --normal_rois 0 --out
        work/masks

    OUT/scans.json lists all series with a map of their nodules and the ratings: prepare scans, with
    --dataset_dir LIDC-IDRI, makes of it what other bundles train on. An interrupted run goes on
    where it stopped when the same command is given again. Scans that cannot be prepared are named
    at the end, and the command fails; all others are done by then. Of the ratings, 1 to 5,
    spiculation and lobulation are 1 for none and 5 for marked; about 100 of the first 399 cases,
    not known by name, were rated by an inconsistent rule.

    Args:
        dicom: the download (patient/study/series), with the radiologists' XML files in it.
        out: folder to write: OUT/scans, OUT/scans.json, OUT/cases/SCAN/*.nii.gz and
            OUT/datalist.json, split by patient, with the sections training, validation and normal
            (lung without any mark).
        bundle: what is to be trained; windows have the size given here, all else is as it says.
        min_readers: nodules outlined by fewer readers are left out.
        agreement: a voxel is in the mask if at least this share of those readers holds it.
        workers: scans prepared at once; each takes about 1 GB.
        size: voxels of a window of 1 mm, e.g. 64,64,32.
        normal_rois: windows without nodule per scan, at most; 0 for none.
        seed: of the split, and of where normal windows lie.
        validation_fraction: about this share of the patients is for validation.
    """
    from tools.prepare.lidc import prepare_lidc as run
    from tools.prepare.scans import bundle_rule

    voxels = list(size) if isinstance(size, tuple | list) else [size]  # checked by run
    rule = bundle_rule(bundle, size=voxels, normal=normal_rois, seed=seed)
    return _made(
        run(dicom, out, rule, min_readers, agreement, workers, validation_fraction), out, "scans"
    )


def prepare_msd(
    source: str,
    out: str,
    bundle: str = "lesion_segmentation",
    stage: str = "",
    workers: int = 1,
    validation_fraction: float = 0.2,
    seed: Seed = 0,
) -> Result:
    """Make masks of an MSD task of an organ with tumours, and of them what a bundle trains on.

    Example: python -m tools prepare msd --source Task03_Liver --out work/liver --workers 4

    Example: python -m tools prepare msd --source Task07_Pancreas --bundle diffmask --out
        work/masks

    OUT/scans.json lists all cases with label map (1 organ, 2 tumour) and organ mask, those without
    a tumour in the section normal: prepare scans, with --dataset_dir of the task, makes of it what
    other bundles train on. An interrupted run goes on where it stopped when the same command is
    given again. Cases that cannot be prepared are named in the log, and the command fails; all
    others are done by then.

    Args:
        source: the unpacked task, with dataset.json: Task03_Liver, Task07_Pancreas.
        out: folder to write: OUT/scans, OUT/scans.json, OUT/cases and OUT/datalist.json, split by
            patient.
        bundle: name or folder of the model that is to be trained.
        stage: a further training of the bundle, as of prepare scans.
        workers: cases prepared at once; each takes about 2 GB.
        validation_fraction: about this share of the patients is for validation.
        seed: of the split.
    """
    from tools.prepare.msd import read_msd

    return _tumours(read_msd(source), out, bundle, stage, workers, validation_fraction, seed)


def prepare_kits(
    source: str,
    out: str,
    bundle: str = "lesion_segmentation",
    stage: str = "",
    workers: int = 1,
    validation_fraction: float = 0.2,
    seed: Seed = 0,
) -> Result:
    """Make masks of KiTS, kidneys with tumours, and of them what a bundle trains on.

    Example: python -m tools prepare kits --source kits19/data --out work/kidney --workers 4

    As prepare msd. Cysts, which later releases tell from tumours, count as kidney.

    Args:
        source: the download: case_X/imaging.nii.gz and case_X/segmentation.nii.gz.
        out: folder to write: OUT/scans, OUT/scans.json, OUT/cases and OUT/datalist.json, split by
            patient.
        bundle: name or folder of the model that is to be trained.
        stage: a further training of the bundle, as of prepare scans.
        workers: cases prepared at once; each takes about 2 GB.
        validation_fraction: about this share of the patients is for validation.
        seed: of the split.
    """
    from tools.prepare.kits import read_kits

    return _tumours(read_kits(source), out, bundle, stage, workers, validation_fraction, seed)


def _tumours(
    release: Any,
    out: str,
    bundle: str,
    stage: str,
    workers: int,
    validation_fraction: float,
    seed: int,
) -> Result:
    from tools.prepare.scans import bundle_rule
    from tools.prepare.tumours import TUMOUR, prepare_tumours

    rule = bundle_rule(bundle, stage, classes=[TUMOUR], seed=seed)
    return _made(prepare_tumours(release, out, rule, workers, validation_fraction), out, "cases")


def prepare_dlcs(
    source: str,
    annotations: str,
    out: str,
    bundle: str = "nodule_classification",
    coordinates: str = "lps",
    workers: int = 1,
    validation_fraction: float = 0.2,
    seed: Seed = 0,
) -> Result:
    """Make masks of the nodules of Duke Lung Cancer Screening, and of them what a bundle trains on.

    Example: python -m tools prepare dlcs --source DLCS24 --annotations DLCSD24_Annotations.csv
        --out work/dlcs --workers 4

    The release has boxes, no outlines: a mask is the ellipsoid in its box. OUT/scans.json lists all
    scans with a map of their nodules and whether each was malignant: prepare scans, with
    --dataset_dir of the download, makes of it what other bundles train on. Otherwise as prepare
    msd.

    Args:
        source: folder of the download, with the scans (.nii.gz) at any depth; scans of the table
            that are not there are counted.
        annotations: the table (CSV) with ct_nifti_file, coordX, coordY, coordZ, w, h, d, and
            perhaps patient-id, nodule_id, Malignant_lbl and benchmark_split.
        out: folder to write: OUT/scans, OUT/scans.json, OUT/cases and OUT/datalist.json, in the
            sections of the release.
        bundle: name or folder of the model that is to be trained.
        coordinates: of the table, in mm: lps, as ITK has them, or ras. A nodule that comes to lie
            outside its scan says that they are the others; look at some.
        workers: scans prepared at once; each takes about 2 GB.
        validation_fraction: about this share of the patients is for validation, where the table
            does not say.
        seed: of the split.
    """
    from tools.prepare.dlcs import prepare_dlcs as run
    from tools.prepare.scans import bundle_rule

    rule = bundle_rule(bundle, seed=seed)
    given = (source, annotations, out, rule, coordinates, workers, validation_fraction)
    return _made(run(*given), out, "scans")


def prepare_phantom(out: str, seed: Seed = 0, kind: str = "chest") -> Result:
    """Write embedded phantom data where it can be opened: a chest CT, hearts in MRI, or livers.

    Example: python -m tools prepare phantom --out work/hearts --kind heart

    Example: python -m tools prepare phantom --out work/livers --kind liver --seed 7

    Args:
        out: folder to write.
        seed: of anatomy and noise.
        kind: chest (a scan with its lung mask), lesion_rois (training windows of nodules), heart
            (a healthy heart, and training stacks with infarct and no-reflow), liver (abdomens with
            and without tumours of the liver, as "study segmentation --preset liver_small" takes
            them), or all but livers.
    """
    from tools.files import claimed
    from tools.phantoms import datasets, heart_datasets

    kinds = ("chest", "lesion_rois", "heart")
    if kind not in (*kinds, "liver", "all"):
        raise ValueError(f"kind must be one of {[*kinds, 'liver', 'all']}, got {kind!r}")
    chosen = kinds if kind == "all" else (kind,)
    hearts = Path(out) / "heart" if kind == "all" else Path(out)
    paths: dict[str, Any] = {}
    with claimed(out, ("phantom_*", "rois", "cases", "datalist.json", "heart")):
        if "chest" in chosen:
            paths |= datasets.write_chest_phantom(out, seed)
        if "lesion_rois" in chosen:
            datasets.write_lesion_rois(out, seed=seed)
            paths["datalist"] = Path(out) / "datalist.json"
        if "heart" in chosen:
            written = heart_datasets.write_heart_phantom(hearts, seed)
            heart_datasets.write_heart_dataset(hearts, seed)
            paths |= {f"heart_{key}": path for key, path in written.items()}
            paths["heart_datalist"] = hearts / "datalist.json"
        if kind == "liver":
            datasets.write_tumour_dataset(out, seed=seed, sections=datasets.STUDY_ABDOMENS)
            paths["datalist"] = Path(out) / "datalist.json"
    return _made(paths, out)
