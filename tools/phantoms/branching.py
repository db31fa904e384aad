"""Trees of vessels and airways: growth into a volume, and drawing with partial volume."""

from __future__ import annotations

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
    across their widest direction, and both halves get a branch (volume filling, Tawhai et al.,
    J Appl Physiol 2004). Radii follow Murray's law with the number of points supplied; chance
    jitters the forks.

    The cloud ``(n, 3)`` and the root ``(3,)`` are in mm. Tubes ``(m, 8)`` are start (3), end (3),
    radius at start and at end, in mm; parents come before their children.
    """
    total = len(points)
    tubes = []
    pending = [(np.asarray(root, dtype=float), float(root_radius_mm), points)] if total else []
    while pending:
        tip, radius, cloud = pending.pop()
        centre = cloud.mean(axis=0)
        path = centre - tip
        own = root_radius_mm * (len(cloud) / total) ** (1 / RADIUS_EXPONENT)
        fraction = 1.0 if len(cloud) == 1 else BRANCH_FRACTION * rng.uniform(0.8, 1.2)
        bend = rng.normal(0, 0.06, 3) * np.linalg.norm(path)
        end = tip + fraction * (path + bend)
        tubes.append(np.concatenate([tip, end, [radius, own]]))
        if len(cloud) == 1:
            continue
        along = path / max(np.linalg.norm(path), 1e-9)
        across = cloud - centre
        across = across - np.outer(across @ along, along)
        rank = np.argsort(across @ np.linalg.eigh(across.T @ across)[1][:, -1])
        cut = min(max(1, round(len(cloud) * rng.uniform(0.35, 0.65))), len(cloud) - 1)
        pending += [(end, own, cloud[rank[:cut]]), (end, own, cloud[rank[cut:]])]
    return np.array(tubes).reshape(-1, 8)


def tube_chain(nodes: Float, step_mm: float = 4.0) -> Float:
    """Return a smooth tube through nodes (x, y, z, radius), as tubes ``(m, 8)`` for drawing."""
    lengths = np.linalg.norm(np.diff(nodes[:, :3], axis=0), axis=1)
    places = np.concatenate([[0.0], np.cumsum(lengths)])
    fine = np.linspace(0, places[-1], max(2, int(places[-1] / step_mm) + 1))
    path = PchipInterpolator(places, nodes)(fine)
    return np.concatenate([path[:-1, :3], path[1:, :3], path[:-1, 3:], path[1:, 3:]], axis=1)


def draw_tubes(
    coverage: NDArray[np.float32], tubes: Float, origin_mm: Float, spacing_mm: Float
) -> None:
    """Draw tapered tubes into a volume, in place, as the share of each voxel they cover.

    Tubes ``(m, 8)``, as from :func:`grow_tree`, that are thinner than a voxel are drawn one voxel
    wide at reduced coverage, which keeps their cross-section (partial volume). Overlapping tubes
    keep the larger coverage. The middle of voxel (0, 0, 0) lies at ``origin_mm``.
    """
    edge = float(np.mean(spacing_mm))
    reach = np.maximum(tubes[:, 6:].max(axis=1), edge / 2)[:, None] + edge
    low = (np.minimum(tubes[:, :3], tubes[:, 3:6]) - reach - origin_mm) / spacing_mm
    high = (np.maximum(tubes[:, :3], tubes[:, 3:6]) + reach - origin_mm) / spacing_mm
    first = np.maximum(np.ceil(low), 0).astype(int)
    last = np.minimum(np.floor(high) + 1, coverage.shape).astype(int)
    axes = (origin_mm[a] + spacing_mm[a] * np.arange(coverage.shape[a]) for a in range(3))
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    for index in np.flatnonzero((first < last).all(axis=1)):
        i, j, k = (slice(a, b) for a, b in zip(first[index], last[index], strict=True))
        covered = _tube_coverage([x[i], y[:, j], z[:, :, k]], tubes[index], edge)
        np.maximum(coverage[i, j, k], covered, out=coverage[i, j, k])


def _tube_coverage(where: list[Float], tube: Float, edge: float) -> Float:
    """Return the share of each voxel of a small grid that one tube covers."""
    path = tube[3:6] - tube[:3]
    offset = [axis - start for axis, start in zip(where, tube[:3], strict=True)]
    along = sum(o * p for o, p in zip(offset, path, strict=True)) / max(path @ path, 1e-6)
    along = np.clip(along, 0, 1)
    distance = np.sqrt(sum((o - along * p) ** 2 for o, p in zip(offset, path, strict=True)))
    radius = tube[6] + (tube[7] - tube[6]) * along
    drawn = np.maximum(radius, edge / 2)
    covered: Float = np.clip((drawn - distance) / edge + 0.5, 0, 1) * (radius / drawn) ** 2
    return covered
