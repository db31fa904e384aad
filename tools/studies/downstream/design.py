"""The design of a study of use: arms x fractions x seeds, as one JSON file declares it.

What differs between studies stands in presets, ``TASK_NAME.json`` beside this file:

* ``title``; ``task``: one of :data:`tools.studies.downstream.tasks.TASKS`;
* ``sections``: lists of the datalist to train on (``train``), to test on (``test``), and of scans
  without lesion (``normal``, null: there is none);
* ``prepare``: keys of the rule of ``prepare scans``, with the ``bundle`` whose rule it is; null:
  images are as the network wants them already;
* ``classes``: name and label value of each lesion class; of the task classification, name and
  lowest and highest rating;
* ``fractions`` of the training patients; ``seeds``: how many;
* ``protocol``: ``user``, generators with the weights they are shipped with; ``paper``, generators
  trained on the very cases of each run;
* ``pools``: synthetic cases, see :mod:`tools.studies.downstream.pools`;
* ``normal``: sites without lesion, see :mod:`tools.studies.downstream.cases`;
* ``arms``: by name, ``pools`` with the number of cases taken from each, per real case or as the
  task says; ``training``, changes of what follows; ``base``, the arm that it is compared with, P
  if left out;
* ``training``: the network and how it is trained, see
  :mod:`tools.studies.downstream.training` and the module of the task;
* ``learnt_from``: by bundle, lists of the patients that its weights, shapes and textures know,
  ``DATALIST#section``, from the folder of the real datalist, or a list of their names; ``[]``: it
  knows nobody;
* ``published``: figures of a paper.

A preset with a ``base``, the name of another, has what that one has, but for what it says itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tools.files import read_entries, read_object

__all__ = ["Design", "Run", "presets", "read_design", "require_strangers", "subset"]

KEYS = {"title", "task", "sections", "prepare", "classes", "fractions", "seeds", "protocol"}
KEYS |= {"pools", "normal", "arms", "training", "learnt_from", "published"}
PROTOCOLS = ("user", "paper")
BASELINE = "P"  # the arm without anything synthetic, to which all are compared


class Run(NamedTuple):
    """One training: an arm, on a fraction of the patients, with a seed."""

    fraction: float
    seed: int
    arm: str

    @property
    def group(self) -> str:
        """Name of the real cases, which all arms share."""
        return f"{round(1000 * self.fraction):04d}_{self.seed}"

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.group}_{self.arm}"


class Design(NamedTuple):
    """A preset, checked, with the number of seeds and steps that are wanted."""

    preset: Mapping[str, Any]
    fractions: tuple[float, ...]
    seeds: int
    arms: tuple[str, ...]

    @property
    def runs(self) -> list[Run]:
        """All trainings; those of a seed together, so that a part of them can be compared."""
        return [
            Run(fraction, seed, arm)
            for seed in range(self.seeds)
            for fraction in self.fractions
            for arm in self.arms
        ]

    def label(self, arm: str) -> str:
        """Return what an arm is called in tables."""
        return str(self.preset["arms"].get(arm, {}).get("label", arm))

    def pools(self, arm: str) -> dict[str, float]:
        """Return how many synthetic cases of each pool an arm takes per real case."""
        return dict(self.preset["arms"][arm].get("pools", {}))

    def training(self, arm: str) -> dict[str, Any]:
        """Return how the network of an arm is trained."""
        return _merged(self.preset["training"], self.preset["arms"][arm].get("training", {}))

    def base(self, arm: str) -> str:
        """Return the arm that another is compared with."""
        return str(self.preset["arms"][arm].get("base", BASELINE))


def presets(task: str) -> dict[str, Path]:
    """Return the presets of a task by name."""
    folder = Path(__file__).parent
    return {path.stem[len(task) + 1 :]: path for path in sorted(folder.glob(f"{task}_*.json"))}


def read_design(
    task: str,
    name: str,
    fractions: Sequence[float] | None = None,
    seeds: int | None = None,
    arms: Sequence[str] | None = None,
    protocol: str | None = None,
) -> Design:
    """Return a preset by name, or from a JSON file of one's own; None: as it says.

    Raises:
        ValueError: if there is none, a key is unknown or missing, or a value breaks its rule.
    """
    preset, path = _read(task, name)
    if wrong := sorted(set(preset) ^ KEYS):
        raise ValueError(f"preset must have the keys {sorted(KEYS)}, got {wrong[0]!r} in {path}")
    if preset["task"] != task:
        raise ValueError(f"preset must be of task {task}, got {preset['task']!r} in {path}")
    preset["protocol"] = protocol or preset["protocol"]
    chosen = Design(
        preset,
        tuple(float(part) for part in fractions or preset["fractions"]),
        int(preset["seeds"] if seeds is None else seeds),
        tuple(arms or preset["arms"]),
    )
    _check(chosen)
    return chosen


def _read(task: str, name: str) -> tuple[dict[str, Any], Path]:
    """Return a preset on top of its base, and its file."""
    known = presets(task)
    path = known.get(name, Path(name))
    if path.suffix != ".json":
        raise ValueError(f"preset must be one of {', '.join(known)} or a JSON file, got {name!r}")
    found = read_object(path, "preset")
    preset = {key: value for key, value in found.items() if not key.startswith("_")}
    base = preset.pop("base", None)
    return (preset if base is None else _merged(_read(task, base)[0], preset)), path


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping on top of another; what has a ``_target_`` is replaced whole."""
    result = dict(base)
    for key, value in own.items():
        before = result.get(key)
        both = isinstance(before, dict) and isinstance(value, dict) and "_target_" not in value
        result[key] = _merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def _check(design: Design) -> None:
    preset = design.preset
    if preset["protocol"] not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {PROTOCOLS}, got {preset['protocol']!r}")
    if not design.fractions or not all(0 < part <= 1 for part in design.fractions):
        raise ValueError(f"fractions must be above 0 and at most 1, got {design.fractions}")
    if design.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {design.seeds}")
    _check_arms(design)
    for name, pool in preset["pools"].items():
        for bundle in _bundles(pool):
            if bundle not in preset["learnt_from"]:
                raise ValueError(
                    f"learnt_from must say which patients {bundle} of pool {name} knows, got "
                    f"{sorted(preset['learnt_from'])}"
                )


