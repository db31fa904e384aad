"""Whether synthetic lesions repeat those of the training, and whether seeds make a difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

from tools.metrics.border import noise_level, signed_depth
from tools.metrics.copies import (
    aligned_cube,
    like_sized,
    nearest,
    nearness_limits,
    picture_distances,
)
from tools.scans.crops import Crop
from tools.studies.judge import Measured, feature_sets
from tools.studies.statistics import bootstrap_interval, quartiles

__all__ = ["memory", "pictures_apart", "seed_spread"]

GROUPS = ("inside", "shape")  # of features; those of the border tell of the scan too


def memory(synthetic: Measured, training: Measured, seed: int = 0) -> dict[str, Any]:
    """Return how near lesions lie to the nearest one of the training, beside the training's own.

    By ``pictures`` (one minus the correlation inside the lesion, see
    :func:`tools.metrics.copies.picture_distances`) and ``features`` (radiomics, root mean square
    in units of the training's spread). ``share``: how many lesions lie nearer than 5 % of training
    lesions of like size lie to one of another patient, see
    :func:`tools.metrics.copies.nearness_limits`, with its interval by patient (``low``, ``high``).
    ``synthetic`` and ``real``: quartiles of both distances, the latter of like sizes.
    ``distances``, ``real_distances``: of each; ``nearest``: which lesion of the training it is;
    ``names``: of both.

    Args:
        synthetic: measured.
        training: likewise.
        seed: of the bootstrap.

    Raises:
        ValueError: if the training is of one patient.
    """
    patients = training.patients
    if len(set(patients)) < 2:
        raise ValueError("training must hold lesions of at least 2 patients, got 1")
    sets = feature_sets(training, synthetic)
    real, made = (np.concatenate([sets[group][k] for group in GROUPS], 1) for k in (0, 1))
    scale = np.sqrt(max(1, real.shape[1]))
    known = training.crops
    apart = {
        "pictures": (pictures_apart(known, known), pictures_apart(synthetic.crops, known)),
        "features": (cdist(real, real) / scale, cdist(made, real) / scale),
    }
    found: dict[str, Any] = {"lesions": len(known), "patients": len(set(patients))}
    for name, (own, new) in apart.items():
        others, _ = nearest(own, patients, patients)
        found[name] = _near(others, *nearest(new), synthetic, training, seed)
    return found


def pictures_apart(one: Sequence[Crop], other: Sequence[Crop]) -> np.ndarray:
    """Return the distances of the pictures of two sets, ``(N, M)``."""
    cubes, masks = _cubes(one)
    return picture_distances(cubes, masks, _cubes(other)[0])


def _cubes(crops: Sequence[Crop]) -> tuple[np.ndarray, np.ndarray]:
    found = [aligned_cube(each.image, each.mask, each.spacing_mm) for each in crops]
    values, masks = zip(*found, strict=True)
    return np.stack(values).astype(np.float32), np.stack(masks)


def _near(
    real: np.ndarray,
    distance: np.ndarray,
    index: np.ndarray,
    synthetic: Measured,
    training: Measured,
    seed: int,
) -> dict[str, Any]:
    near = distance < nearness_limits(synthetic.diameters_mm, real, training.diameters_mm)
    known = np.isfinite(distance)
    like = np.unique(like_sized(synthetic.diameters_mm, training.diameters_mm))
    share = low = high = float("nan")
    if known.any():
        share, rows = float(near[known].mean()), near[known]
        names = np.array(synthetic.patients)[known]
        low, high = bootstrap_interval(names, lambda drawn: float(rows[drawn].mean()), seed)
    pairs = zip(synthetic.crops, index, strict=True)
    return {
        **{"share": share, "low": low, "high": high},
        "synthetic": quartiles(distance, synthetic.patients, seed),
        "real": quartiles(real[like], [training.patients[k] for k in like], seed),
        "distances": distance.tolist(),
        "real_distances": real[like].tolist(),
        "nearest": index.tolist(),
        "names": [[crop.name, training.crops[k].name] for crop, k in pairs],
    }


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
    found: Mapping[str, Any] = {k: quartiles(v, patients, seed) for k, v in rows.items()}
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
