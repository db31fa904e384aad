"""The liver in a CT of the portal-venous phase by thresholds and morphology: no weights."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from scipy import ndimage

from tools.organs.coarse_grid import (
    block_factors,
    block_mean,
    close_gaps,
    dilate,
    erode,
    expand_mask,
    largest_part,
    voxel_spacing,
)
from tools.scans.changed import PackedMask

SOFT_HU = (45.0, 200.0)  # an enhanced liver, without fat and bone
BODY_HU = -250.0
SMOOTHING_MM = 2.5
CORE_MM = 9.0  # thicker than muscle, bowel and vessels: the core of the liver
SPREAD_HU = (18.0, 30.0)  # half-width of the band round the liver's own level, least and most
OPENING_MM = 5.0  # bridges to heart, stomach, kidney and muscle are thinner
CLOSING_MM = 14.0  # vessels, tumours
DARKEST_HU = 25.0  # that closing adds: a tumour, not fat
MIN_VOLUME_MM3 = 2e5


def liver_mask(image_hu: np.ndarray, affine: np.ndarray) -> PackedMask:
    """Segment the liver of a CT in the portal-venous phase without any learned weights.

    Works on blocks of about 2 mm. The thickest homogeneous soft tissue right of the middle of the
    body gives the liver's level; what has it, opened by 5 mm, in one piece with that core, is
    closed over 14 mm with soft tissue and filled slice by slice, so that vessels and tumours
    inside belong to it. Large tumours at the surface stay outside; in other phases, with fatty
    livers and after surgery expect errors: a mask that was looked at is better.

    Raises:
        ValueError: if ``image_hu`` is not three-dimensional or shows no liver of at least 0.2 l.

    Example:
        >>> scan = np.full((80, 80, 60), -90, np.int16)
        >>> scan[45:75, 20:60, 10:50] = 110
        >>> mask = liver_mask(scan, np.diag([2.5, 2.5, 2.5, 1]))
        >>> bool(mask[48:72, 23:57, 13:47].all()), mask.sum() < 60000
        (True, True)
    """
    if image_hu.ndim != 3:
        raise ValueError(f"image_hu must have 3 dimensions, got shape {image_hu.shape}")
    spacing = voxel_spacing(affine)
    factors = block_factors(spacing)
    turn = nib.io_orientation(affine)
    coarse = block_mean(image_hu, factors).clip(-500, 400)
    coarse = nib.apply_orientation(coarse, turn)  # to right, front and head
    block_mm = (spacing * factors)[np.argsort(turn[:, 0])]
    smooth = ndimage.gaussian_filter(coarse, SMOOTHING_MM / block_mm)
    core = _core(smooth, block_mm)
    level = float(np.median(smooth[core]))
    spread = 3 * 1.4826 * float(np.median(np.abs(smooth[core] - level)))
    band = np.abs(smooth - level) <= np.clip(spread, *SPREAD_HU)
    seed = largest_part(erode(band, OPENING_MM, block_mm), core)
    liver = band & dilate(seed, OPENING_MM + 1, block_mm)
    liver = largest_part(liver)
    known = (smooth >= DARKEST_HU) & (smooth <= level + 2 * SPREAD_HU[1])
    liver |= close_gaps(liver, CLOSING_MM, block_mm) & known
    for k in range(liver.shape[2]):
        liver[..., k] = ndimage.binary_fill_holes(liver[..., k])
    if liver.sum() * block_mm.prod() < MIN_VOLUME_MM3:
        raise _none()
    back = nib.apply_orientation(liver, _inverse(turn)).astype(bool)
    return expand_mask(back, factors, image_hu.shape)


def _core(smooth: np.ndarray, block_mm: np.ndarray) -> np.ndarray:
    """Return the largest thick part of soft tissue right of the middle of the body."""
    body = largest_part(smooth > BODY_HU)
    soft = (smooth > SOFT_HU[0]) & (smooth < SOFT_HU[1])
    edge = ndimage.gaussian_gradient_magnitude(smooth, 2.0 / block_mm)  # HU a block
    thick = erode(soft & (edge < 8.0), CORE_MM, block_mm)
    if body.any():
        middle = float(np.nonzero(body)[0].mean())
        thick[: int(middle)] = False
    if not thick.any():
        raise _none()
    return largest_part(thick)


def _inverse(turn: np.ndarray) -> np.ndarray:
    """Return the orientation that undoes another."""
    plain = nib.orientations.axcodes2ornt(("R", "A", "S"))
    return nib.orientations.ornt_transform(plain, turn)


def _none() -> ValueError:
    return ValueError(
        f"image_hu must show a liver of the portal-venous phase ({SOFT_HU[0]:g} to "
        f"{SOFT_HU[1]:g} HU, 200 ml or more), found none"
    )
