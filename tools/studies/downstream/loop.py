"""Find what a user's network misses, synthesise such lesions, and say whether it helps.

Patients of the user's cases are divided into folds. In each fold, of the other folds' cases alone:

1. networks trained on one half of these patients are shown the other half, and the other way round:
   which lesions do they miss?
2. The misses become a mix of sizes that lesions are asked for with: the number of missed lesions of
   each range of diameters, and one more, so that no range is left out.
3. Lesions of that mix are put into sites without any, made of the same cases.
4. The network is trained with more and more of them per real case.

The held-out fold is only measured. Differences are of pairs (fold, seed, case); the ratios rise
until one harms.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import GroupKFold

from tools.bundle import choose_device
from tools.files import read_entries, read_object, write_json
from tools.studies.downstream import segmentation
from tools.studies.downstream.cases import case_name, prepared, read_cases
from tools.studies.downstream.design import BASELINE, Design
from tools.studies.downstream.effects import SIZES_MM
from tools.studies.downstream.page import gather_folds
from tools.studies.downstream.pools import write_subset
from tools.studies.downstream.runs import make_pools, make_runs, metrics_of, open_work

__all__ = ["Loop", "mix_of", "run_loop"]

POOL = "normal"  # of the preset: lesions in sites without any
MISSES = "misses.json"

logger = logging.getLogger(__name__)


class Loop(NamedTuple):
    """What is wanted; see the command."""

    design: Design
    folds: int
    ratios: tuple[float, ...]
    device: str
    workers: int


def run_loop(real: Path, out: Path, loop: Loop) -> tuple[Design, dict[str, Any]]:
    """Go through the loop, and return the design with an arm per ratio, and what was found.

    Everything that was made is kept, and taken up again.

    Args:
        real: datalist of the user's cases, or its folder; its section of training.
        out: folder of the study.
        loop: what is wanted.

    Raises:
        ValueError: if there are too few patients, or a case has no lesion of any size.
    """
    design = _with_ratios(loop)
    data = prepared(real, out / "data", loop.design.preset, validation_fraction=0.0)
    entries = read_entries(data / "datalist.json", "datalist", design.preset["sections"]["train"])
    entries = [{**each, "name": case_name(each)} for each in entries]
    works, mixes = [], []
    for number, (training, tested) in enumerate(_folds(entries, loop.folds), 1):
        place = out / f"fold_{number}"
        own = write_subset(place / "data", data, training, tested)
        mix = _mix(design, own, place, loop.device)
        mixes.append(mix)
        works.append(open_work(_asked(design, mix), own, place, loop.device))
    done = [BASELINE]
    results: dict[str, Any] = {}
    for arm in design.arms:
        for work in works:
            runs = [run for run in work.design.runs if run.arm == arm]
            make_pools(work, runs)
            make_runs(work, runs, loop.workers)
        done = [*dict.fromkeys([*done, arm])]
        results = gather_folds(
            design._replace(arms=tuple(done)), [metrics_of(work) for work in works]
        )
        if arm != BASELINE and _harms(results, arm):
            results["stopped"] = f"{design.label(arm)} harms: no higher ratio was tried"
            break
    results["misses"] = mixes
    return design._replace(arms=tuple(done)), results


def _with_ratios(loop: Loop) -> Design:
    """Return the design with all patients, and an arm per ratio in place of its own."""
    if sorted(set(loop.ratios)) != list(loop.ratios) or not loop.ratios or loop.ratios[0] <= 0:
        raise ValueError(f"ratios must rise from above 0, got {list(loop.ratios)}")
    arms: dict[str, Any] = {BASELINE: {"label": "real alone"}}
    for ratio in loop.ratios:
        arms[f"R{round(100 * ratio):03d}"] = {
            "label": f"with {ratio:g} synthetic per real",
            "pools": {POOL: ratio},
        }
    sections = {"train": "training", "test": "validation", "normal": None}
    preset = {**loop.design.preset, "arms": arms, "sections": sections, "prepare": None}
    if not (preset["normal"] or {}).get("healed"):
        raise ValueError(f"preset of a loop must have healed sites, got {preset['normal']}")
    preset |= {"normal": {"healed": True}, "published": None}
    # folds are of the user's own patients, whom the shipped weights do not know
    preset["learnt_from"] = {bundle: [] for bundle in preset["learnt_from"]}
    return loop.design._replace(preset=preset, fractions=(1.0,), arms=tuple(arms))


def _folds(
    entries: Sequence[Mapping[str, Any]], folds: int
) -> list[tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]]:
    patients = [str(each["patient"]) for each in entries if each.get("patient")]
    count = len(set(patients))
    if len(patients) < len(entries) or not 2 <= folds <= count // 2:
        raise ValueError(
            "folds must be from 2 to half the number of patients, each of whom the datalist names, "
            f"got {folds} for {count}"
        )
    split = GroupKFold(folds, shuffle=True, random_state=0)
    return [
        ([entries[k] for k in training], [entries[k] for k in tested])
        for training, tested in split.split(np.zeros(len(entries)), groups=patients)
    ]


def _mix(design: Design, data: Path, place: Path, device: str) -> list[dict[str, Any]]:
    """Return how many lesions of each size the network misses in the training cases of a fold."""
    path = place / MISSES
    if path.is_file():
        return list(read_object(path, "out")["sizes"])
    cases = read_cases(data, "training")
    halves = GroupKFold(2, shuffle=True, random_state=1)
    classes, settings = design.preset["classes"], design.preset["training"]
    rows: list[dict[str, Any]] = []
    chosen = choose_device(device)
    for first, second in halves.split(cases, groups=[case.patient for case in cases]):
        network, _ = segmentation.train([cases[k] for k in first], classes, settings, 0, chosen)
        shown = [cases[k] for k in second]
        rows += segmentation.measure(network, shown, classes, settings, chosen)
    found = [each for row in rows for part in row["classes"].values() for each in part["lesions"]]
    sizes = mix_of(found)
    write_json(path, {"sizes": sizes})
    return sizes


def mix_of(lesions: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """Return by range of diameters the number of lesions, of those missed, and the weight.

    Args:
        lesions: diameter in mm, and whether it was found, of each.

    Raises:
        ValueError: if there is none of the ranges.

    Example:
        >>> found = mix_of([[4.0, False], [5.0, False], [8.0, True]])
        >>> [(part["size_mm"], part["missed"], part["weight"]) for part in found]
        [([4.0, 6.0], 2, 3.0), ([8.0, 10.0], 0, 1.0)]
    """
    sizes = []
    for low, high in SIZES_MM:
        own = [hit for diameter, hit in lesions if low <= diameter < high]
        if own:
            missed = len(own) - sum(own)
            smallest = min(each for each, _ in lesions if low <= each < high)
            ends = [max(low, float(np.floor(smallest))), high]
            sizes.append(
                {"size_mm": ends, "lesions": len(own), "missed": missed, "weight": missed + 1.0}
            )
    if not sizes:
        raise ValueError(f"datalist must hold lesions of up to {SIZES_MM[-1][1]:g} mm, got none")
    return sizes


def _asked(design: Design, mix: Sequence[Mapping[str, Any]]) -> Design:
    """Return the design whose pool is asked for a mix of sizes."""
    pools = design.preset["pools"]
    sizes = [[part["weight"], *part["size_mm"]] for part in mix]
    pool = {**pools[POOL], "sizes": sizes}
    return design._replace(preset={**design.preset, "pools": {**pools, POOL: pool}})


def _harms(results: Mapping[str, Any], arm: str) -> bool:
    groups = [group for group in results["groups"] if group["arm"] == arm]
    return any(
        part["dice"]["effect"]["verdict"] == "harms"
        for group in groups
        for part in group["classes"].values()
    )
