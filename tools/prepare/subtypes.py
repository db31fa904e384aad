"""Training lesions of each subtype, with size and histogram (``subtypes``)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
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

FEWEST_INSIDE = 8  # voxels that a core is known by
CORED = "part_solid"  # the subtype that is a solid core in a halo
SOLID_HU = -300.0  # what of it counts as solid: Cohen et al., Radiology 2016


def collect_subtypes(
    dataset_dir: str,
    out: str | Path,
    bins: int = 40,
    window_hu: Sequence[float] = (-1000.0, 400.0),
    solid: float = 4.5,
    part_solid: float = 2.5,
    library: int = 1000,
    min_voxels: int = 30,
    section: str = "training",
    seed: int = 0,
    agreement: float = 0.9,
    outline: str | None = None,
) -> dict[str, Any]:
    """Write sizes and histograms of training lesions by subtype, for subtypes drawn with them.

    The subtype is that of the mean texture rating (LIDC: 1 ground-glass, 3 part-solid, 5 solid).
    The frequency counts all lesions; the library has those of which readers agree, where the
    entries state the spread of their ratings, and which have a core as well as a rim. Where that
    are more than the library takes, they are put in order of size and cut into as many equal
    parts, one lesion of each part by chance: so sizes, and the histograms that go with them, stay
    as frequent as they are. The library is in order of brightness: a draw at the same state of
    chance has the same rank among the lesions of each subtype.

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
    inside = (1 - textures.rim_shares) * textures.voxels[:, 0] >= FEWEST_INSIDE
    agreed = np.array([_spread(entry) <= agreement for entry in textures.entries])
    fit = agreed & inside & (textures.voxels[:, 0] >= min_voxels)
    subtypes = _subtypes(textures, numbers, fit, library, np.random.default_rng(seed))
    if CORED in subtypes:
        low, high = window_hu
        subtypes[CORED]["solid_bin"] = round((SOLID_HU - low) / (high - low) * bins)
    if missing := [name for name in SUBTYPES if name not in subtypes]:
        logger.warning(
            "no %s lesion of at least %d voxels with a core that readers agree on: left out",
            *(" and no ".join(missing), min_voxels),
        )
    content = {
        "bins": bins,
        "window_hu": [float(edge) for edge in window_hu],
        "rule": {"solid_from": solid, "part_solid_from": part_solid, "agreement": agreement},
        "outline": outline,
        "lesions": len(numbers),
        "subtypes": subtypes,
    }
    write_json(out, content, indent=None)
    return content


def _subtypes(
    textures: Textures,
    numbers: np.ndarray,
    fit: np.ndarray,
    library: int,
    rng: np.random.Generator,
) -> dict[str, dict[str, Any]]:
    """Return each subtype of which there is a fit lesion, by name."""
    return {
        name: {
            "number": number,
            "count": int((numbers == number).sum()),
            "frequency": round(float((numbers == number).mean()), 5),
            **_library(textures, members, library, rng),
        }
        for number, name in enumerate(SUBTYPES)
        if len(members := np.flatnonzero((numbers == number) & fit))
    }


def _spread(entry: Mapping[str, Any]) -> float:
    """Return the standard deviation of the readers' ratings, 0 where nothing is known of it."""
    given = [
        rating for rating in (entry.get("ratings_by_reader") or {}).get("texture", ()) if rating
    ]
    return float(entry.get("texture_sd", np.std(given or [0])))


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
    parts = np.array_split(np.argsort(diameters, kind="stable"), min(size, len(members)))
    chosen = np.array([rng.choice(part) for part in parts])
    rows, rims = textures.fine[members, 0], textures.rims[members]
    shares = textures.rim_shares[members]
    # as bright as they would be with half of their voxels in the rim, whatever their size
    cores = (rows - shares[:, None] * rims) / (1 - shares)[:, None]
    bright = (cores + rims) @ np.arange(rows.shape[1])
    chosen = chosen[np.argsort(bright[chosen], kind="stable")]
    # Hellinger distances: of about equal noise in all bins
    medoid = squareform(pdist(np.sqrt(rows))).sum(0).argmin()
    return {
        "mean_hu": round(float(textures.means[members].mean()), 1),
        "diameters_mm": [round(float(d), 2) for d in diameters[chosen]],
        "rim_shares": [round(float(share), 4) for share in shares[chosen]],
        "medoid_name": lesion_name(textures.entries[members[medoid]]),
        "medoid": _rounded(rows[medoid]),
        "histograms": [_rounded(row) for row in rows[chosen]],
        "rims": [_rounded(row) for row in rims[chosen]],
    }


def _diameter(textures: Textures, i: int) -> float:
    """Return the diameter of the sphere with the lesion's volume, in mm."""
    affine = open_image(textures.entries[i]["image"], "image").affine
    volume = textures.voxels[i, 0] * abs(np.linalg.det(affine[:3, :3]))
    return float((6 * volume / np.pi) ** (1 / 3))


def _rounded(row: np.ndarray) -> list[float]:
    return [round(float(value), 4) or 0 for value in row]
