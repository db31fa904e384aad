"""A computed chest CT: the embedded scan on which everything runs without a download."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tools.phantoms.branching import grow_tree, tube_chain
from tools.phantoms.painter import Build, Painter, Volume

__all__ = ["NODULE_TEXTURES", "ChestPhantom", "Nodule", "chest_ct", "draw_nodules"]

Point = tuple[float, float, float]

TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("chest.json").read_text())
NODULE_TEXTURES = tuple(TABLE["nodules"])
NOISE_HU = 25.0
# per lung: tips, radius at the root in mm, root in the right lung and in the left
_TREES = (
    (1500, 7.0, (41.0, -15.0, 11.0), (-45.0, -21.0, 11.0)),
    (1200, 6.0, (30.0, -8.0, -10.0), (-36.0, -12.0, -8.0)),
)
_BODY_STEP_MM = 5.0


class ChestPhantom(NamedTuple):
    """A chest CT in HU with everything known about it; axes to right, front and head (RAS)."""

    image: NDArray[np.int16]
    lung_mask: NDArray[np.uint8]  # vessels and nodules inside the lungs included
    lesion_mask: NDArray[np.uint8]
    affine: NDArray[np.float64]  # voxel indices to mm


class Nodule(NamedTuple):
    """A nodule to paint: an ellipsoid, turned and dented at random, its centre in RAS mm."""

    site_mm: Point
    diameter_mm: float
    texture: str
    seed: int


class _Body(NamedTuple):
    build: Build
    trees: dict[str, NDArray[np.float64]]
    room: NDArray[np.float64]  # (n, 4): points in the lungs in RAS mm, and how deep they lie


def chest_ct(
    shape: tuple[int, int, int] = (192, 160, 144),
    spacing_mm: float | tuple[float, float, float] = 2.0,
    seed: int = 0,
    centre_mm: Point = (0.0, 0.0, 0.0),
    nodules: Sequence[Nodule] = (),
) -> ChestPhantom:
    """Compute an unenhanced chest CT of an adult on its back, healthy unless nodules are given.

    The anatomy (``chest.json``) is defined in mm in a body-fixed frame, so grids of any spacing,
    shape and centre show the same body; only noise and fine texture differ. The image is blurred
    by a point-spread function and given the band-pass noise of a reconstruction. The default grid
    holds the whole chest (384 x 320 x 288 mm); the middle of a grid lies at ``centre_mm`` of the
    body, (0, 0, 0) between the hila.

    Raises:
        ValueError: if ``shape`` has an axis below 8 voxels, or the spacing is not positive.

    Example:
        >>> phantom = chest_ct((24, 20, 18), spacing_mm=16.0)
        >>> phantom.image.shape, bool(phantom.lesion_mask.any())
        ((24, 20, 18), False)
    """
    spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=float), 3)
    if len(shape) != 3 or min(shape) < 8:
        raise ValueError(f"shape must be three axes of at least 8 voxels, got {tuple(shape)}")
    if (spacing <= 0).any():
        raise ValueError(f"spacing_mm must be > 0, got {spacing_mm}")
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.asarray(centre_mm) - spacing * (np.array(shape) - 1) / 2
    axes = [affine[a, 3] + spacing[a] * np.arange(shape[a]) for a in range(3)]
    # windows of one body must not share their noise
    rng = np.random.default_rng([seed, 4, *(round(abs(100 * c)) for c in centre_mm)])
    body = _body(seed)
    painter = Painter(TABLE, axes, body.build, rng, body.trees)
    painter.paint(TABLE["parts"])
    lesion = np.zeros(shape, dtype=np.uint8)
    for nodule in nodules:
        lesion[paint_nodule(painter, axes, nodule, TABLE)] = 1
    lung = painter.distance["lungs"] > 0
    noise = band_noise(painter, spacing) * np.float32(NOISE_HU)
    noise *= np.where(painter.image < -990, np.float32(0.6), 1 + np.float32(0.2) * lung)
    image = ndimage.gaussian_filter(painter.image, 0.55 / spacing) + noise
    stored = np.clip(np.round(image), -1024, 3071).astype(np.int16)
    return ChestPhantom(stored, (lung | (lesion > 0)).astype(np.uint8), lesion, affine)


def draw_nodules(
    seed: int, count: int, diameter_mm: tuple[float, float] = (6.0, 25.0)
) -> list[Nodule]:
    """Draw nodules for the lungs of the body of a seed, of longest diameters between two limits.

    Textures take turns, small ones are more common.

    Raises:
        RuntimeError: if the lungs have no room for a nodule.
    """
    rng = np.random.default_rng([seed, 2])
    return place_nodules(_body(seed).room, rng, count, diameter_mm, NODULE_TEXTURES)


def place_nodules(
    room: NDArray[np.float64],
    rng: np.random.Generator,
    count: int,
    diameter_mm: tuple[float, float],
    textures: Sequence[str],
) -> list[Nodule]:
    """Draw nodules for an organ, of which ``room`` holds points in mm and how deep they lie."""
    nodules: list[Nodule] = []
    # the widest nodule that fits at each point, into the organ and beside the others
    widest = 2.2 * (room[:, 3] - 2)
    for number in range(count):
        diameter = float(np.exp(rng.uniform(*np.log(diameter_mm))))
        if widest.max(initial=0) < diameter_mm[0]:
            raise RuntimeError(
                f"organ must have room for nodule {number + 1} of {count}, "
                f"{diameter_mm[0]:g} mm wide or more, found none"
            )
        diameter = min(diameter, float(widest.max()))
        choice = rng.choice(np.flatnonzero(widest >= diameter))
        x, y, z = (float(v) for v in room[choice, :3])
        apart = np.linalg.norm(room[:, :3] - room[choice, :3], axis=1)
        widest = np.minimum(widest, 2 * (apart - 4) - diameter)
        texture = textures[number % len(textures)]
        nodules.append(Nodule((x, y, z), round(diameter, 2), texture, int(rng.integers(2**31))))
    return nodules


def paint_nodule(
    painter: Painter, axes: list[NDArray[np.float64]], nodule: Nodule, table: dict[str, Any]
) -> NDArray[np.bool_]:
    """Paint a nodule of a table's ``nodules`` and return where it is."""
    rng = np.random.default_rng(nodule.seed)
    semi_axes = nodule.diameter_mm / 2 * np.array([1.0, *rng.uniform(0.65, 1.0, 2)])
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    offsets = [axis - site for axis, site in zip(axes, nodule.site_mm, strict=True)]
    near = [np.flatnonzero(np.abs(offset) < 0.8 * nodule.diameter_mm) for offset in offsets]
    grid = np.meshgrid(*(o[n] for o, n in zip(offsets, near, strict=True)), indexing="ij")
    points = np.tensordot(turn, np.stack(grid), 1)
    radius = np.sqrt(((points / semi_axes[:, None, None, None]) ** 2).sum(axis=0))
    dents = np.zeros(radius.shape)
    for _ in range(4):
        wave = rng.normal(0, 2.2 / semi_axes.mean(), 3)
        dents += np.sin(np.tensordot(wave, points, 1) + rng.uniform(0, 2 * np.pi))
    distance: Volume = np.full(painter.shape, -99, dtype=np.float32)
    distance[np.ix_(*near)] = (1 - 0.09 - 0.05 * dents - radius) * semi_axes.min()
    for tissue, share in table["nodules"][nodule.texture]:
        painter.put(painter.cover(distance - np.float32(share * semi_axes.min())), tissue)
    return distance > 0


