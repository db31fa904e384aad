"""Commands that hand synthetic and real cases to training programs."""

from __future__ import annotations

from tools.commands.arguments import Seed
from tools.commands.result import Result

__all__ = ["export_auto3dseg", "export_detection", "export_nnunet"]


def export_auto3dseg(
    synthetic: str,
    out: str,
    real: str | None = None,
    folds: int = 5,
    keep_derived: bool = False,
    copy: bool = False,
    overwrite: bool = False,
    dataset_dir: str | None = None,
    rename: str | None = None,
    classes: str = "",
    modality: str | None = None,
    seed: Seed = 0,
    allow_synthetic_validation: bool = False,
) -> Result:
    """Write a dataset for MONAI's Auto3DSeg: datalist with folds, input.yaml, images and labels.

    Example: python -m tools export auto3dseg out --real data/datalist.json --out exports/lesions

    Synthetic cases are trained on in every fold and validated in none. One that was made from a
    scan of the real dataset (same SHA-256) is left out if that scan is validated or tested on; see
    keep_derived.

    Args:
        synthetic: folder written by synthesize.
        out: folder to write: OUT/datalist.json, input.yaml, imagesTr, labelsTr, imagesTs,
            export.json (what was left out, and why).
        real: datalist in the form of the Decathlon, or a folder that holds one or has
            X_image.nii.gz with X_label.nii.gz. Folds in it are kept, so is a validation list.
        folds: how many, where the datalist has neither folds nor a validation list.
        keep_derived: take scans that synthetic cases were made from out of validation, train on
            them always, and keep all synthetic cases.
        copy: copy files; default: link to them where the file system can.
        overwrite: replace an earlier export.
        dataset_dir: folder that the paths of the real datalist start from; default: its own.
        rename: OLD:NEW, what a class of the synthetic labels is called in the real ones; several
            with commas; the same name twice makes it a class of its own.
        classes: those to write, with commas; the others become background; default: all.
        modality: CT or MRI; default: as the datalists say.
        seed: of the folds.
        allow_synthetic_validation: validate on synthetic cases if there are no real ones.
    """
    from tools.export.auto3dseg import INPUT_FILE
    from tools.export.auto3dseg import export_auto3dseg as run
    from tools.export.dataset import ExportChoice, describe

    choice = ExportChoice(
        *(dataset_dir, rename, _names(classes), modality, folds, seed),
        *(keep_derived, allow_synthetic_validation),
    )
    facts = run(synthetic, real, out, choice, copy, overwrite)
    next_step = (
        "next: python -m monai.apps.auto3dseg AutoRunner run "
        f"--input={facts['out']}/{INPUT_FILE} --work_dir=WORK --algos=segresnet"
    )
    return Result(f"{describe(facts)}\n{next_step}", facts)


def export_nnunet(
    synthetic: str,
    out: str,
    dataset_id: int,
    name: str,
    real: str | None = None,
    preprocessed: str | None = None,
    folds: int = 5,
    keep_derived: bool = False,
    copy: bool = False,
    overwrite: bool = False,
    dataset_dir: str | None = None,
    rename: str | None = None,
    classes: str = "",
    modality: str | None = None,
    seed: Seed = 0,
    allow_synthetic_validation: bool = False,
) -> Result:
    """Write a dataset for nnU-Net v2, with splits that keep synthetic cases out of validation.

    Example: python -m tools export nnunet out --real data/datalist.json --out $nnUNet_raw
        --dataset_id 501 --name Lesions --preprocessed $nnUNet_preprocessed

    A synthetic case that was made from a scan of the real dataset (same SHA-256) is not trained on
    in the fold that validates this scan, and left out if it is tested on.

    Args:
        synthetic: folder written by synthesize.
        out: nnU-Net's folder nnUNet_raw; OUT/Dataset501_NAME is written, by dataset_id.
        dataset_id: number of the dataset, 1 to 999, not taken yet.
        name: of the dataset: letters, digits and _.
        real: datalist in the form of the Decathlon, or a folder that holds one or has
            X_image.nii.gz with X_label.nii.gz. Folds in it are kept, so is a validation list.
        preprocessed: nnU-Net's folder nnUNet_preprocessed: splits_final.json is written there too,
            where nnU-Net looks for it; default: it lies beside dataset.json, to be copied.
        folds: how many, where the datalist has neither folds nor a validation list.
        keep_derived: take scans that synthetic cases were made from out of validation, and train
            on all synthetic cases in every fold.
        copy: copy files; default: link to them where the file system can.
        overwrite: replace an earlier export and its splits.
        dataset_dir: folder that the paths of the real datalist start from; default: its own.
        rename: OLD:NEW, what a class of the synthetic labels is called in the real ones; several
            with commas; the same name twice makes it a class of its own.
        classes: those to write, with commas; the others become background; default: all.
        modality: CT or MRI; default: as the datalists say.
        seed: of the folds.
        allow_synthetic_validation: validate on synthetic cases if there are no real ones.
    """
    from tools.export.dataset import ExportChoice, describe
    from tools.export.nnunet import export_nnunet as run

    choice = ExportChoice(
        *(dataset_dir, rename, _names(classes), modality, folds, seed),
        *(keep_derived, allow_synthetic_validation),
    )
    facts = run(
        *(synthetic, real, out, dataset_id, name, preprocessed),
        *(choice, copy, overwrite),
    )
    number = f"{dataset_id:03d}"
    lines = [describe(facts)]
    blocked = len(facts["not_in_fold"])
    if blocked:
        those = "case sits" if blocked == 1 else "cases sit"
        whose = "its" if blocked == 1 else "their"
        lines.append(f"{blocked} synthetic {those} out the fold that validates {whose} scan")
    if preprocessed is None:
        lines.append(
            f"before training: cp {facts['splits']} "
            f"$nnUNet_preprocessed/Dataset{number}_{name}/  (else nnU-Net splits by chance)"
        )
    lines.append(f"next: nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity")
    return Result("\n".join(lines), facts)


