"""Datasets of a few voxels: real scans with a datalist, synthetic cases made from any scan."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from tools.bundle import sha256_file
from tools.export.cases import read_cases
from tools.export.dataset import ExportCase, ExportChoice, ExportSet
from tools.synthesis.datalist import write_datalist
from tools.synthesis.records import (
    IMAGE_FILE,
    LABEL_FILE,
    RECORD_FILE,
    BundleRecord,
    LesionRecord,
    ScanRecord,
    write_record,
)

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
SHAPE = (16, 16, 12)


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def scan_values(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(60, 20, SHAPE).astype(np.int16)


def box_label(corner: int, value: int = 1) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[corner : corner + 4, 2:6, 2:6] = value
    return label


def named(dataset: ExportSet, name: str) -> ExportCase:
    return next(case for case in dataset.cases if case.name == name)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


class Tiny:
    """A writer of both datasets below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.datalist = folder / "real" / "datalist.json"

    def scan(self, index: int) -> Path:
        return self.folder / f"real/images/case_{index}.nii.gz"

    def real(
        self,
        count: int = 4,
        testing: int = 1,
        name: str = "lesion",
        change: Callable[[dict], object] = lambda content: None,
        **extra: object,
    ) -> Path:
        """Write single scans, labelled ones to train on and others to test on."""
        parts: dict[str, list] = {"training": [], "test": []}
        for index in range(count + testing):
            entry = {"image": f"images/case_{index}.nii.gz"}
            save(self.scan(index), scan_values(index))
            if index < count:
                entry["label"] = f"labels/case_{index}.nii.gz"
                save(self.folder / "real" / entry["label"], box_label(1))
            parts["training" if index < count else "test"].append(entry)
        content = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": name}, **parts}
        self.datalist.write_text(json.dumps(content | extra), encoding="utf-8")
        edit(self.datalist, change)
        return self.datalist

    def synthetic(
        self, class_name: str = "lesion", lesions: int = 1, **sources: Path | None
    ) -> Path:
        """Write cases: name -> file of its scan, None for a foreign one; by default one, ``a``."""
        cases = []
        for number, (name, source) in enumerate((sources or {"a": None}).items()):
            folder = self.folder / "synthetic" / name
            values = scan_values(100 + number) if source is None else nib.load(source).get_fdata()
            values = np.asarray(values).astype(np.int16)
            label = box_label(9) if lesions else np.zeros(SHAPE, np.uint8)
            values[label > 0] += 200
            save(folder / IMAGE_FILE, values)
            save(folder / LABEL_FILE, label)
            sha256 = f"{number:064d}" if source is None else sha256_file(source)
            made = LesionRecord(1, class_name, (0, 0, 0), 5.0, 128.0, "solid", "ellipsoid", 0)
            bundle = BundleRecord("tiny", "0.1.0")
            scan = ScanRecord(f"{name}.nii.gz", sha256, (1, 1, 2), SHAPE, bundle, [made] * lesions)
            write_record(folder / RECORD_FILE, scan)
            cases.append({"folder": folder})
        write_datalist(self.folder / "synthetic", cases)
        return self.folder / "synthetic"

    def read(self, folds: int = 2, **choice: object) -> ExportSet:
        """Read both as they lie there."""
        wanted = ExportChoice(folds=folds, **choice)  # type: ignore[arg-type]
        return read_cases(self.folder / "synthetic", self.datalist, wanted)