def _check_arms(design: Design) -> None:
    preset = design.preset
    for arm in design.arms:
        if arm not in preset["arms"] or not re.fullmatch(r"\w+", arm):
            raise ValueError(f"arms must be of {', '.join(preset['arms'])}, got {arm!r}")
        for pool, ratio in design.pools(arm).items():
            if pool not in preset["pools"] or not ratio > 0:
                raise ValueError(f"pools of arm {arm} must be pools with numbers, got {pool!r}")
    if BASELINE not in design.arms or design.pools(BASELINE):
        raise ValueError(f"arms must hold {BASELINE} without pools, got {', '.join(design.arms)}")
    if lonely := [arm for arm in design.arms if design.base(arm) not in design.arms]:
        base = design.base(lonely[0])
        raise ValueError(f"base of arm {lonely[0]} must be an arm, too, got {base!r}")


def _bundles(pool: Mapping[str, Any]) -> Iterator[str]:
    """Yield the bundles that a pool draws textures and shapes with."""
    yield pool["bundle"]
    if str(pool.get("options", {}).get("shape", "diffmask")).startswith("diffmask"):
        yield "diffmask"


def subset(patients: Sequence[str], fraction: float, seed: int) -> set[str]:
    """Return some patients, at least one; those of a smaller fraction are among them.

    Example:
        >>> few, more = (subset(list("abcdefgh"), part, 0) for part in (0.25, 0.5))
        >>> len(few), len(more), few < more
        (2, 4, True)
    """
    names = sorted(set(patients))
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[k] for k in order[: max(1, round(fraction * len(names)))]}


def _patients(base: Path, listed: str) -> set[str]:
    """Return the patients of ``DATALIST#section``."""
    path, _, section = listed.partition("#")
    entries = read_entries(base / path, "learnt_from", section or "training")
    return {str(entry["patient"]) for entry in entries if entry.get("patient")}


def require_strangers(
    design: Design, tested: set[str], trained: set[str], base: Path
) -> dict[str, int]:
    """Refuse a study whose test patients anything else knows; return how many each list holds.

    Args:
        design: whose ``learnt_from`` names the lists.
        tested: patients tested on.
        trained: patients trained on, and such whose scans are normal sites.
        base: folder that the lists start from.

    Raises:
        ValueError: naming a patient that is on both sides, or a list without patients.
    """
    known = {"training": trained}
    for bundle, lists in design.preset["learnt_from"].items():
        for listed in lists:
            patients = set(listed) if isinstance(listed, list) else _patients(base, listed)
            where = "names" if isinstance(listed, list) else listed
            if not patients:
                raise ValueError(
                    f"learnt_from must list patients, got none for {bundle} in {where}"
                )
            known[f"{bundle} ({where})"] = patients
    for name, patients in known.items():
        if both := sorted(tested & patients):
            raise ValueError(
                f"test patients must be known to nothing else, got {both[0]} in {name}, too"
            )
    return {name: len(patients) for name, patients in known.items()}
