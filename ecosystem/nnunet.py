"""What `make nnunet-test` does: nnU-Net v2 takes an exported dataset and its splits.

Phantom cubes with nodules play the real dataset. Synthetic nodules go into two of them, which
nnU-Net must not train on where the cubes themselves are validated, and into a phantom chest. The
commands of this repository run in the environment of this script, those of nnU-Net in its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from ecosystem.work import empty_work_folder
from tools.files import write_json
from tools.phantoms.datasets import write_chest_phantom, write_lesion_rois
from tools.scans.reader import open_image

ROOT = Path(__file__).resolve().parents[1]
DATASET_ID, NAME, FOLDS = 501, "Lesions", 3
DATASET = f"Dataset{DATASET_ID:03d}_{NAME}"
DERIVED = ("phantom_000", "phantom_001")
# asks the trainer itself; runs where nnU-Net is installed
ASK_TRAINER = """
import json, sys, torch
from pathlib import Path
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
folder, folds, answer = Path(sys.argv[1]), int(sys.argv[2]), []
for fold in range(folds):
    plans = load_json(str(folder / "nnUNetPlans.json")) | {"continue_training": False}
    dataset = load_json(str(folder / "dataset.json"))
    trainer = nnUNetTrainer(plans, "3d_fullres", fold, dataset, torch.device("cpu"))
    trained, validated = trainer.get_tr_and_val_datasets()
    answer.append({"train": sorted(trained.identifiers), "val": sorted(validated.identifiers)})
Path(sys.argv[3]).write_text(json.dumps(answer))
"""


def main() -> int:
    """Make the dataset, let nnU-Net check it, ask its trainer for the splits, print a verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", default=".venv-nnunet", help="folder of nnU-Net's Python")
    parser.add_argument("--work", default="out/nnunet-test", help="folder to write, emptied first")
    arguments = parser.parse_args()
    programs, work = Path(arguments.environment).absolute() / "bin", Path(arguments.work).absolute()
    empty_work_folder(work)
    real = make_real(work / "real")
    make_synthetic(work, real)
    folders = {f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")}
    words = ["export", "nnunet", work / "synthetic", "--real", real, "--folds", FOLDS]
    words += ["--rename", "lesion:nodule", "--out", folders["nnUNet_raw"]]
    words += ["--dataset_id", DATASET_ID, "--name", NAME]
    run([sys.executable, "-m", "tools", *words, "--preprocessed", folders["nnUNet_preprocessed"]])
    plan = ["-d", DATASET_ID, "--verify_dataset_integrity", "-c", "3d_fullres", "-np", 1]
    run([programs / "nnUNetv2_plan_and_preprocess", *plan, "-npfp", 1], folders)
    answer = work / "splits_used.json"
    place = Path(folders["nnUNet_preprocessed"]) / DATASET
    run([programs / "python", "-c", ASK_TRAINER, place, FOLDS, answer], folders)
    faults = judge(json.loads(answer.read_text(encoding="utf-8")))
    print("\n".join(faults) or f"passed: nnU-Net validates on no synthetic case in {FOLDS} folds")
    return 1 if faults else 0


def make_real(folder: Path) -> Path:
    """Write the cubes as one section without folds; return its datalist."""
    content = write_lesion_rois(folder, count=7)
    entries = content["training"] + content["validation"]
    listed = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "nodule"}}
    return write_json(
        folder / "all.json", listed | {"training": entries[:-1], "test": entries[-1:]}
    )


def make_synthetic(work: Path, real: Path) -> None:
    """Put one nodule into two of the cubes and into a chest."""
    chest = write_chest_phantom(work / "chest", shape=(96, 80, 72), spacing_mm=4.0)
    scans = [{"image": chest["image"], "lung": chest["lung"]}]
    for entry in json.loads(real.read_text(encoding="utf-8"))["training"]:
        if any(name in entry["image"] for name in DERIVED):
            image = open_image(real.parent / entry["image"], "image")
            mask = work / "chest" / f"{Path(entry['image']).name.split('_image')[0]}_lung.nii.gz"
            nib.save(nib.Nifti1Image(np.ones(image.shape, np.uint8), image.affine), mask)
            paths = {"image": real.parent / entry["image"], "label": real.parent / entry["label"]}
            scans.append({"lung": str(mask)} | {key: str(path) for key, path in paths.items()})
    listed = write_json(work / "scans.json", {"training": scans})
    words = ["synthesize", "--scan", listed, "--out", work / "synthetic", "--shape", "ellipsoid"]
    words += ["--count", 1, "--diameter_mm", 8, "--texture", "solid", "--steps", 4]
    run([sys.executable, "-m", "tools", *words, "--attempts", 1, "--device", "cpu"])


def run(words: list, variables: dict[str, str] | None = None) -> None:
    """Run a command at the root of the repository; its failure ends this script."""
    quiet = {"CUDA_VISIBLE_DEVICES": "", "nnUNet_compile": "f", "nnUNet_n_proc_DA": "1"}
    environment = os.environ | quiet | (variables or {})
    print("$", *[word for word in map(str, words) if "\n" not in word], flush=True)
    subprocess.run([str(word) for word in words], cwd=ROOT, env=environment, check=True)


def judge(splits: list[dict[str, list[str]]]) -> list[str]:
    """Return what is wrong with the splits that nnU-Net uses."""
    faults = []
    for fold, split in enumerate(splits):
        made = [name for name in split["val"] if name.startswith("synthetic")]
        faults += [f"fold {fold} validates on {name}" for name in made]
        for name in DERIVED:
            trained = any(name in case for case in split["train"] if case.startswith("synthetic"))
            if f"real_{name}" in split["val"] and trained:
                faults.append(f"fold {fold} trains on a copy of {name} and validates on it")
    if sum(case.startswith("synthetic") for split in splits for case in split["train"]) != 7:
        faults.append(f"3 + 2 * 2 synthetic places in training were expected, got {splits}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
