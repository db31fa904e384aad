"""Training lesions of each subtype, with size and histogram (``subtypes``)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.distance import pdist, squareform

from tools.files import write_json
from tools.phantoms.datasets import lesion_datalist
from tools.prepare.textures import HuWindows, Textures, lesion_name, measure_textures
from tools.scans.reader import open_image
from tools.transforms.conditions import SUBTYPES, lesion_subtype

__all__ = ["collect_subtypes"]

logger = logging.getLogger(__name__)


def collect_subtypes(
    dataset_dir: str,
    out: str | Path,
    bins: int = 40,
    window_hu: Sequence[float] = (-1000.0, 400.0),
    solid: float = 4.5,
    part_solid: float = 2.5,
    library: int = 32,
    min_voxels: int = 30,
    section: str = "training",
    seed: int = 0,
) -> dict[str, Any]:
    """Write sizes and histograms of training lesions by subtype, for subtypes drawn with them.

    The subtype is that of the mean texture rating (LIDC: 1 ground-glass, 3 part-solid, 5 solid).
    Where a subtype has more lesions than the library takes, they are put in order of size and cut
    into as many equal parts, one lesion of each part by chance: so sizes, and the histograms that
    go with them, stay as frequent as they are. The frequency counts all lesions.

    Options are those of the command; the content of the file is returned.

    Raises:
        ValueError: naming the argument that breaks its rule, or if no lesion has a rating.
    """
    _check(window_hu, bins=bins, library=library, min_voxels=min_voxels)
    entries = lesion_datalist(dataset_dir, section)
    rated = [entry for entry in entries if entry.get("texture")]  # a rating of 0 was not given
    if not rated:
        raise ValueError(
            "dataset_dir must have a texture rating in its entries (prepare scans keeps them), got "
            f"none in {len(entries)} of {dataset_dir or 'the embedded phantom'}"
        )
    if len(rated) < len(entries):
        logger.warning("%d of %d lesions have no rating", len(entries) - len(rated), len(entries))
    textures = measure_textures(rated, HuWindows(window_hu), bins)
    numbers = np.array([lesion_subtype(e["texture"], solid, part_solid) for e in textures.entries])
    rng = np.random.default_rng(seed)
    subtypes = {}
    for number, name in enumerate(SUBTYPES):
        members = np.flatnonzero((numbers == number) & (textures.voxels[:, 0] >= min_voxels))
        if not len(members):
            logger.warning("no %s lesion of at least %d voxels: left out", name, min_voxels)
            continue
        frequency = float((numbers == number).mean())
        subtypes[name] = {
            "number": number,
            "count": int((numbers == number).sum()),
            "frequency": round(frequency, 5),
            **_library(textures, members, library, rng),
        }
    content = {
        "bins": bins,
        "window_hu": [float(edge) for edge in window_hu],
        "rule": {"solid_from": solid, "part_solid_from": part_solid},
        "lesions": len(numbers),
        "subtypes": subtypes,
    }
    write_json(out, content, indent=1)
    return content


def _check(window_hu: Sequence[float], **numbers: int) -> None:
    if not window_hu[0] < window_hu[1]:
        raise ValueError(f"window_hu must be two HU, lowest first, got {tuple(window_hu)}")
    for name, value in numbers.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def _library(
    textures: Textures, members: np.ndarray, size: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Return sizes and histograms of lesions spread over all sizes, and the medoid of all."""
    diameters = np.array([_diameter(textures, i) for i in members])
    order = np.argsort(diameters, kind="stable")
    parts = np.array_split(order, min(size, len(order)))
    chosen = np.array([rng.choice(part) for part in parts])
    rows = textures.fine[members, 0]
    # Hellinger distances: of about equal noise in all bins
    medoid = squareform(pdist(np.sqrt(rows))).sum(0).argmin()
    return {
        "mean_hu": round(float(textures.means[members].mean()), 1),
        "diameters_mm": [round(float(d), 2) for d in diameters[chosen]],
        "medoid_name": lesion_name(textures.entries[members[medoid]]),
        "medoid": _rounded(rows[medoid]),
        "histograms": [_rounded(row) for row in rows[chosen]],
    }


def _diameter(textures: Textures, i: int) -> float:
    """Return the diameter of the sphere with the lesion's volume, in mm."""
    affine = open_image(textures.entries[i]["image"], "image").affine
    volume = textures.voxels[i, 0] * abs(np.linalg.det(affine[:3, :3]))
    return float((6 * volume / np.pi) ** (1 / 3))


def _rounded(row: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in row]
