"""Both lungs in a chest CT by thresholds and morphology: no weights, any orientation."""

from collections.abc import Sequence

import nibabel as nib
import numpy as np
from scipy import ndimage
from skimage.morphology import remove_small_objects

from tools.organs.coarse_grid import (
    block_factors,
    block_mean,
    close_gaps,
    dilate,
    erode,
    expand_mask,
    part_sizes,
    voxel_spacing,
)
from tools.scans.changed import PackedMask, give_back_memory

AIR_HU = -400.0  # half way between parenchyma and soft tissue
PURE_AIR_HU = -950.0  # below: outside air, trachea, bowel gas
TISSUE_HU = (-945.0, -600.0)  # median of an aerated lung
MIN_VOLUME_MM3 = 2e4
MIN_SHARE = 0.05  # of the largest part; smaller parts are bowel or noise
OPENING_MM = 4.0  # thicker than partial-volume shells round gas
CLOSING_MM = 10.0  # vessels, nodules at the pleura
MAX_HOLE_MM2 = 1500.0  # per axial slice: a tumour, never the mediastinum


def lung_mask(image_hu: np.ndarray, affine: np.ndarray) -> PackedMask:
    """Segment both lungs of a chest CT without any learned weights.

    Works on blocks of about 2 mm: air that is not pure (neither outside nor trachea, main
    bronchi or bowel gas), opened, the large parts of which are closed over 10 mm so that
    vessels and nodules at the pleura belong to the lung. Lungs cut by the border of the
    volume are kept. Large consolidations and tumours that reach the chest wall stay outside. Values
    below -1024 HU (padding) count as air; any orientation and spacing will do.

    Raises:
        ValueError: if ``image_hu`` is not three-dimensional or shows no lung of at least 20 ml.

    Example:
        >>> import numpy as np
        >>> scan = np.full((60, 60, 40), 40, np.int16)
        >>> scan[20:40, 20:40, 5:35] = -850
        >>> int(lung_mask(scan, np.diag([2.0, 2.0, 2.0, 1.0]))[20:40, 20:40, 5:35].mean() > 0.9)
        1
    """
    if image_hu.ndim != 3:
        raise ValueError(f"image_hu must have 3 dimensions, got shape {image_hu.shape}")
    spacing = voxel_spacing(affine)
    factors = block_factors(spacing)
    axial = int(np.argmax(nib.io_orientation(affine)[:, 0] == 2))
    coarse = np.moveaxis(np.maximum(block_mean(image_hu, factors), -1024), axial, -1)
    block_mm = spacing * factors
    block_mm = np.append(np.delete(block_mm, axial), block_mm[axial])

    outside, gas = _pure_air(coarse, block_mm)
    give_back_memory()
    lungs = _parenchyma(coarse, outside, gas, block_mm)
    del coarse
    give_back_memory()
    airways = _without_bullae(gas, lungs, block_mm)
    closed = np.zeros_like(lungs)
    parts, count = ndimage.label(lungs)
    for part in range(1, count + 1):  # one by one: closing must not bridge the two lungs
        closed |= close_gaps(parts == part, CLOSING_MM, block_mm)
    closed = _fill_slices(closed, block_mm) & ~dilate(airways, 2.0, block_mm) & ~outside
    del parts
    give_back_memory()
    return expand_mask(np.moveaxis(closed, -1, axial), factors, image_hu.shape)


