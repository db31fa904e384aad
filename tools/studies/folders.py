"""``tools evaluate --real --synthetic``: two folders read, measured, judged and written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.files import claimed, require_apart
from tools.metrics.fidelity import kernel_distance, plain_frechet_distance
from tools.metrics.radimagenet import radimagenet_features, radimagenet_network
from tools.metrics.radiomics import centred_cube
from tools.studies.asked import asked_and_got, named_subtypes
from tools.studies.judge import (
    PLANES,
    Measured,
    apart,
    judge,
    measure,
    read_crops,
    require_enough,
    set_distances,
    told_apart,
)
from tools.studies.liver_finder import LiverFinder, found_by_size
from tools.studies.memory import memory, seed_spread
from tools.studies.two_sample import network_auc
from tools.studies.verdict import FILES, write_verdict

__all__ = ["Folders", "judge_folders"]

SIDE = 24  # voxels of 1 mm of the cubes that a network tells apart


@dataclass(frozen=True)
class Folders:
    """The options of the command, which describes them."""

    real: str
    synthetic: str
    out: str
    section: str | None = None
    values: Sequence[int] = ()
    window: tuple[float, float] = (-1000, 400)
    limit: int | None = None
    seed: int = 0
    training: str = ""
    other_seeds: Sequence[str] = ()
    radimagenet: str = ""
    network_test: bool = False
    liver_finder: str = ""


def judge_folders(options: Folders) -> tuple[dict[str, Any], list[tuple[str, str, str, str]]]:
    """Judge two folders, write the verdict; return what was found, and the table.

    Raises:
        ValueError: if a folder is not named, or holds too few lesions.
    """
    for name in ("real", "synthetic"):
        if not getattr(options, name):
            raise ValueError(f"{name} must be a folder or datalist of lesions, got none")
    sources = [options.real, options.synthetic, *options.other_seeds]
    require_apart(options.out, [p if p.is_dir() else p.parent for p in map(Path, sources)])
    with claimed(options.out, FILES):  # before the work
        return _judged(options)


def _judged(options: Folders) -> tuple[dict[str, Any], list[tuple[str, str, str, str]]]:
    values, limit, seed = options.values, options.limit, options.seed
    finder = LiverFinder(options.liver_finder) if options.liver_finder else None
    crops = read_crops(options.real, values, options.section, limit)
    require_enough(crops, options.real)
    crops, halves = apart(crops)
    real = measure(crops, options.window)
    crops = apart(read_crops(options.synthetic, values, None, limit))[0]
    synthetic = measure(crops, options.window)
    result = judge(real, synthetic, seed) | {"halves": halves}
    library = real
    if options.training:
        library = measure(read_crops(*_training(options.training, values)), options.window)
        result["memory"] = memory(synthetic, library, seed)
    if options.other_seeds:
        others = [read_crops(each, values, None, limit) for each in options.other_seeds]
        result["seeds"] = seed_spread([crops, *others], seed)
    if options.radimagenet:
        found = picture_distances(real, synthetic, options.radimagenet, seed)
        result["distances"] |= dict(found)
    if finder is not None:
        named = {"real": (options.real, options.section), "synthetic": (options.synthetic, None)}
        result["found"] = {
            side: found_by_size(finder, source, values, section)
            for side, (source, section) in named.items()
        }
    if options.network_test:
        result["told_apart"]["network"] = network_told_apart(real, synthetic, options.window, seed)
    result["subtypes"] = named_subtypes(library, synthetic, seed)
    result["asked"] = asked_and_got(options.synthetic, seed)
    title = "Real against synthetic lesions"
    return result, write_verdict(options.out, result, real, synthetic, title)


def _training(given: str, values: Sequence[int]) -> tuple[str, Sequence[int], str | None]:
    """Return the arguments of ``read_crops`` for DATALIST[:section], by default ``training``."""
    if Path(given).exists() or ":" not in given:
        return given, values, "training"
    source, section = given.rsplit(":", 1)
    return source, values, section


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
