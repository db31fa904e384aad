"""Commands that find out whether synthetic lesions help (``study``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tools.commands.arguments import Number, Seed
from tools.commands.result import Result

__all__ = ["adapt", "study_classification", "study_detection", "study_loop", "study_segmentation"]


def adapt(
    datalist: str,
    out: str,
    bundle: str = "lefusion_lidc",
    folds: Number = 3,
    epochs: Number = 20,
    learning_rate: float = 0.0002,
    steps: Number | None = None,
    weights: str | None = None,
    classes: Sequence[int] = (),
    dataset_dir: str | None = None,
    organ: str | None = None,
    window_hu: tuple[float, float] | None = None,
    device: str = "auto",
    seed: Seed = 0,
) -> Result:
    """Fine-tune a bundle on 10 to 50 lesions of your own, and say whether it got better.

    The lesions are divided into folds by patient. In each, the bundle learns from the others, and
    the fold's lesions are drawn anew at their masks before and after, and judged against the real
    ones. OUT/adapted is the bundle trained on all of them: a folder that synthesize takes.

    Example: python -m tools adapt --bundle lefusion_lidc --datalist mine/datalist.json --out
        out/adapted

    Example: python -m tools synthesize --bundle out/adapted/adapted --scan scan.nii.gz --out out

    Example: python -m tools adapt --organ liver --window_hu -100,250 --datalist
        livers/datalist.json --out out/liver

    An interrupted run goes on where it stopped when the same command is given again.

    Args:
        datalist: as prepare scans takes it: scans with lesion masks, the patient of each.
        out: folder to write: adapted (the bundle), adapt.md and adapt.json (before and after),
            fold_1, ... and all (datalists, trainings, comparisons), data (windows).
        bundle: name or folder; one that draws lesions and whose train.json has start_weights.
        folds: of patients, 2 or more; each must hold 4 lesions.
        epochs: of each training.
        learning_rate: of each training; lower than that of a new network.
        steps: of the sampler in the comparison; default: as compare.
        weights: to start from; default: the bundle's.
        classes: label values that are lesions; default: as the bundle says.
        dataset_dir: folder that the paths of the datalist may lead to as well.
        organ: another than the bundle's: liver, pancreas, kidney, or the JSON file of a table such
            as those of tools/organs; textures are then called dark, medium and bright, after groups
            of your lesions.
        window_hu: of that organ, the two HU between which the bundle tells intensities apart;
            default: the bundle's.
        device: of the comparison: auto, cpu, cuda or cuda:N; the training takes a GPU if there is
            one.
        seed: of folds, training and comparison.
    """
    from tools.files import claimed
    from tools.studies.adapt import FILES, Adaptation, table
    from tools.studies.adapt import adapt as run

    given = dict(locals())
    wanted = Adaptation(**{name: given[name] for name in Adaptation._fields})
    with claimed(out, FILES) as folder:
        results = run(datalist, folder.resolve(), wanted)
    text = "\n".join([*table(results), "", f"the bundle: {results['adapted']}"])
    return Result(text, {"out": out, **results})


OPTIONS = """
        out: folder to write: results.html (all of it, opens offline), results.md, results.csv,
            results.json, results.png; study.json (the preset, and which patients are known to
            what); real, sites and pools (cases), runs (one folder each).
        preset: {presets}, or a JSON file of the same keys, which
            tools/studies/downstream/design.py and {task}.py explain.
        fractions: of the training patients; default: as the preset says, as are the next three.
        arms: of the preset; P must be one, and the one that an arm is compared with.
        seeds: how many.
        protocol: user, generators as they are shipped; paper, generators trained on the very cases
            of each run.
        workers: runs made at once, each in a process; on several GPUs each takes the next.
        shard: I/N, the I-th of N parts of the runs.
        only: pools, runs or report; all of them otherwise.
        device: auto, cpu, cuda or cuda:N.
"""


def _command(task: str, presets: str, text: str) -> Callable[..., Result]:
    """Return the command of a task; its help is a text, which ends with ``real``, and OPTIONS."""

    def study(
        real: str,
        out: str,
        preset: str = presets.partition(",")[0],
        fractions: Sequence[float] | None = None,
        arms: Sequence[str] | None = None,
        seeds: Number | None = None,
        protocol: str | None = None,
        workers: Number = 1,
        shard: str = "1/1",
        only: str = "all",
        device: str = "auto",
    ) -> Result:
        from tools.studies.downstream.design import read_design

        design = read_design(task, preset, fractions, seeds, arms, protocol)
        return _studied(design, real, out, workers, shard, only, device)

    study.__name__ = study.__qualname__ = f"study_{task}"
    study.__doc__ = text.rstrip() + OPTIONS.format(presets=presets, task=task)
    return study


def _studied(
    design: Any, real: str, out: str, workers: int, shard: str, only: str, device: str
) -> Result:
    from pathlib import Path

    from tools.files import claimed, require_apart
    from tools.studies.downstream.page import FILES, gather, write_pages
    from tools.studies.downstream.runs import (
        make_pools,
        make_runs,
        metrics_of,
        open_work,
        shard_of,
    )

    stages = ("pools", "runs", "report", "all")
    if only not in stages:
        raise ValueError(f"only must be one of {', '.join(stages)}, got {only!r}")
    part, count = shard_of(shard)
    source = Path(real)
    require_apart(out, [source if source.is_dir() else source.parent])
    with claimed(
        out, (*FILES, "request.json", "real", "sites", "pools", "groups", "weights", "runs")
    ) as folder:
        work = open_work(design, source, folder, device)
        mine = design.runs[part::count]
        if only in ("pools", "all"):
            make_pools(work, mine)
        if only in ("runs", "all"):
            make_runs(work, mine, workers)
        results = gather(design, metrics_of(work))
        lines = write_pages(folder, design, results)
    return Result("\n".join([*lines, "", f"open {out}/results.html"]), {"out": out, **results})


study_segmentation = _command(
    "segmentation",
    "lung_small, lung_full, heart_small, heart_full, liver_small, liver_full",
    """Train a network to outline lesions with and without synthetic ones, and tell the difference.

    Each arm is trained on the same real cases for as many steps, with equal seeds: P, real cases
    alone; P+P', with the same lesions drawn anew; P+N' and P+N'', with lesions in sites that had
    none. The test cases are those of the preset's test section: their patients are in no training,
    no generator, no shape and no texture, which is checked before anything starts.

    Example: python -m tools study segmentation --real data/lidc_nodules --out out/study

    Example: python -m tools study segmentation --real work/emidec --preset heart_small --out
        out/hearts --fractions 0.25,1 --seeds 5

    Synthetic cases are made first and kept, then each run leaves its configuration and metrics in
    a folder of its own; what is there is not made again, so the same command goes on after an
    interruption. Tables are written of all runs that are there. On a cluster: --only pools once,
    then one job per shard (Slurm: --shard $SLURM_ARRAY_TASK_ID/16 --only runs), then --only report.

    Args:
        real: datalist, or its folder, of real scans with label maps and the patient of each.
