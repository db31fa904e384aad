"""Whether synthetic lesions repeat those of the training, and whether seeds make a difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.metrics.border import noise_level, signed_depth
from tools.metrics.copies import aligned_cube, nearest_features, nearest_pictures
from tools.scans.crops import Crop
from tools.studies.judge import Measured, feature_sets, quartiles
from tools.studies.two_sample import bootstrap_interval

__all__ = ["memory", "seed_spread"]

NEAR = 5  # % of the real lesions lie nearer to the training than what counts as near
FEWEST = 3  # real lesions for a line


def memory(
    real: Measured, synthetic: Measured, training: Measured, seed: int = 0
) -> dict[str, Any]:
    """Return how near synthetic lesions lie to the nearest one of the training, beside real ones.

    By ``pictures`` (one minus the correlation inside the lesion, see
    :func:`tools.metrics.copies.nearest_pictures`) and ``features`` (radiomics and border, in units
    of the real ones' spread): ``synthetic`` and ``real`` distances, and ``share``, how many of the
    synthetic lesions are near, with its interval by patient (``low``, ``high``). Near is what lies
    farther below the distance that real lesions of its size have (a line over the logarithm of the
    diameter: a few voxels are like some others by chance) than 5 % of the real ones do, ``limit``;
    5 % is what lesions of other patients reach. A real lesion is not compared with those of its own
    patient, a synthetic one with all.

    Args:
        real: lesions that the training did not see.
        synthetic: measured likewise.
        training: likewise.
        seed: of the bootstrap.
    """
    found: dict[str, Any] = {"lesions": len(training.crops), "patients": len({*training.patients})}
    rows = feature_sets(real, synthetic, training)["all"]
    own = (real.patients, training.patients)
    cubes = [_cubes(each) for each in tqdm((real, synthetic, training), desc="cubes")]
    apart = {
        "pictures": (
            nearest_pictures(*cubes[0], cubes[2][0], *own),
            nearest_pictures(*cubes[1], cubes[2][0]),
        ),
        "features": (nearest_features(rows[0], rows[2], *own), nearest_features(rows[1], rows[2])),
    }
    for name, (known, made) in apart.items():
        found[name] = {
            "real": quartiles(known, real.patients, seed),
            "synthetic": quartiles(made, synthetic.patients, seed),
            **_near((known, made), (real, synthetic), seed),
        }
    return found


def _cubes(measured: Measured) -> tuple[np.ndarray, np.ndarray]:
    found = [aligned_cube(each.image, each.mask, each.spacing_mm) for each in measured.crops]
    values, masks = zip(*found, strict=True)
    return np.stack(values).astype(np.float32), np.stack(masks)


def _near(
    distances: tuple[np.ndarray, np.ndarray], sets: tuple[Measured, Measured], seed: int
) -> dict[str, float]:
    """Return which share of the second set lies nearer, for its size, than 5 % of the first."""
    known, made = (np.isfinite(each) for each in distances)
    if known.sum() < FEWEST or not made.any():
        return dict.fromkeys(("limit", "share", "low", "high"), float("nan"))
    sizes = [np.log([crop.diameter_mm for crop in each.crops]) for each in sets]
    line = np.polynomial.Polynomial.fit(sizes[0][known], distances[0][known], 1)
    excess = [each - line(size) for each, size in zip(distances, sizes, strict=True)]
    limit = float(np.percentile(excess[0][known], NEAR))
    near = excess[1][made] < limit
    names = np.array(sets[1].patients)[made]
    low, high = bootstrap_interval(names, lambda rows: float(near[rows].mean()), seed)
    return {"limit": limit, "share": float(near.mean()), "low": low, "high": high}


def seed_spread(sets: Sequence[Sequence[Crop]], seed: int = 0) -> dict[str, Any]:
    """Return how far lesions drawn at one mask with several seeds differ, in the scan's units.

    ``spread``: standard deviation over the seeds, the mean over the voxels of the lesion.
    ``difference``: mean absolute difference of two seeds. ``noise``: the difference that the
    scan's noise around alone would make, 2 / sqrt(pi) of its standard deviation. Quartiles over
    lesions, intervals by patient; ``lesions`` that at least two sets share.

    Args:
        sets: lesions of each seed; those of one name and the same mask belong together.
        seed: of the bootstrap.

    Raises:
        ValueError: if no lesion is in two sets.
    """
    together: dict[tuple[str, bytes], list[Crop]] = {}
    for crops in sets:
        for crop in crops:
            key = (crop.name, np.packbits(crop.mask).tobytes())
            together.setdefault(key, []).append(crop)
    groups = [group for group in together.values() if len(group) > 1]
    if not groups:
        raise ValueError(
            "other_seeds must hold lesions of the names and masks of synthetic, got none"
        )
    rows: dict[str, list[float]] = {"spread": [], "difference": [], "noise": []}
    for group in groups:
        for name, value in _of_group(group).items():
            rows[name].append(value)
    patients = [group[0].patient for group in groups]
    found: Mapping[str, Any] = {k: quartiles(np.array(v), patients, seed) for k, v in rows.items()}
    return {"lesions": len(groups), "seeds": len(sets), **found}


def _of_group(group: Sequence[Crop]) -> dict[str, float]:
    first = group[0]
    values = np.stack([each.image[first.mask] for each in group]).astype(float)
    differences = [np.abs(a - b).mean() for a, b in combinations(values, 2)]
    around = signed_depth(first.mask, first.spacing_mm) > 2
    return {
        "spread": float(values.std(0, ddof=1).mean()),
        "difference": float(np.mean(differences)),
        "noise": noise_level(first.image, around) * 2 / float(np.sqrt(np.pi)),
    }
