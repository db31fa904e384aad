"""Find what a user's network misses, synthesise such lesions, and say whether it helps.

Patients of the user's cases are divided into folds. In each fold, of the other folds' cases alone:

1. networks trained on one half of these patients are shown the other half, and the other way round:
   which lesions do they miss?
2. The misses become requests: for sizes, contrasts and places
   (:mod:`tools.studies.downstream.misses`).
3. Such lesions are put into sites without any, made of the same cases.
4. The network is trained with more and more of them per real case.

The held-out fold is only measured. Differences are of pairs (fold, seed, case); the ratios rise
until one harms.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import GroupKFold

from tools.bundle import choose_device
from tools.files import read_entries, read_object, write_json
from tools.studies.downstream import segmentation
from tools.studies.downstream.cases import case_name, datalist_of, prepared, read_cases
from tools.studies.downstream.design import BASELINE, Design
from tools.studies.downstream.misses import observed, requests, sentence, word_means
from tools.studies.downstream.page import gather_folds
from tools.studies.downstream.pools import write_subset
from tools.studies.downstream.runs import (
    make_pools,
    make_runs,
    metrics_of,
    open_work,
    pool_organ,
)
from tools.studies.request import digest, require_one_request

__all__ = ["Loop", "run_loop"]

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
    require_one_request(out, {"real": digest(datalist_of(real)), "folds": loop.folds})
    data = prepared(real, out / "data", loop.design.preset, validation_fraction=0.0)
    entries = read_entries(data / "datalist.json", "datalist", design.preset["sections"]["train"])
    entries = [{**each, "name": case_name(each)} for each in entries]
    works, asked = [], []
    for number, (training, tested) in enumerate(_folds(entries, loop.folds), 1):
        place = out / f"fold_{number}"
        own = write_subset(place / "data", data, training, tested)
        asked.append(_requested(design, own, place, loop.device))
        works.append(open_work(_asking(design, asked[-1]), own, place, loop.device))
    done = [BASELINE]
    results: dict[str, Any] = {}
    stopped: list[str] = []
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
            stopped = [f"{design.label(arm)} harms: no higher ratio was tried"]
            break
    results["title"] = "What the network misses, and whether such lesions help it"
    missed = [f"Fold {number}: {sentence(each)}." for number, each in enumerate(asked, 1)]
    results |= {"misses": asked, "notes": [*missed, *stopped]}
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


def _requested(design: Design, data: Path, place: Path, device: str) -> dict[str, Any]:
    """Return what the misses of the training cases of a fold ask for, see :func:`requests`."""
    path = place / MISSES
    if path.is_file():
        return read_object(path, "out")
    cases = read_cases(data, "training")
    halves = GroupKFold(2, shuffle=True, random_state=1)
    classes, settings = design.preset["classes"], design.preset["training"]
    rows: list[dict[str, Any]] = []
    chosen = choose_device(device)
    for first, second in halves.split(cases, groups=[case.patient for case in cases]):
        network, _ = segmentation.train([cases[k] for k in first], classes, settings, 0, chosen)
        shown = [cases[k] for k in second]
        rows += segmentation.measure(network, shown, classes, settings, chosen)
    means = word_means(design.preset["pools"][POOL])
    found = requests(observed(cases, rows, classes), means)
    write_json(path, found)
    return found


def _asking(design: Design, wanted: Mapping[str, Any]) -> Design:
    """Return the design whose pools, one of each texture, are asked for what was missed."""
    pools, arms = dict(design.preset["pools"]), dict(design.preset["arms"])
    pool = pools.pop(POOL)
    textures = wanted["textures"] or {"": {"weight": 1.0, "sizes": wanted["sizes"]}}
    whole = sum(part["weight"] for part in textures.values())
    shares = {}
    for word, part in textures.items():
        own = {**pool, "sizes": _sizes(part["sizes"], pool_organ(design).diameter_range_mm)}
        if word:
            own["options"] = {**pool.get("options", {}), "texture": word}
        name = f"{POOL}_{word}" if word else POOL
        shares[name] = part["weight"] / whole
        pools[name] = {**own, "count": math.ceil(shares[name] * pool["count"])}
    for name, arm in arms.items():
        if ratio := arm.get("pools", {}).get(POOL):
            arms[name] = {**arm, "pools": {each: ratio * part for each, part in shares.items()}}
    weights = {name: 1 + missed for name, missed in wanted["places"].items()}
    normal = {**design.preset["normal"], "weights": weights}
    return design._replace(preset={**design.preset, "pools": pools, "arms": arms, "normal": normal})


def _sizes(parts: Sequence[Mapping[str, Any]], range_mm: tuple[float, float]) -> list[list[float]]:
    """Return the mix of sizes of a pool; what was missed may be smaller than what can be drawn."""
    mix = [[each["weight"], *np.clip(each["size_mm"], *range_mm).tolist()] for each in parts]
    return [part for part in mix if part[1] < part[2]]


def _harms(results: Mapping[str, Any], arm: str) -> bool:
    groups = [group for group in results["groups"] if group["arm"] == arm]
    return any(
        part["dice"]["effect"]["verdict"] == "harms"
        for group in groups
        for part in group["classes"].values()
    )