""",
)

study_classification = _command(
    "classification",
    "small, full",
    """Train a network to tell nodules apart, minority classes filled up by synthetic ones or not.

    Solid, part-solid and ground-glass by the readers' rating of texture. Arms: P, real cases alone;
    P_balanced, the same drawn equally often of each class; F_..., the two rarer classes filled up
    to the most frequent one by a method; K050, K020, K010 and K000, that share of the real cases of
    the rarer classes kept, alone and filled up.

    Example: python -m tools study classification --real data/lidc_nodules --out out/subtypes

    Example: python -m tools study classification --real data/lidc_nodules --out out/subtypes
        --arms P,P_balanced,F_lefusion --seeds 6

    AUROC and AUPRC, macro, by class and by diameter, with intervals over seeds and patients and the
    rank test over runs. Stages, files and restarts are those of study segmentation.

    Args:
        real: datalist, or its folder, of lesions with their mask, their ratings, and the patient of
            each.
""",
)

study_detection = _command(
    "detection",
    "small, full",
    """Train a network to tell nodules from vessels, with and without synthetic nodules.

    Candidates are bright blobs in the lung, found by a fixed rule; a network scores the patch round
    each. It is trained on candidates in nodules and, as hard negatives, on others of the same cases
    and of scans without lesion. This is false-positive reduction, not a detector of its own.

    Example: python -m tools study detection --real data/lidc_cubes --out out/detection

    FROC (share found at 1/8 to 8 false candidates per case, and their mean, CPM), precision and
    recall, by diameter, with intervals over seeds and patients. Stages, files and restarts are
    those of study segmentation.

    Args:
        real: datalist, or its folder, of windows or scans at 1 mm with the mask of all nodules and
            the patient of each.
""",
)


def study_loop(
    datalist: str,
    out: str,
    preset: str = "lung_small",
    folds: Number = 3,
    ratios: Sequence[float] = (0.5, 1, 2),
    seeds: Number = 3,
    workers: Number = 1,
    device: str = "auto",
) -> Result:
    """Find out whether synthetic lesions help on your own cases, and how many.

    Your patients are divided into folds. In each, a network is trained on the other folds' cases,
    the lesions that such networks miss there become sizes, textures and places that are asked for,
    such lesions are put into healthy surroundings of the same cases, and the network is trained
    again with more and more of them. The fold itself is only measured. For each ratio one verdict:
    helps, no difference or harms, with its interval; after one that harms no higher one is tried.

    Example: python -m tools study loop --datalist mine/datalist.json --out out/loop

    Each step is kept, so the same command goes on after an interruption. The generators are used
    as they are shipped: patients they were trained on must not be among yours.

    Args:
        datalist: scans with lesion masks and the patient of each, section training.
        out: folder to write: results.html, results.md, results.csv, results.json, results.png;
            fold_1, ... with misses.json and the runs; data (cases as the network sees them).
        preset: what is trained and what draws lesions, as of study segmentation.
        folds: of patients, 2 or more.
        ratios: synthetic cases per real one, rising.
        seeds: how many networks of each.
        workers: runs made at once.
        device: auto, cpu, cuda or cuda:N.
    """
    from pathlib import Path

    from tools.files import claimed, require_apart
    from tools.studies.downstream.design import read_design
    from tools.studies.downstream.loop import Loop, run_loop
    from tools.studies.downstream.page import FILES, write_pages

    design = read_design("segmentation", preset, seeds=seeds)
    source = Path(datalist)
    require_apart(out, [source if source.is_dir() else source.parent])
    loop = Loop(design, folds, tuple(float(ratio) for ratio in ratios), device, workers)
    with claimed(out, (*FILES, "request.json", "data", "fold_*")) as folder:
        tried, results = run_loop(source, folder, loop)
        lines = write_pages(folder, tried, results)
    text = [*lines, "", f"open {out}/results.html"]
    return Result("\n".join(text), {"out": out, **results})