def export_detection(
    synthetic: str,
    out: str,
    form: str = "monai",
    real: str | None = None,
    box_mode: str = "cccwhd",
    coordinates: str = "RAS",
    folds: int = 5,
    keep_derived: bool = False,
    copy: bool = False,
    overwrite: bool = False,
    dataset_dir: str | None = None,
    rename: str | None = None,
    classes: str = "",
    modality: str | None = None,
    seed: Seed = 0,
    allow_synthetic_validation: bool = False,
) -> Result:
    """Write a dataset for MONAI's detection module or nnDetection: images and lesions one by one.

    Example: python -m tools export detection out --real data/datalist.json --out exports/boxes

    Example: python -m tools export detection out --form nndetection --real data/datalist.json --out
        det_data/Task021_Nodules/raw_splitted

    A lesion of a synthetic case is what ``synthesize --instances`` wrote in instances.nii.gz; where
    that is not there, and in real cases, it is what hangs together in the label. Synthetic cases
    are trained on only, and never where their scan is validated or tested.

    Args:
        synthetic: folder written by synthesize.
        out: folder to write: images, export.json, and of monai OUT/dataset_fold0.json, ... with
            the keys image, box (mm) and label (class from 0); of nndetection labelsTr with numbers
            of lesions and their classes (JSON), dataset.json and splits_final.pkl, which goes to
            the folder preprocessed of the task.
        form: monai or nndetection.
        real: datalist in the form of the Decathlon, or a folder that holds one or has
            X_image.nii.gz with X_label.nii.gz. Folds in it are kept, so is a validation list.
        box_mode: cccwhd (middle and sides) or xyzxyz (two corners), of monai.
        coordinates: RAS, or LPS (affine_lps_to_ras of MONAI's transforms), of monai.
        folds: how many, where the datalist has neither folds nor a validation list.
        keep_derived: take scans that synthetic cases were made from out of validation, and train
            on all synthetic cases in every fold.
        copy: copy files; default: link to them where the file system can.
        overwrite: replace an earlier export.
        dataset_dir: folder that the paths of the real datalist start from; default: its own.
        rename: OLD:NEW, what a class of the synthetic labels is called in the real ones; several
            with commas; the same name twice makes it a class of its own.
        classes: those to write, with commas; the others become background; default: all.
        modality: CT or MRI; default: as the datalists say.
        seed: of the folds.
        allow_synthetic_validation: validate on synthetic cases if there are no real ones.
    """
    from tools.export.dataset import ExportChoice, describe
    from tools.export.detection import export_detection as run

    choice = ExportChoice(
        *(dataset_dir, rename, _names(classes), modality, folds, seed),
        *(keep_derived, allow_synthetic_validation),
    )
    facts = run(synthetic, real, out, form, box_mode, coordinates, choice, copy, overwrite)
    return Result(f"{describe(facts)}\n{facts['lesions']} lesions, one by one", facts)


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, text.split(","))))
