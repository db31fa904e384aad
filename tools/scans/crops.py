"""Lesions cut out of scans with some of their surroundings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from tools.scans.scan import Scan

__all__ = ["Crop", "lesion_crops"]

MARGIN_MM = 10.0
SMALLEST_MM3 = 14.0


class Crop(NamedTuple):
    """A lesion with its surroundings, on the grid of its scan."""

    name: str
    patient: str
    image: np.ndarray  # in the scan's units
    mask: np.ndarray
    spacing_mm: tuple[float, ...]
    affine: np.ndarray  # voxel of the image to RAS mm
    subtype: str = ""  # where it is known

    @property
    def centre_mm(self) -> tuple[float, ...]:
        """Middle of the mask, RAS mm."""
        return tuple(apply_affine(self.affine, np.argwhere(self.mask).mean(0)).tolist())

    @property
    def diameter_mm(self) -> float:
        """Of the sphere with the lesion's volume."""
        return float((6 * self.mask.sum() * np.prod(self.spacing_mm) / np.pi) ** (1 / 3))


def lesion_crops(
    scan: Scan, inside: np.ndarray, name: str, patient: str, margin_mm: float = MARGIN_MM
) -> Iterator[Crop]:
    """Yield the connected lesions of a scan of 14 mm3 or more, each with a margin round it.

    Args:
        scan: the image.
        inside: True in lesions, on the scan's grid.
        name: of the scan; lesions are numbered after it.
        patient: whose scan it is.
        margin_mm: shown on each side, as far as the scan reaches.
    """
    parts, _ = ndimage.label(inside, np.ones((3, 3, 3)))
    margin = np.ceil(margin_mm / np.array(scan.spacing_mm)).astype(int)
    voxel = float(np.prod(scan.spacing_mm))
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        if (parts[box] == number).sum() * voxel < SMALLEST_MM3:
            continue
        sides = zip(box, margin, strict=True)
        wide = tuple(slice(max(0, part.start - m), part.stop + m) for part, m in sides)
        image = np.asarray(scan.image[wide], np.float32)
        affine = scan.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [part.start for part in wide]
        mask = parts[wide] == number
        yield Crop(f"{name}_{number}", patient, image, mask, scan.spacing_mm, affine)
