"""A dataset for Auto3DSeg: datalist with folds, input file, images and labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from tools.export.cases import read_cases
from tools.export.dataset import ExportCase, ExportChoice, ExportSet
from tools.export.files import ENDING, RECORD_NAME, place_image, place_label
from tools.export.summary import reasons, summarize
from tools.files import new_folder
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

    Args:
        synthetic: folder written by ``python -m tools synthesize``.
        real: datalist or folder, see :func:`tools.export.entries.read_real`; None: there is none.
        out: folder to write.
        choice: of the user.
        copy: copy files instead of linking to them.
        overwrite: replace an earlier export.

    Returns:
        What was written and what was left out; ``export.json`` holds the same.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the datasets do not fit together, or ``out`` holds something.
    """
    dataset = read_cases(synthetic, real, choice)
    left_out = dict(dataset.left_out)
    cases = []
    for case in dataset.cases:
        if case.blocked is None:
            cases.append(case)
        else:
            left_out[case.name] = (
                f"its scan, or another of that patient, is validated in fold {case.blocked}"
            )
    if not any(case.synthetic for case in cases):
        raise ValueError(
            "synthetic must hold a case whose scan is not validated on (or use --keep_derived), "
            f"got {reasons(left_out)}"
        )
    folder = Path(out).resolve()
    with new_folder(folder, OWNS, replace=overwrite) as partial:
        content, found = _write_files(partial, cases, dataset, copy)
        facts = summarize(dataset, cases, left_out, found) | {"out": str(folder)}
        _write(partial / DATALIST_FILE, json.dumps(content, indent=2))
        _write(partial / INPUT_FILE, yaml.safe_dump(_input(folder, dataset), sort_keys=False))
        _write(partial / RECORD_NAME, json.dumps(facts, indent=2))
    return facts


def _write_files(
    folder: Path, cases: list[ExportCase], dataset: ExportSet, copy: bool
) -> tuple[dict[str, Any], set[int]]:
    """Place images and labels; return the datalist and the label values of the training cases."""
    training, testing = [], []
    found: set[int] = set()
    for case in tqdm(cases, desc="auto3dseg", unit="case"):
        part = "Ts" if case.testing else "Tr"
        paths = {"image": f"images{part}/{case.name}{ENDING}"}
        _make_parent(folder / paths["image"])
        place_image(case.image, folder / paths["image"], copy)
        if case.label is not None:
            paths["label"] = f"labels{part}/{case.name}{ENDING}"
            _make_parent(folder / paths["label"])
            values = place_label(case, folder / paths["label"], copy)
            found |= set() if case.testing else values
        entry: dict[str, Any] = paths | {"synthetic": case.synthetic}
        if case.testing:
            testing.append(entry)
        else:
            fold = dataset.folds if case.fold is None else case.fold
            training.append(entry | {"fold": fold})
    labels = {str(value): name for value, name in enumerate(dataset.classes, start=1)}
    content = {
        "name": "real and synthetic cases",
        "modality": {"0": dataset.modality},
        "labels": {"0": "background"} | labels,
        "num_fold": dataset.folds,
        "training": training,
        "testing": testing,
    }
    return content, found


def _input(folder: Path, dataset: ExportSet) -> dict[str, Any]:
    return {
        "modality": dataset.modality,
        "datalist": str(folder / DATALIST_FILE),
        "dataroot": str(folder),
        "class_names": list(dataset.classes),
        "num_fold": dataset.folds,
        "multigpu": False,
    }


def _make_parent(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)


def _write(path: Path, text: str) -> None:
    # the folder as a whole appears under its name when it is complete
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
