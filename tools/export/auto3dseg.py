"""A dataset for Auto3DSeg: datalist with folds, input file, images and labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tools.export.cases import read_cases
from tools.export.dataset import ExportChoice, ExportSet, reasons, summarize
from tools.export.files import ENDING, RECORD_NAME, place_cases
from tools.files import new_folder, write_json
from tools.synthesis.datalist import DATALIST_FILE

__all__ = ["INPUT_FILE", "export_auto3dseg"]

INPUT_FILE = "input.yaml"
OWNS = (INPUT_FILE, DATALIST_FILE, RECORD_NAME, f"images??/*{ENDING}", f"labels??/*{ENDING}")


def export_auto3dseg(
    synthetic: str | Path,
    real: str | Path | None,
    out: str | Path,
    choice: ExportChoice | None = None,
    copy: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write ``datalist.json``, ``input.yaml``, images and labels for ``AutoRunner``.

    AutoRunner trains fold k on all cases of other folds and validates on fold k, for k from 0 to
    ``num_fold`` - 1. Synthetic cases get the fold ``num_fold``, which is one too many: they are
    trained on in every fold and validated in none. So a synthetic case whose scan is validated
    in some fold cannot be used, and is left out; ``choice.keep_derived`` puts its scan, and all of
    that patient, into the last fold instead.

    Arguments and errors are those of :func:`tools.export.cases.read_cases` and of the command. What
    was written and what was left out is returned, and lies in ``export.json``.
    """
    dataset = _unblocked(read_cases(synthetic, real, choice))
    folder = Path(out).resolve()
    with new_folder(folder, OWNS, replace=overwrite) as partial:
        paths, found, notes = place_cases(partial, dataset, copy)
        facts = summarize(dataset, found, notes) | {"out": str(folder)}
        write_json(partial / DATALIST_FILE, _datalist(dataset, paths))
        text = yaml.safe_dump(_input(folder, dataset), sort_keys=False)
        (partial / INPUT_FILE).write_text(text, encoding="utf-8")
        write_json(partial / RECORD_NAME, facts)
    return facts


def _unblocked(dataset: ExportSet) -> ExportSet:
    """Return the dataset without cases that some fold must not train on."""
    left_out = dict(dataset.left_out) | {
        case.name: f"its scan, or another of that patient, is validated in fold {case.blocked}"
        for case in dataset.cases
        if case.blocked is not None
    }
    cases = tuple(case for case in dataset.cases if case.blocked is None)
    if not any(case.synthetic for case in cases):
        raise ValueError(
            "synthetic must hold a case whose scan is not validated on (or use --keep_derived), "
            f"got {reasons(left_out)}"
        )
    return replace(dataset, cases=cases, left_out=left_out)


def _datalist(dataset: ExportSet, paths: list[dict[str, str]]) -> dict[str, Any]:
    training, testing = [], []
    for case, files in zip(dataset.cases, paths, strict=True):
        entry: dict[str, Any] = files | {"synthetic": case.synthetic}
        if case.testing:
            testing.append(entry)
        else:
            fold = dataset.folds if case.fold is None else case.fold
            training.append(entry | {"fold": fold})
    labels = {str(value): name for value, name in enumerate(dataset.classes, start=1)}
    return {
        "name": "real and synthetic cases",
        "modality": {"0": dataset.modality},
        "labels": {"0": "background"} | labels,
        "num_fold": dataset.folds,
        "training": training,
        "testing": testing,
    }


def _input(folder: Path, dataset: ExportSet) -> dict[str, Any]:
    return {
        "modality": dataset.modality,
        "datalist": str(folder / DATALIST_FILE),
        "dataroot": str(folder),
        "class_names": list(dataset.classes),
        "num_fold": dataset.folds,
        "multigpu": False,
    }
