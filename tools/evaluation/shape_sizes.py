"""Sizes of lesions asked for and got, on the voxel grids that scans have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.evaluation.shape_sources import DrawShape
from tools.transforms.spheres import Sphere, enclosing_sphere, half_voxel_mm

__all__ = ["size_sweep", "size_table"]

DIAMETERS_MM = (4.0, 6.0, 8.0, 10.0, 14.0, 18.0, 24.0, 30.0)
GRIDS_MM = ((1.0, 1.0, 1.0), (0.78, 0.78, 1.0), (0.7, 0.7, 2.5))
MARGIN_MM = 4.0


def size_sweep(
    draw: DrawShape,
    seed: int = 0,
    diameters_mm: Sequence[float] = DIAMETERS_MM,
    grids_mm: Sequence[Sequence[float]] = GRIDS_MM,
) -> list[dict[str, Any]]:
    """Draw one lesion per size and grid and measure the sphere round it.

    Args:
        draw: the source.
        seed: of the first lesion; the others count on from it.
        diameters_mm: of the sphere round the lesion, half a voxel beyond the centres of its voxels.
        grids_mm: voxel sizes.

    Returns:
        One row per size and grid: ``spacing_mm``, ``asked_mm``, ``got_mm``, ``volume_mm3``.
    """
    pairs = [(grid, size) for grid in grids_mm for size in diameters_mm]
    rows = []
    for number, (grid, size) in enumerate(tqdm(pairs, desc="sizes")):
        affine = np.diag([*grid, 1.0])
        shape = [int(np.ceil((size + 2 * MARGIN_MM) / spacing)) for spacing in grid]
        half = half_voxel_mm(affine)
        x, y, z = (float(s * (n - 1) / 2) for s, n in zip(grid, shape, strict=True))
        mask = draw(Sphere((x, y, z), size / 2 - half), affine, shape, seed + number)
        got = 2 * (enclosing_sphere(mask, affine).radius_mm + half)
        volume = float(np.sum(mask) * np.prod(grid))
        rows.append(
            {"spacing_mm": list(grid), "asked_mm": size, "got_mm": round(got, 2)}
            | {"volume_mm3": round(volume, 1)}
        )
    return rows


def size_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return Markdown with one row per grid and one column per size."""
    sizes = sorted({row["asked_mm"] for row in rows})
    grids = list(dict.fromkeys(tuple(row["spacing_mm"]) for row in rows))
    got = {(tuple(row["spacing_mm"]), row["asked_mm"]): row["got_mm"] for row in rows}
    lines = [
        "## Sizes on the grids of scans",
        "",
        "Diameter of the sphere round the lesion in mm, one draw each.",
        "",
        "| voxels (mm), asked | " + " | ".join(f"{size:g}" for size in sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for grid in grids:
        name = " x ".join(f"{value:g}" for value in grid)
        lines.append(f"| {name} | " + " | ".join(f"{got[grid, s]:.1f}" for s in sizes) + " |")
    return "\n".join(lines)
