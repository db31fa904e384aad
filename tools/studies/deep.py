"""What networks make of two sets of lesions: features of pictures, and a test on cubes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.metrics.fidelity import kernel_distance, plain_frechet_distance
from tools.metrics.radimagenet import radimagenet_features, radimagenet_network
from tools.metrics.radiomics import centred_cube
from tools.studies.judge import PLANES, Measured, set_distances, told_apart
from tools.studies.two_sample import network_auc

__all__ = ["network_told_apart", "picture_distances"]

SIDE = 24  # voxels of 1 mm


def picture_distances(
    real: Measured, synthetic: Measured, weights: str | Path, seed: int = 0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield FID and KID of RadImageNet's features of the pictures, by plane, with the real band.

    Args:
        real: measured.
        synthetic: likewise.
        weights: see :func:`tools.metrics.radimagenet.radimagenet_network`.
        seed: of the halves.
    """
    network = radimagenet_network(weights)
    patients = [real.patients, synthetic.patients]
    for plane in tqdm(PLANES, desc="pictures"):
        one, other = (
            radimagenet_features(network, each.pictures[plane]) for each in (real, synthetic)
        )
        yield (
            f"fid_radimagenet_{plane}",
            set_distances(one, other, patients, plain_frechet_distance, seed),
        )
        yield (
            f"kid_radimagenet_{plane}",
            set_distances(one, other, patients, kernel_distance, seed),
        )


def network_told_apart(
    real: Measured, synthetic: Measured, window: Sequence[float], seed: int = 0
) -> dict[str, Any]:
    """Return whether a small network tells cubes of 24 mm apart, and real halves likewise.

    Values are rounded to whole units first, as scans store them: rounding itself is no clue.

    Args:
        real: measured.
        synthetic: likewise.
        window: intensities that become -1 and 1.
        seed: of the test.
    """
    low, high = window

    def cubes(measured: Measured) -> np.ndarray:
        found = [
            centred_cube(crop.image.round(), crop.mask, crop.spacing_mm, SIDE)[0]
            for crop in measured.crops
        ]
        return ((np.stack(found)[:, None] - low) / (high - low) * 2 - 1).clip(-1, 1)

    return told_apart(
        network_auc, cubes(real), cubes(synthetic), [real.patients, synthetic.patients], seed
    )
