"""What the volumes that a MONAI Label server returns must be; each check names what is wrong."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Mapping, Sequence

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

__all__ = [
    "changed_only_near",
    "in_sphere",
    "options_missing",
    "ordered",
    "read_volume",
    "same_grid",
]

WANTED = {
    "diffmask": ("diameter_mm", "centre_mm", "num_inference_steps", "seed"),
    "diffmask_deepgrow": ("diameter_mm", "centre_mm", "num_inference_steps", "seed"),
    "lefusion_lidc": ("texture", "num_inference_steps", "seed"),
    "hr_ldm": ("texture", "num_inference_steps", "seed"),
}


def read_volume(body: bytes) -> nib.Nifti1Image:
    """Return the volume in the body of a response.

    Raises:
        ValueError: if the body is no gzipped NIfTI file.
    """
    try:
        return nib.Nifti1Image.from_bytes(gzip.decompress(body))
    except (OSError, nib.wrapstruct.WrapStructError) as error:
        raise ValueError(f"answer must be a volume (.nii.gz), got {body[:80]!r}") from error


def options_missing(info: bytes) -> list[str]:
    """Return the models and options that ``/info/`` lacks."""
    models = json.loads(info).get("models", {})
    faults = [f"no model {name}" for name in WANTED if name not in models]
    for name, options in WANTED.items():
        shown: Mapping = models.get(name, {}).get("config", {})
        faults += [f"{name} shows no {option}" for option in options if option not in shown]
    if models.get("diffmask_deepgrow", {}).get("type") != "deepgrow":
        faults.append("diffmask_deepgrow must be of type deepgrow, or 3D Slicer sends no clicks")
    return faults


def same_grid(result: nib.Nifti1Image, scan: nib.Nifti1Image) -> list[str]:
    """Return what differs between the grids of two volumes."""
    faults = []
    if result.shape != scan.shape:
        faults.append(f"shape must be {scan.shape}, got {result.shape}")
    if not np.allclose(result.affine, scan.affine, atol=1e-4):
        faults.append(f"affine must be that of the scan, got {result.affine.round(3).tolist()}")
    return faults


def in_sphere(
    mask: nib.Nifti1Image, centre_mm: Sequence[float], diameter_mm: float, fill: float = 0.7
) -> list[str]:
    """Return how a mask misses the sphere that was asked for.

    Args:
        mask: 0 and 1.
        centre_mm: RAS mm.
        diameter_mm: of the sphere.
        fill: the lesion's own extent must be at least this part of the diameter.
    """
    values = np.asarray(mask.dataobj)
    if not np.isin(values, (0, 1)).all():
        return [f"mask must hold 0 and 1, got {np.unique(values)[:5].tolist()}"]
    points = apply_affine(mask.affine, np.argwhere(values > 0))
    if not len(points):
        return ["mask must hold a lesion, got none"]
    reach = float(np.linalg.norm(points - np.asarray(centre_mm, float), axis=1).max())
    extent = float((np.ptp(points, axis=0) + voxel_sizes(mask.affine)).max())
    faults = []
    if reach > diameter_mm / 2:
        faults.append(f"mask must stay within {diameter_mm / 2} mm, got {reach:.2f} mm")
    if extent < fill * diameter_mm:
        faults.append(f"mask must be {fill * diameter_mm:.1f} mm at least, got {extent:.1f} mm")
    return faults


def changed_only_near(
    result: nib.Nifti1Image,
    scan: nib.Nifti1Image,
    lesion: np.ndarray,
    margin_mm: float = 0.0,
) -> list[str]:
    """Return where a synthetic image breaks its promise: new in the mask, equal from the margin on.

    Args:
        result: synthetic image.
        scan: what it was made from.
        lesion: True inside the mask.
        margin_mm: voxels at this distance and farther must be equal.
    """
    faults = same_grid(result, scan)
    if faults:
        return faults
    changed = np.asarray(result.dataobj) != np.asarray(scan.dataobj)
    untouched = ~lesion
    if margin_mm > 0:
        distance = ndimage.distance_transform_edt(~lesion, sampling=voxel_sizes(scan.affine))
        untouched = distance >= margin_mm
    if changed[untouched].any():
        faults.append(
            f"{int(changed[untouched].sum())} voxels outside the mask differ from the scan"
        )
    share = float(changed[lesion].mean()) if lesion.any() else 0.0
    if share < 0.9:
        faults.append(f"at least 90 % of the mask must be new, got {100 * share:.0f} %")
    return faults


def ordered(values: Mapping[str, float], step: float = 20.0) -> list[str]:
    """Return nothing if each value is above the one before by ``step``, else what is not so.

    Example:
        >>> ordered({"ground_glass": -400.0, "part_solid": -200.0, "solid": -210.0})
        ['solid must be at least 20 above part_solid, got -210 and -200']
    """
    names = list(values)
    return [
        f"{second} must be at least {step:.0f} above {first}, "
        f"got {values[second]:.0f} and {values[first]:.0f}"
        for first, second in itertools.pairwise(names)
        # this way round, a missing value (NaN) is a fault
        if not values[second] >= values[first] + step
    ]
