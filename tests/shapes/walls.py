"""Walls to draw lesions in: a ring of known geometry, phantoms of hearts, and what they hold."""

from pathlib import Path

import nibabel as nib
import numpy as np

from tools.organs import load_organ
from tools.phantoms.heart_mr import heart_mr
from tools.shapes import LabelShape, Place

HEART = load_organ("heart")
AFFINE = np.diag([-1.4, -1.4, 10.0, 1.0])


def place_in(label: np.ndarray, affine: np.ndarray) -> Place:
    """The wall of a label map."""
    wall, cavity = np.isin(label, HEART.wall), np.isin(label, HEART.cavity)
    return Place(None, affine, wall, cavity, HEART.values)


def phantom(seed: int, infarct: bool = True, slices: int = 6) -> tuple[Place, np.ndarray]:
    """The wall of a phantom and its label map."""
    made = heart_mr((80, 80, slices), (1.8, 1.8, 14.0), seed, infarct=infarct)
    return place_in(made.label, made.affine), made.label


def ring(
    shape: tuple[int, int, int] = (60, 58, 6), outer_mm: float = 27.0, inner_mm: float = 16.0
) -> tuple[Place, np.ndarray, np.ndarray]:
    """A ventricle widening from apex to base, angle and depth in it."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    x, y = np.moveaxis((index[..., :2] - (30, 28)) @ AFFINE[:2, :2].T, -1, 0)
    widening = 0.7 + 0.3 * (index[..., 2] + 0.5) / shape[2]
    angle, radius = np.arctan2(y, x), np.hypot(x, y) / widening
    depth = (radius - inner_mm) / (outer_mm - inner_mm)
    label = np.where(depth < 0, 1, np.where(depth < 1, 2, 0))
    return place_in(label, AFFINE), angle, depth


def core_share(shape: LabelShape) -> float:
    """Share of a lesion that is of the inner class."""
    return float((shape.label == 4).sum() / (shape.label > 0).sum())


def save(path: Path, label: np.ndarray, affine: np.ndarray) -> Path:
    """Write a label map."""
    nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), path)
    return path
