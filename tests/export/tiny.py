"""Arrays and records of a few voxels."""

from pathlib import Path

import nibabel as nib
import numpy as np

from tools.synthesis.records import LesionRecord

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
SHAPE = (16, 16, 12)


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def scan_values(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(60, 20, SHAPE).astype(np.int16)


def box_label(corner: int, value: int = 1) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[corner : corner + 4, 2:6, 2:6] = value
    return label


def lesion(label: int = 1, class_name: str = "lesion") -> LesionRecord:
    return LesionRecord(label, class_name, (0, 0, 0), 5.0, 128.0, "solid", "ellipsoid", 0)
