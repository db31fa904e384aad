"""A computed abdominal CT: liver, pancreas, kidneys and spleen, on which everything runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tools.phantoms.chest_ct import Nodule, band_noise, paint_nodule, place_nodules
from tools.phantoms.painter import Build, Painter

__all__ = ["ORGANS", "AbdomenPhantom", "abdomen_ct", "draw_tumours"]

TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("abdomen.json").read_text())
ORGANS: dict[str, int] = TABLE["organs"]
NOISE_HU = 13.0
_BODY_STEP_MM = 4.0


class AbdomenPhantom(NamedTuple):
    """An abdominal CT in HU with everything known about it; axes to right, front and head (RAS)."""

    image: NDArray[np.int16]
    organs: NDArray[np.uint8]  # values of ``ORGANS``; tumours belong to their organ
    lesion_mask: NDArray[np.uint8]
    affine: NDArray[np.float64]  # voxel indices to mm


def abdomen_ct(
    shape: tuple[int, int, int] = (176, 132, 120),
    spacing_mm: float | tuple[float, float, float] = 2.0,
    seed: int = 0,
    tumours: Sequence[Nodule] = (),
    centre_mm: Sequence[float] = (0.0, 0.0, 0.0),
) -> AbdomenPhantom:
    """Compute a CT of an adult's upper abdomen in the portal-venous phase.

    The anatomy (``abdomen.json``) is defined in mm, so grids of any spacing show the same body, as
    :func:`tools.phantoms.chest_ct.chest_ct` has it. The default grid is 352 x 264 x 240 mm; its
    middle lies at ``centre_mm``.

    Raises:
        ValueError: if ``shape`` has an axis below 8 voxels, or the spacing is not positive.

    Example:
        >>> phantom = abdomen_ct((22, 18, 16), spacing_mm=16.0)
        >>> sorted(np.unique(phantom.organs).tolist())
        [0, 1, 2, 3, 4]
    """
    spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=float), 3)
    if len(shape) != 3 or min(shape) < 8:
        raise ValueError(f"shape must be three axes of at least 8 voxels, got {tuple(shape)}")
    if (spacing <= 0).any():
        raise ValueError(f"spacing_mm must be > 0, got {spacing_mm}")
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = centre_mm - spacing * (np.array(shape) - 1) / 2
    axes = [affine[a, 3] + spacing[a] * np.arange(shape[a]) for a in range(3)]
    rng = np.random.default_rng([seed, 14])
    painter = Painter(TABLE, axes, _build(seed), rng)
    painter.paint(TABLE["parts"])
    organs = np.zeros(shape, np.uint8)
    for name, value in ORGANS.items():
        organs[_organ(painter, name) > 0] = value
    lesion = np.zeros(shape, dtype=np.uint8)
    for tumour in tumours:
        lesion[paint_nodule(painter, axes, tumour, TABLE)] = 1
    noise = band_noise(painter, spacing) * np.float32(NOISE_HU)
    noise *= np.where(painter.image < -990, np.float32(0.6), np.float32(1))
    image = ndimage.gaussian_filter(painter.image, 0.55 / spacing) + noise
    stored = np.clip(np.round(image), -1024, 3071).astype(np.int16)
    return AbdomenPhantom(stored, organs, lesion * (organs > 0), affine)


def draw_tumours(
    seed: int, organ: str, count: int, diameter_mm: tuple[float, float] = (8.0, 24.0)
) -> list[Nodule]:
    """Draw tumours for an organ of the body of a seed, of longest diameters between two limits.

    Raises:
        RuntimeError: if the organ has no room for a tumour.
    """
    rng = np.random.default_rng([seed, 15])
    return place_nodules(_room(seed, organ), rng, count, diameter_mm, tuple(TABLE["nodules"]))


def _build(seed: int) -> Build:
    return Build.draw(TABLE, np.random.default_rng([seed, 16]))


def _organ(painter: Painter, name: str) -> Any:
    """Return the distance to the surface of an organ; the fat in a kidney is none of it."""
    own = painter.distance[name]
    return np.minimum(own, -painter.distance["sinus"]) if name == "kidney" else own


@lru_cache(maxsize=8)
def _room(seed: int, organ: str) -> NDArray[np.float64]:
    """Return points in an organ in RAS mm and how deep they lie, ``(n, 4)``."""
    axes = [np.arange(-extent, extent, _BODY_STEP_MM) for extent in (140.0, 110.0, 110.0)]
    painter = Painter(TABLE, axes, _build(seed), np.random.default_rng([seed, 17]))
    painter.paint({k: v for k, v in part.items() if k != "tissue"} for part in TABLE["parts"])
    depth = _organ(painter, organ)
    points = np.argwhere(depth > 2.0) * _BODY_STEP_MM + [axis[0] for axis in axes]
    return np.column_stack([points, depth[depth > 2.0]])
