"""Tiny datasets: real scans with a datalist, and synthetic cases made from scans of any kind."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.export.tiny import SHAPE, box_label, lesion, save, scan_values
from tools.bundle import sha256_file
from tools.synthesis.datalist import write_datalist
from tools.synthesis.records import (
    IMAGE_FILE,
    LABEL_FILE,
    RECORD_FILE,
    BundleRecord,
    ScanRecord,
    write_record,
)


@pytest.fixture
def real_datalist(tmp_path: Path) -> Callable[..., Path]:
    """A writer of real datasets of single scans; entries can be changed before they are written."""

    def write(count: int = 4, testing: int = 1, name: str = "lesion", **extra: object) -> Path:
        folder = tmp_path / "real"
        parts: dict[str, list] = {"training": [], "test": []}
        for index in range(count + testing):
            entry = {"image": f"images/case_{index}.nii.gz"}
            save(folder / entry["image"], scan_values(index))
            if index < count:
                entry["label"] = f"labels/case_{index}.nii.gz"
                save(folder / entry["label"], box_label(1))
            parts["training" if index < count else "test"].append(entry)
        content = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": name}, **parts}
        path = folder / "datalist.json"
        path.write_text(json.dumps(content | extra), encoding="utf-8")
        return path

    return write


@pytest.fixture
def synthetic_dir(tmp_path: Path) -> Callable[..., Path]:
    """A writer of synthetic datasets: case name -> file of its scan, or None for a foreign one."""

    def write(
        sources: dict[str, Path | None], class_name: str = "lesion", lesions: int = 1
    ) -> Path:
        folder = tmp_path / "synthetic"
        cases = []
        for number, (name, source) in enumerate(sources.items()):
            values = scan_values(100 + number) if source is None else nib.load(source).get_fdata()
            values = np.asarray(values).astype(np.int16)
            label = box_label(9) if lesions else np.zeros(SHAPE, np.uint8)
            values[label > 0] += 200
            save(folder / name / IMAGE_FILE, values)
            save(folder / name / LABEL_FILE, label)
            sha256 = f"{number:064d}" if source is None else sha256_file(source)
            made = [lesion(1, class_name)] * lesions
            record = ScanRecord(
                f"{name}.nii.gz", sha256, (1, 1, 2), SHAPE, BundleRecord("tiny", "0.1.0"), made
            )
            write_record(folder / name / RECORD_FILE, record)
            cases.append({"folder": folder / name})
        write_datalist(folder, cases)
        return folder

    return write
