"""A dataset for nnU-Net v2: images, labels, dataset.json, splits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tools.export.cases import read_cases
from tools.export.dataset import ExportChoice, ExportSet, summarize
from tools.export.files import ENDING, RECORD_NAME, place_cases
from tools.files import new_file, new_folder, write_json

__all__ = ["SPLITS_FILE", "export_nnunet", "make_splits"]

SPLITS_FILE = "splits_final.json"
OWNS = ("dataset.json", RECORD_NAME, SPLITS_FILE, f"images??/*{ENDING}", f"labels??/*{ENDING}")


def export_nnunet(
    synthetic: str | Path,
    real: str | Path | None,
    out: str | Path,
    dataset_id: int,
    name: str,
    preprocessed: str | Path | None = None,
    choice: ExportChoice | None = None,
    copy: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write ``Dataset501_Name`` for nnU-Net v2, and the splits that keep validation real.

    Arguments are those of the command. What was written and what was left out is returned, and lies
    in ``export.json``.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the datasets do not fit together, the number is taken, or the splits differ
            from those a training may have used.
    """
    folder = _dataset_folder(Path(out).resolve(), dataset_id, str(name))
    dataset = read_cases(synthetic, real, choice)
    splits = make_splits(dataset)
    text = json.dumps(splits, indent=2) + "\n"
    place = None if preprocessed is None else Path(preprocessed).resolve() / folder.name
    if place is not None:
        _check_splits(place / SPLITS_FILE, text, overwrite)
    with new_folder(folder, OWNS, replace=overwrite) as partial:
        _, found, notes = place_cases(partial, dataset, copy, channel="_0000")
        facts = summarize(dataset, found, notes)
        facts |= {"out": str(folder), "splits": str((place or folder) / SPLITS_FILE)}
        facts["not_in_fold"] = {c.name: c.blocked for c in dataset.cases if c.blocked is not None}
        write_json(partial / "dataset.json", _dataset_json(dataset))
        write_json(partial / RECORD_NAME, facts)
        (partial / SPLITS_FILE).write_text(text, encoding="utf-8")
    if place is not None:
        with new_file(place / SPLITS_FILE) as written:
            written.write_text(text, encoding="utf-8")
    return facts


def make_splits(dataset: ExportSet) -> list[dict[str, list[str]]]:
    """Return the folds in the form of ``splits_final.json``.

    In each fold, a case is validated if the fold is its own, and trained on otherwise; a synthetic
    case whose scan is validated there is in neither list. Cases to test on are in no fold.

    Example:
        >>> from tools.export.dataset import ExportCase
        >>> a, b = (ExportCase(n, Path(n), None, {}, fold=i) for i, n in enumerate("ab"))
        >>> c = ExportCase("c", Path("c"), None, {}, synthetic=True, blocked=0)
        >>> make_splits(ExportSet((a, b, c), ("lesion",), "CT", 2, {}))
        [{'train': ['b'], 'val': ['a']}, {'train': ['a', 'c'], 'val': ['b']}]
    """
    cases = [case for case in dataset.cases if not case.testing]
    return [
        {
            "train": [c.name for c in cases if fold not in (c.fold, c.blocked)],
            "val": [c.name for c in cases if c.fold == fold],
        }
        for fold in range(dataset.folds)
    ]


def _dataset_folder(out: Path, dataset_id: int, name: str) -> Path:
    """Return the folder of a dataset whose number and name are free, or its own already."""
    if isinstance(dataset_id, bool) or not isinstance(dataset_id, int) or not 0 < dataset_id < 1000:
        raise ValueError(f"dataset_id must be a whole number from 1 to 999, got {dataset_id!r}")
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise ValueError(f"name must be letters, digits and _, got {name!r}")
    folder = out / f"Dataset{dataset_id:03d}_{name}"
    others = [path.name for path in out.glob(f"Dataset{dataset_id:03d}_*") if path != folder]
    if others:
        raise ValueError(f"dataset_id must be free in {out}, got {dataset_id} which is {others[0]}")
    return folder


def _check_splits(path: Path, text: str, overwrite: bool) -> None:
    """Refuse to change splits behind the back of networks that were trained with them."""
    if path.is_file() and not overwrite and path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"preprocessed must hold no other splits, got {path}; --overwrite replaces them"
        )


def _dataset_json(dataset: ExportSet) -> dict[str, Any]:
    numbers = {name: value for value, name in enumerate(dataset.classes, start=1)}
    return {
        "channel_names": {"0": dataset.modality},
        "labels": {"background": 0} | numbers,
        "numTraining": sum(not case.testing for case in dataset.cases),
        "file_ending": ENDING,
        "description": "Real scans, and such with synthetic lesions; not for diagnostic use",
    }
