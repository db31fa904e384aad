"""The runs of a study: made once each, in any number of processes and shards."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tools import __version__
from tools.bundle import choose_device
from tools.files import read_entries, read_object, write_json
from tools.organs.organ import Organ
from tools.studies.downstream.cases import (
    Case,
    Site,
    case_loaders,
    case_name,
    datalist_of,
    healthy_sites,
    prepared,
    read_cases,
)
from tools.studies.downstream.design import Design, Run, require_strangers, subset
from tools.studies.downstream.pools import Pool, write_subset
from tools.studies.downstream.tasks import TASKS
from tools.studies.other_organ import table_of
from tools.studies.request import digest, require_one_request

__all__ = [
    "METRICS",
    "Work",
    "make_pools",
    "make_runs",
    "metrics_of",
    "open_work",
    "pool_organ",
    "shard_of",
]

METRICS = "metrics.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """All that the processes of a study share; plain data, sent to each.

    Attributes:
        design: what is wanted.
        out: folder of the study.
        folder: of the prepared datalist.
        base: of the real datalist as it was given.
        device: of networks.
    """

    design: Design
    out: Path
    folder: Path
    base: Path
    device: str

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Entries of the training section, with a name each."""
        section = self.design.preset["sections"]["train"]
        found = read_entries(self.folder / "datalist.json", "real", section)
        return [{**each, "name": case_name(each)} for each in found]

    def of_group(self, run: Run) -> list[dict[str, Any]]:
        """Return the real cases of a run."""
        entries = self.entries
        chosen = subset([each["patient"] for each in entries], run.fraction, run.seed)
        return [each for each in entries if each["patient"] in chosen]

    def pool(self, name: str, run: Run, organ: Organ) -> Pool:
        """Return a pool, of the group of a run if it depends on it."""
        preset = self.design.preset
        group = self.out / "groups" / run.group
        rule, protocol = preset["pools"][name], preset["protocol"]
        place = self.out / "pools"
        folders = (group, self.folder)
        return Pool(name, rule, protocol, organ, place, run.group, *folders, self.device)


def open_work(design: Design, real: Path, out: Path, device: str = "auto") -> Work:
    """Return the work of a study, its real cases prepared and its patients kept apart.

    Raises:
        ValueError: if a test patient is known to anything else, or ``out`` holds a study of other
            cases.
    """
    choose_device(device)
    base = real if real.is_dir() else real.parent
    asked = {key: design.preset[key] for key in ("prepare", "normal", "sections")}
    require_one_request(out, {"real": digest(datalist_of(real)), **asked})
    work = Work(design, out, prepared(real, out / "real", design.preset), base, device)
    sections, listed = design.preset["sections"], work.folder / "datalist.json"
    patients = {
        name: {str(each.get("patient")) for each in read_entries(listed, "real", section)}
        for name, section in sections.items()
        if section
    }
    trained = patients["train"] | patients.get("normal", set())
    trained |= {each["patient"] for each in (design.preset["normal"] or {}).get("scans", [])}
    known = require_strangers(_named(design, real), patients["test"], trained, base)
    facts = {"tested": len(patients["test"]), "known": known, "version": __version__}
    write_json(out / "study.json", {"preset": dict(design.preset), "patients": facts})
    return work


def _named(design: Design, real: Path) -> Design:
    """Let ``#section`` of ``learnt_from`` mean the real datalist itself."""
    own = "datalist.json" if real.is_dir() else real.name
    lists = {
        bundle: [own + each if str(each).startswith("#") else each for each in texts]
        for bundle, texts in design.preset["learnt_from"].items()
    }
    return design._replace(preset={**design.preset, "learnt_from": lists})


def shard_of(text: str) -> tuple[int, int]:
    """Return which part of how many: ``2/8`` is the second of eight.

    Example:
        >>> shard_of("2/8")
        (1, 8)
    """
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise ValueError(f"shard must be I/N with I from 1 to N, such as 1/4, got {text!r}")
    return int(first) - 1, int(count)


