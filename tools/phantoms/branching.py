"""Trees of vessels and airways: growth into a volume, and drawing with partial volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

__all__ = ["draw_tubes", "grow_tree", "tube_chain"]

Float = NDArray[np.float64]
# Murray's law: the power of the radii is conserved at a fork; lung arteries measure 2.3 to 3.
RADIUS_EXPONENT = 2.85
BRANCH_FRACTION = 0.42


def grow_tree(points: Float, root: Float, root_radius_mm: float, rng: np.random.Generator) -> Float:
    """Grow a tree from a root until it supplies every point of a cloud.

    Each branch goes part of the way to the centre of the points it supplies; these are then split
    by the plane through the branch across their widest direction, and both halves get a branch
    (volume filling, Tawhai et al., J Appl Physiol 2004). Radii follow Murray's law with the number
    of points supplied. Branches are straight but for a small kink.

    Args:
        points: cloud ``(n, 3)`` in mm, for example drawn evenly inside a lung.
        root: start ``(3,)`` in mm.
        root_radius_mm: radius at the root.
        rng: jitters the forks.

    Returns:
        Tubes ``(m, 8)``: start (3), end (3), radius at start and at end, all in mm; parents come
        before their children. An empty cloud gives ``(0, 8)``.
    """
    total = len(points)
    tubes = []
    pending = [(np.asarray(root, dtype=float), float(root_radius_mm), points)] if total else []
    while pending:
        tip, radius, cloud = pending.pop()
        centre = cloud.mean(axis=0)
        path = centre - tip
        length = float(np.linalg.norm(path))
        own = root_radius_mm * (len(cloud) / total) ** (1 / RADIUS_EXPONENT)
        fraction = 1.0 if len(cloud) == 1 else BRANCH_FRACTION * rng.uniform(0.8, 1.2)
        end = tip + fraction * path + rng.normal(0, 0.06, 3) * length * fraction
        tubes.append(np.concatenate([tip, end, [radius, own]]))
        if len(cloud) == 1:
            continue
        centred = cloud - centre
        if length > 0:
            along = path / length
            centred = centred - np.outer(centred @ along, along)
        widest = np.linalg.eigh(centred.T @ centred)[1][:, -1]
        rank = np.argsort(centred @ widest)
        cut = min(max(1, round(len(cloud) * rng.uniform(0.35, 0.65))), len(cloud) - 1)
        pending.append((end, own, cloud[rank[:cut]]))
        pending.append((end, own, cloud[rank[cut:]]))
    return np.array(tubes).reshape(-1, 8)


def tube_chain(nodes: Sequence[tuple[float, float, float, float]], step_mm: float = 4.0) -> Float:
    """Return a smooth tube through nodes (x, y, z, radius), as tubes ``(m, 8)`` for drawing."""
    knots = np.array(nodes, dtype=float)
    lengths = np.linalg.norm(np.diff(knots[:, :3], axis=0), axis=1)
    places = np.concatenate([[0.0], np.cumsum(lengths)])
    fine = np.linspace(0, places[-1], max(2, int(places[-1] / step_mm) + 1))
    if len(knots) > 2:
        path = PchipInterpolator(places, knots)(fine)
    else:
        path = np.stack([np.interp(fine, places, column) for column in knots.T], axis=1)
    return np.concatenate([path[:-1, :3], path[1:, :3], path[:-1, 3:], path[1:, 3:]], axis=1)


def draw_tubes(
    coverage: NDArray[np.float32], tubes: Float, origin_mm: Float, spacing_mm: Float
) -> None:
    """Draw tapered tubes into a volume, in place, as the share of each voxel they cover.

    Tubes thinner than a voxel are drawn one voxel wide at reduced coverage, which keeps their
    cross-section (partial volume). Overlapping tubes keep the larger coverage.

    Args:
        coverage: volume ``(I, J, K)`` in [0, 1], changed.
        tubes: ``(m, 8)`` as from :func:`grow_tree`.
        origin_mm: position of voxel (0, 0, 0).
        spacing_mm: voxel size per axis.
    """
    if not len(tubes):
        return
    edge = float(np.mean(spacing_mm))
    reach = np.maximum(tubes[:, 6:].max(axis=1), edge / 2)[:, None] + edge
    low = (np.minimum(tubes[:, :3], tubes[:, 3:6]) - reach - origin_mm) / spacing_mm
    high = (np.maximum(tubes[:, :3], tubes[:, 3:6]) + reach - origin_mm) / spacing_mm
    first = np.maximum(np.ceil(low), 0).astype(int)
    last = np.minimum(np.floor(high) + 1, coverage.shape).astype(int)
    axes = [
        (origin_mm[a] + spacing_mm[a] * np.arange(coverage.shape[a])).astype(np.float32)
        for a in range(3)
    ]
    for index in np.flatnonzero((first < last).all(axis=1)):
        (i0, j0, k0), (i1, j1, k1) = first[index], last[index]
        box = coverage[i0:i1, j0:j1, k0:k1]
        grid = (axes[0][i0:i1, None, None], axes[1][None, j0:j1, None], axes[2][None, None, k0:k1])
        np.maximum(box, _tube_coverage(grid, tubes[index], edge), out=box)


def _tube_coverage(
    grid: tuple[NDArray[np.float32], ...], tube: Float, edge: float
) -> NDArray[np.float32]:
    """Return the share of each voxel of a small grid that one tube covers."""
    x0, y0, z0, x1, y1, z1, r0, r1 = (np.float32(value) for value in tube)
    dx, dy, dz = x1 - x0, y1 - y0, z1 - z0
    px, py, pz = grid[0] - x0, grid[1] - y0, grid[2] - z0
    square = max(float(dx * dx + dy * dy + dz * dz), 1e-6)
    along = np.clip((px * dx + py * dy + pz * dz) / np.float32(square), 0, 1)
    distance = np.sqrt((px - along * dx) ** 2 + (py - along * dy) ** 2 + (pz - along * dz) ** 2)
    radius = r0 + (r1 - r0) * along
    drawn = np.maximum(radius, np.float32(edge / 2))
    inside = np.clip((drawn - distance) / np.float32(edge) + np.float32(0.5), 0, 1)
    covered: NDArray[np.float32] = inside * (radius / drawn) ** 2
    return covered
