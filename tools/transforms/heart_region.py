"""Where the left ventricle lies in a labelled short-axis stack, and how large its parts are."""

from __future__ import annotations

from typing import Any

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import NDArray

__all__ = ["HEART_CLASSES", "measure_heart"]

HEART_CLASSES = {1: "cavity", 2: "myocardium", 3: "infarct", 4: "no_reflow"}


def measure_heart(label: NDArray[np.integer], affine: NDArray[np.float64]) -> dict[str, Any]:
    """Return what a datalist says of a heart, so that transforms can cut a window round it.

    Args:
        label: ``(I, J, K)``, slices along the last axis; 0 and the values of ``HEART_CLASSES``.
        affine: ``(4, 4)``, voxel indices to RAS mm.

    Returns:
        ``heart_mm`` (RAS), the middle of the box round all classes: a window of that size round it
        holds the whole ventricle; ``heart_extent_mm`` and ``heart_extent_voxels``, the sides of
        the box in the slice; ``pathological``, ``has_no_reflow``; ``volumes_ml`` by class;
        ``spacing_mm``; ``slices``.

    Raises:
        ValueError: if the label is empty.

    Example:
        >>> label = np.zeros((8, 8, 3), np.uint8)
        >>> label[2:6, 1:4, 1] = 3
        >>> heart = measure_heart(label, np.diag([2.0, 2.0, 10.0, 1.0]))
        >>> heart["heart_mm"], heart["heart_extent_mm"], heart["volumes_ml"]["infarct"]
        ([7.0, 4.0, 10.0], [8.0, 6.0], 0.48)
    """
    voxels = np.argwhere(label > 0)
    if not len(voxels):
        raise ValueError("label must mark a heart, got 0 only")
    spacing = voxel_sizes(affine)
    lowest, highest = voxels.min(0), voxels.max(0)
    extent = (highest - lowest + 1)[:2]
    counts = np.bincount(label.ravel(), minlength=len(HEART_CLASSES) + 1)
    millilitres = counts * spacing.prod() / 1000
    return {
        "heart_mm": [round(float(v), 2) for v in apply_affine(affine, (lowest + highest) / 2)],
        "heart_extent_mm": [round(float(v), 1) for v in extent * spacing[:2]],
        "heart_extent_voxels": [int(n) for n in extent],
        "pathological": bool(counts[3] + counts[4]),
        "has_no_reflow": bool(counts[4]),
        "volumes_ml": {n: round(float(millilitres[v]), 3) for v, n in HEART_CLASSES.items()},
        "spacing_mm": [round(float(v), 5) for v in spacing],
        "slices": int(label.shape[2]),
    }