def band_noise(painter: Painter, spacing_mm: NDArray[np.float64]) -> Volume:
    """Return unit noise without its low frequencies, correlated over about a slice of 1.5 mm."""
    white = painter.rng.standard_normal(painter.shape, dtype=np.float32)
    fine = ndimage.gaussian_filter(white, 0.45 / spacing_mm)
    noise: Volume = fine - ndimage.gaussian_filter(white, np.maximum(1.4 / spacing_mm, 0.7))
    return noise / noise.std()


@lru_cache(maxsize=8)
def _body(seed: int) -> _Body:
    """Return the body of a seed, the same for every grid."""
    rng = np.random.default_rng([seed, 5])
    build = Build.draw(TABLE, rng)
    axes = [np.arange(-extent, extent, _BODY_STEP_MM) for extent in (160.0, 130.0, 150.0)]
    painter = Painter(TABLE, axes, build, rng)
    painter.paint(part for part in TABLE["parts"] if "name" in part)
    depth = painter.distance["lungs"]
    cloud = np.argwhere(depth > 2.0) * _BODY_STEP_MM + [axis[0] for axis in axes]
    room = np.column_stack([cloud, depth[depth > 2.0]])
    cloud = (cloud + rng.uniform(-0.5, 0.5, cloud.shape) * _BODY_STEP_MM) / build.scale
    trees = []
    for tips, radius_mm, *roots in _TREES:
        for side, root in zip((1, -1), roots, strict=True):
            lung = cloud[cloud[:, 0] * side > 0]
            chosen = lung[rng.choice(len(lung), min(tips, len(lung)), replace=False)]
            trees.append(grow_tree(chosen, np.array(root), radius_mm, rng))
    bronchi = [tube_chain(np.array(nodes, dtype=float)) for nodes in TABLE["bronchi"]]
    airways = np.concatenate([_airways_along(np.concatenate(trees[:2])), *bronchi])
    return _Body(build, {"vessels": np.concatenate(trees), "airways": airways}, room)


def _airways_along(arteries: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return airways that run beside the arteries, down to a lumen of 1.4 mm."""
    airways = arteries[arteries[:, 7] > 1.0].copy()
    beside = np.array([0.25, -0.55, 0.8])
    airways[:, :3] += 1.75 * airways[:, 6:7] * beside
    airways[:, 3:6] += 1.75 * airways[:, 7:8] * beside
    airways[:, 6:] *= 0.68
    return airways
