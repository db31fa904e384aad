"""The pictures of docs/slicer.md, drawn from the volumes that a server returned."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

matplotlib.use("agg")
from matplotlib import pyplot as plt

__all__ = ["draw"]

REACH_MM = 32.0
WINDOW_HU = (-1000, 300)
TEXTURES = (("ground_glass", "ground-glass"), ("part_solid", "part-solid"), ("solid", "solid"))


def draw(work: Path, folder: Path, sites_mm: Sequence[Sequence[float]]) -> list[Path]:
    """Write ``slicer_mask.png`` and ``slicer_nodule.png``.

    Args:
        work: folder with what the server returned.
        folder: to write to, made if need be.
        sites_mm: centre of the mask made from a point, then of the one made from a click.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scan = _volume(work, "chest")
    by_point, by_click = (_volume(work, name) for name in ("mask_point", "mask_click"))
    first, second = sites_mm
    mask = [
        ("the scan, a click", scan, None, second, True),
        ("the mask that comes back", scan, by_click, second, True),
        ("another: centre_mm typed, 16 mm", scan, by_point, first, False),
    ]
    nodule = [("the scan", scan, None, first, False), ("the mask", scan, by_point, first, False)]
    for name, words in TEXTURES:
        image = _volume(work, f"lefusion_lidc_{name}_0")
        nodule.append((words, image, None, first, False))
    return [
        _save(folder / "slicer_mask.png", mask),
        _save(folder / "slicer_nodule.png", nodule),
    ]


def _volume(work: Path, name: str) -> nib.Nifti1Image:
    return nib.load(work / f"{name}.nii.gz")


def _save(path: Path, panels: Sequence[tuple]) -> Path:
    """Draw axial slices side by side, as a radiologist sees them."""
    figure, axes = plt.subplots(1, len(panels), figsize=(2.4 * len(panels), 2.75), dpi=110)
    for axis, (title, image, mask, site, click) in zip(axes, panels, strict=True):
        centre = apply_affine(np.linalg.inv(image.affine), site)
        index = round(centre[2])
        # patient left is on the right of the picture
        extent = [site[0] + REACH_MM, site[0] - REACH_MM, site[1] - REACH_MM, site[1] + REACH_MM]
        shown = {"extent": _extent(image), "origin": "lower", "interpolation": "nearest"}
        values = np.asarray(image.dataobj[..., index]).T
        axis.imshow(values, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], **shown)
        if mask is not None:
            inside = np.asarray(mask.dataobj[..., index]).T
            axis.contour(inside, [0.5], colors="#ffb000", linewidths=1.4, extent=shown["extent"])
        if click:
            axis.plot(*site[:2], "+", color="#4fc3f7", markersize=12, markeredgewidth=2)
        axis.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[], facecolor="black")
        axis.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.4)
    partial = path.with_name(f".{path.name}.part")
    figure.savefig(partial, format="png", metadata={"Software": None})
    plt.close(figure)
    os.replace(partial, path)
    return path


def _extent(image: nib.Nifti1Image) -> list[float]:
    """Return the borders of an axial slice in mm, of a scan along the patient's axes."""
    low = apply_affine(image.affine, (-0.5, -0.5, 0))
    high = apply_affine(image.affine, [n - 0.5 for n in image.shape])
    return [low[0], high[0], low[1], high[1]]