def make_pools(work: Work, runs: Sequence[Run]) -> None:
    """Make the synthetic cases that runs take."""
    organ = pool_organ(work.design)
    sites: list[Site] | None = None
    needed: dict[Path, tuple[Pool, dict[str, dict[str, Any]]]] = {}
    for run in runs:
        for name in work.design.pools(run.arm):
            pool, entries = work.pool(name, run, organ), work.of_group(run)
            _, wanted = needed.setdefault(pool.place, (pool, {}))
            wanted.update({each["name"]: _with_paths(each, work.folder) for each in entries})
            if pool.own:
                write_subset(pool.subset, work.folder, entries)
    for pool, _ in needed.values():
        pool.check()  # what one of them refuses costs no drawing
    for pool, wanted in needed.values():
        if sites is None and pool.rule["sites"] == "normal":
            sites = _sites(work, organ)
        pool.fill(list(wanted.values()), sites or [])


def pool_organ(design: Design) -> Organ:
    """Return the organ of the lesions of a design."""
    pool = next(iter(design.preset["pools"].values()))
    return table_of(pool["bundle"], pool.get("options", {}).get("organ"))


def _with_paths(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    paths = {key: folder / entry[key] for key in ("image", "label")}
    return {**entry, **paths}


def _sites(work: Work, organ: Organ, healed: bool = True) -> list[Site]:
    """Return sites without lesion in an order of chance; those of scans alone if not healed."""
    preset = work.design.preset
    if not healed and preset["normal"]:
        preset = {**preset, "normal": {**preset["normal"], "healed": False}}
    weights = (preset["normal"] or {}).get("weights", {})
    loaders = case_loaders(work.folder, preset["sections"]["train"])
    training = [load for name, load in loaders.items() for _ in range(weights.get(name, 1))]
    sites = healthy_sites(preset, organ, training, work.folder, work.base, work.out / "sites")
    order = np.random.default_rng(0).permutation(len(sites))
    return [sites[k] for k in order]


def make_runs(work: Work, runs: Sequence[Run], workers: int = 1) -> None:
    """Train and measure the runs that are not done.

    Args:
        work: of the study.
        runs: those of this process or shard.
        workers: processes; on several GPUs each takes the next one.
    """
    pending = [run for run in runs if not _done(work, run)]
    logger.info("%d of %d runs are to be made", len(pending), len(runs))
    if workers == 1 or len(pending) < 2:
        _make_several(work, pending, 0)
        return
    # spawn: a forked child would inherit the locks of torch's threads and could wait for ever
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        parts = [pending[k::workers] for k in range(workers)]
        for job in [pool.submit(_make_several, work, part, k) for k, part in enumerate(parts)]:
            job.result()


def metrics_of(work: Work) -> dict[Run, Path]:
    """Return where the metrics of each run are, or will be."""
    return {run: _folder(work, run) / METRICS for run in work.design.runs}


def _folder(work: Work, run: Run) -> Path:
    return work.out / "runs" / run.name


def _request(work: Work, run: Run) -> dict[str, Any]:
    """Return all that decides what a run becomes."""
    preset = work.design.preset
    pools = {name: preset["pools"][name] for name in work.design.pools(run.arm)}
    return {
        "run": run._asdict(),
        "pools": pools,
        "ratios": work.design.pools(run.arm),
        "training": work.design.training(run.arm),
        **{key: preset[key] for key in ("classes", "sections", "protocol")},
    }


def _hash(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _done(work: Work, run: Run) -> bool:
    """Return whether a run is there.

    Raises:
        ValueError: if it was made with another request.
    """
    path = _folder(work, run) / METRICS
    if not path.is_file():
        return False
    made = read_object(path, "out").get("request")
    if made != _hash(_request(work, run)):
        raise ValueError(f"out must hold runs of one preset, got another in {path}")
    return True


def _make_several(work: Work, runs: Sequence[Run], number: int) -> None:
    if not runs:
        return
    device = choose_device(work.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", number % torch.cuda.device_count())
    sections = work.design.preset["sections"]
    names = {each["name"] for run in runs for each in work.of_group(run)}
    organ = pool_organ(work.design)
    healthy = TASKS[work.design.preset["task"]].HEALTHY
    data = _Data(
        read_cases(work.folder, sections["train"], names),
        [site() for site in _sites(work, organ, healed=False)] if healthy else [],
        read_cases(work.folder, sections["test"]),
        organ,
    )
    for run in runs:
        _make(work, run, data, device)


class _Data(NamedTuple):
    """What the runs of a process share."""

    training: Sequence[Case]
    healthy: Sequence[Case]  # that all arms are trained on, of scans without lesion
    tested: Sequence[Case]
    organ: Organ


def _make(work: Work, run: Run, data: _Data, device: torch.device) -> None:
    preset, start = work.design.preset, time.perf_counter()
    task, classes = TASKS[preset["task"]], preset["classes"]
    settings = work.design.training(run.arm)
    names = {each["name"] for each in work.of_group(run)}
    real = [case for case in data.training if case.name in names]
    trained = {case.patient for case in (*real, *data.healthy)}
    if trained & {case.patient for case in data.tested}:
        raise ValueError(f"test patients must not be trained on, got some in {run.name}")
    taken, made = task.kept(real, classes, settings, run.seed), dict[str, list[Case]]()
    for name, ratio in work.design.pools(run.arm).items():
        pool = work.pool(name, run, data.organ)
        count = task.synthetic_cases(pool.rule, ratio, real, taken, classes, settings)
        made[name] = _taken(pool, run, names, count)
    synthetic = [case for part in made.values() for case in part]
    group = partial(task.group, classes=classes, settings=settings)
    often = repeated(taken, synthetic, settings.get("real_share"), group)
    cases = [*often, *data.healthy, *synthetic]
    network, losses = task.train(cases, classes, settings, run.seed, device)
    rows = list(task.measure(network, data.tested, classes, settings, device))
    request = _request(work, run)
    facts = {
        "request": _hash(request),
        "config": request,
        "real": len(taken),
        "patients": len({case.patient for case in taken}),
        "synthetic": {name: len(part) for name, part in made.items()},
        "seconds": round(time.perf_counter() - start, 1),
        "device": str(device),
        "losses": [round(loss, 4) for loss in losses],
        "cases": rows,
    }
    folder = _folder(work, run)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / METRICS, facts, indent=None)
    logger.info("%s: %.0f s", run.name, facts["seconds"])


def repeated(
    real: Sequence[Case],
    synthetic: Sequence[Case],
    share: float | None,
    group: Callable[[Case], int | None],
) -> list[Case]:
    """Return the real cases, so often that they are at least about this share of each group."""
    own, other = Counter(map(group, real)), Counter(map(group, synthetic))
    often = {key: times(count, other[key], share) for key, count in own.items()}
    rounds = range(max(often.values(), default=0))
    return [case for k in rounds for case in real if k < often[group(case)]]


def times(real: int, synthetic: int, share: float | None) -> int:
    """Return how often each real case is taken, so that they are at least this share of all.

    Example:
        >>> times(10, 30, None), times(10, 30, 0.5), times(10, 5, 0.5)
        (1, 3, 1)
    """
    if share is None:
        return 1
    if not 0 <= share < 1:
        raise ValueError(f"real_share must be from 0 to below 1, got {share}")
    return max(1, round(synthetic * share / (1 - share) / real))


def _taken(pool: Pool, run: Run, names: set[str], count: int) -> list[Case]:
    """Return so many cases of a pool, drawn by the seed of the run, or all that there are."""
    if not count:
        return []
    own = names if pool.rule["sites"] == "lesions" else None
    cases = list(pool.read(own))
    if not cases:
        raise ValueError(f"pool must hold cases, got none in {pool.place}")
    if len(cases) < count:
        logger.warning("%s: %d cases of %s, not %d", run.name, len(cases), pool.name, count)
    order = np.random.default_rng([run.seed, 1]).permutation(len(cases))
    return [cases[k] for k in order[:count]]