def _pure_air(coarse: np.ndarray, block_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split pure air into the outside (touches a lateral face) and enclosed gas."""
    smooth = ndimage.gaussian_filter(coarse, 2.0 / block_mm)
    pure = smooth < PURE_AIR_HU
    labels, _ = ndimage.label(pure)
    faces = (labels[[0, -1]], labels[:, [0, -1]])  # not the axial ends: trachea and lungs are cut
    outside = _parts(labels, [np.unique(face) for face in faces])
    gas = pure & ~outside
    del smooth, labels  # each is four times a mask, and what follows needs the room
    opened = dilate(erode(gas, 3.0, block_mm), 4.0, block_mm)
    return outside, gas & opened


def _parenchyma(
    coarse: np.ndarray, outside: np.ndarray, gas: np.ndarray, block_mm: np.ndarray
) -> np.ndarray:
    """Keep the large aerated parts that look like lung and lie inside the body."""
    air = coarse < AIR_HU
    tissue = air & ~dilate(outside, 4.0, block_mm) & ~dilate(gas, 2.0, block_mm)
    core = erode(tissue, max(OPENING_MM, 1.5 * block_mm.max()), block_mm)
    # The opening is only the seed: thin recesses next to it come back.
    tissue &= dilate(core, 2 * OPENING_MM, block_mm)
    del core
    give_back_memory()
    covered, sides = _inside_body(coarse, outside, block_mm)
    labels, count = ndimage.label(tissue)
    index = np.arange(1, count + 1)
    volume = part_sizes(labels, count)[1:] * block_mm.prod()
    keep = []
    for part in index[volume >= max(MIN_VOLUME_MM3, MIN_SHARE * volume.max(initial=0))]:
        mask = labels == part
        # With a rim: what surrounds bowel gas is a shell; the rim shows the gas.
        rim = coarse[dilate(mask, 6.0, block_mm) & air]
        if _is_lung(mask, rim, covered, sides):
            keep.append(part)
    if not keep:
        raise ValueError(
            "image_hu must show lung (20 ml or more of tissue between "
            f"{TISSUE_HU[0]:g} and {TISSUE_HU[1]:g} HU), found none among {count} aerated regions"
        )
    return _parts(labels, [keep])


def _parts(labels: np.ndarray, numbers: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
    """Return where labels have one of these numbers; 0 is none."""
    wanted = np.zeros(labels.max() + 1, bool)
    wanted[np.concatenate(numbers)] = True
    wanted[0] = False
    return wanted[labels]


def _inside_body(
    coarse: np.ndarray, outside: np.ndarray, block_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Follow the four lateral rays of every voxel to the body or the face of the volume.

    Return whether no ray ends in outside air, and how many of them meet the body.
    """
    solid = coarse > -300
    opened = dilate(erode(solid, OPENING_MM, block_mm), OPENING_MM, block_mm)
    labels, count = ndimage.label(solid & opened)
    sizes = part_sizes(labels, count)
    sizes[0] = 0
    body = (sizes >= 0.2 * max(1, sizes.max()))[labels]  # small solid parts belong to the table
    covered, sides = np.ones(coarse.shape, bool), np.zeros(coarse.shape, np.uint8)
    for axis in (0, 1):
        for side in (slice(None), slice(None, None, -1)):
            view = tuple(side if a == axis else slice(None) for a in range(3))
            met = np.logical_or.accumulate(body[view], axis)
            sides[view] += met
            covered[view] &= met | ~outside[view].take([0], axis)
    return covered, sides


def _is_lung(mask: np.ndarray, rim: np.ndarray, covered: np.ndarray, sides: np.ndarray) -> bool:
    """Judge an aerated part by the HU values in and round it and by what surrounds it."""
    if not TISSUE_HU[0] <= np.median(rim) <= TISSUE_HU[1] or covered[mask].mean() < 0.9:
        return False
    # The foam of a table has the body on one side, a lung at the corner of a crop on two; a crop
    # within a lung shows no body but reaches all faces.
    faces = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    return bool(sides[mask].mean() >= 1.5 or all(face.any() for face in faces))


def _without_bullae(gas: np.ndarray, lungs: np.ndarray, block_mm: np.ndarray) -> np.ndarray:
    """Return the gas outside the lungs; gas almost wholly wrapped in lung (bulla) is left out."""
    labels, _ = ndimage.label(gas)
    near_lung = dilate(lungs, 4.0, block_mm)
    airways = gas.copy()
    for part, box in enumerate(ndimage.find_objects(labels), start=1):
        grown = tuple(slice(max(0, s.start - 3), s.stop + 3) for s in box)
        mask = labels[grown] == part
        shell = dilate(mask, 4.0, block_mm) & ~mask
        if shell.any() and (near_lung[grown] & shell).sum() > 0.7 * shell.sum():
            airways[grown] &= ~mask
    return airways


def _fill_slices(mask: np.ndarray, block_mm: np.ndarray) -> np.ndarray:
    """Fill holes of up to 15 square centimetres in every axial slice (last axis)."""
    limit = int(MAX_HOLE_MM2 / (block_mm[0] * block_mm[1]))
    filled = mask.copy()
    for k in range(mask.shape[-1]):
        # Background that reaches the border of a crop is no hole, however small.
        holes = ndimage.binary_fill_holes(mask[..., k]) & ~mask[..., k]
        filled[..., k] |= holes & ~remove_small_objects(holes, max_size=limit)
    return filled
