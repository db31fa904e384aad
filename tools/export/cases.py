"""Synthetic and real cases as one list that every export writes from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import GroupKFold

from tools.export.classes import ClassTable, merge_classes, parse_rename, read_labels
from tools.export.dataset import ExportCase, ExportChoice, ExportSet, reasons
from tools.export.entries import (
    MODALITIES,
    RealEntry,
    SyntheticEntry,
    read_modality,
    read_real,
    read_synthetic,
)

__all__ = ["read_cases"]


def read_cases(
    synthetic: str | Path, real: str | Path | None, choice: ExportChoice | None = None
) -> ExportSet:
    """Read a synthetic dataset and a real one, and decide who may be trained on where.

    Synthetic cases are never tested on, and validated on only if there is nothing else and the
    choice allows it. One that was made from a scan of the real dataset (same SHA-256) is left out
    if that scan, or another of its patient, is tested on, and ``blocked`` in the fold where it is
    validated. Cases without lesion are left out: they are copies of their scan.

    See :func:`tools.export.entries.read_synthetic` and :func:`tools.export.entries.read_real`;
    ``real`` is None where there is no such dataset.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the datasets do not fit together, or nothing real could be validated.
    """
    choice = choice or ExportChoice()
    rename = parse_rename(choice.rename)
    content, made = read_synthetic(synthetic)
    real_content, scans = ({}, []) if real is None else read_real(real, choice.dataset_dir)
    copies = {entry.sha256 for entry in made} & {scan.sha256 for scan in scans}
    if copies:
        names = [scan.name for scan in scans if scan.sha256 in copies]
        raise ValueError(f"real must list no synthetic case, got {names} which are in {synthetic}")
    table = merge_classes(
        None if real is None else read_labels(real_content, "real"),
        read_labels(content, "synthetic"),
        rename,
        choice.classes,
    )
    modality = _modality(choice.modality, read_modality(real_content, "real"), content)
    usable, left_out = _usable(made, scans)
    folds = _real_folds(scans, usable, choice)
    if not folds and not choice.allow_synthetic_validation:
        raise ValueError(
            "real must have cases to validate on, got none: synthetic ones are validated on only "
            "with --allow_synthetic_validation"
        )
    cases = [_real_case(scan, table, folds) for scan in scans if scan.section != "other"]
    cases += _synthetic_cases(usable, scans, table, folds, choice, left_out)
    if not any(case.synthetic for case in cases):
        raise ValueError(
            f"synthetic must hold a case that may be trained on, got {reasons(left_out)}"
        )
    validated = {case.fold for case in cases if case.fold is not None}
    missing = (
        f"synthetic labels do not mark {', '.join(table.missing)}: it is background there unless "
        "the scan is a labelled one of real; --classes leaves classes out"
    )
    warnings = (missing,) if table.missing else ()
    return ExportSet(_unique(cases), table.names, modality, len(validated), left_out, warnings)


def _modality(wanted: str | None, real: str | None, content: Mapping) -> str:
    made = read_modality(content, "synthetic")
    if wanted is not None:
        return MODALITIES.get(wanted.upper(), wanted)
    if real is not None and made is not None and real != made:
        raise ValueError(
            f"modality of real and synthetic must agree, got {real} and {made}; --modality decides"
        )
    return real or made or "CT"


def _usable(
    made: Sequence[SyntheticEntry], scans: Sequence[RealEntry]
) -> tuple[list[SyntheticEntry], dict[str, str]]:
    """Part cases that can be trained on at all from those that cannot."""
    tested = {scan.group for scan in scans if scan.section == "testing"}
    groups = {scan.sha256: scan.group for scan in scans}
    left_out = {}
    for entry in made:
        if not entry.record.lesions:
            left_out[entry.name] = "it has no lesion, it is a copy of its scan"
        elif groups.get(entry.record.sha256) in tested:
            left_out[entry.name] = "its scan, or another of that patient, is tested on"
    return [entry for entry in made if entry.name not in left_out], left_out


def _real_folds(
    scans: Sequence[RealEntry], made: Sequence[SyntheticEntry], choice: ExportChoice
) -> dict[str, int]:
    """Return in which fold each patient is validated; who is not in it never is."""
    trained = [scan for scan in scans if scan.section in ("training", "validation")]
    if not trained:
        return {}
    groups = [scan.group for scan in trained]
    validation = any(scan.section == "validation" for scan in trained)
    stated = [scan.fold is not None for scan in trained]
    if any(stated) and (validation or not all(stated)):
        raise ValueError(
            "real must have a fold in every entry, or a validation list, or neither, got "
            f"{sum(stated)} of {len(stated)} entries with a fold and "
            f"{'a' if validation else 'no'} validation list"
        )
    sources = {entry.record.sha256 for entry in made}
    moved = {scan.group for scan in scans if choice.keep_derived and scan.sha256 in sources}
    given: list[int | None]
    if all(stated):
        given = [scan.fold for scan in trained]
    elif validation:
        given = [0 if scan.section == "validation" else None for scan in trained]
    else:
        free = [group for group in groups if group not in moved]
        dealt = dict(zip(free, _assign_folds(free, choice.folds, choice.seed), strict=True))
        given = [dealt.get(group) for group in groups]
    folds = _whole_groups(groups, given)
    kept = {group: fold for group, fold in folds.items() if group not in moved}
    emptied = set(folds.values()) - set(kept.values())
    if emptied:
        raise ValueError(
            "folds must each keep a scan that no synthetic case was made from (keep_derived), got "
            f"none in {sorted(emptied)}"
        )
    return kept


def _assign_folds(groups: Sequence[str], folds: int, seed: int = 0) -> list[int]:
    """Return the fold of each case; cases of one group go to the same."""
    count = len(set(groups))
    if not isinstance(folds, int) or not 2 <= folds <= count:
        raise ValueError(
            f"folds must be a whole number from 2 to the number of patients that can be validated "
            f"({count}), got {folds}"
        )
    result = np.zeros(len(groups), int)
    split = GroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    for fold, (_, validated) in enumerate(split.split(result, groups=list(groups))):
        result[validated] = fold
    return result.tolist()


def _whole_groups(groups: Sequence[str], folds: Sequence[int | None]) -> dict[str, int]:
    """Return the fold of each group, of those that are validated at all (None: it never is)."""
    places: dict[str, int | None] = {}
    for group, fold in zip(groups, folds, strict=True):
        if places.setdefault(group, fold) != fold:
            raise ValueError(
                "real scans of one patient must lie in one fold, got "
                f"{group[:40]} in {places[group]} and {fold} (None: never validated)"
            )
    result = {group: fold for group, fold in places.items() if fold is not None}
    used = sorted(set(result.values()))
    if used != list(range(len(used))):
        raise ValueError(f"folds of real must be 0, 1, ... without gaps, got {used}")
    return result


def _real_case(scan: RealEntry, table: ClassTable, folds: Mapping[str, int]) -> ExportCase:
    testing = scan.section == "testing"
    fold = None if testing else folds.get(scan.group)
    return ExportCase(
        f"real_{scan.name}", scan.image, scan.label, table.real, testing=testing, fold=fold
    )


def _synthetic_cases(
    made: Sequence[SyntheticEntry],
    scans: Sequence[RealEntry],
    table: ClassTable,
    folds: Mapping[str, int],
    choice: ExportChoice,
    left_out: dict[str, str],
) -> list[ExportCase]:
    """Return the cases; one that no fold may train on goes to ``left_out`` instead."""
    by_hash = {scan.sha256: scan for scan in reversed(scans)}
    by_hash |= {scan.sha256: scan for scan in scans if scan.label is not None}
    # one patient must not be on both sides where synthetic cases are all there is
    hashes = [entry.record.sha256 for entry in made]
    groups = [by_hash[sha256].group if sha256 in by_hash else sha256 for sha256 in hashes]
    dealt = [None] * len(made) if folds else _assign_folds(groups, choice.folds, choice.seed)
    only_fold = len(set(folds.values())) == 1
    result = []
    for entry, fold in zip(made, dealt, strict=True):
        source = by_hash.get(entry.record.sha256)
        blocked = None if source is None else folds.get(source.group)
        if blocked is not None and only_fold:
            left_out[entry.name] = "its scan, or another of that patient, is validated on"
            continue
        own = None if source is None else source.label
        result.append(
            ExportCase(
                name=f"synthetic_{entry.name}",
                image=entry.image,
                label=entry.label,
                values=table.synthetic,
                synthetic=True,
                fold=fold,
                blocked=blocked,
                source_label=own,
                source_values=table.real if own else {},
                instances=entry.instances,
            )
        )
    return result


def _unique(cases: Sequence[ExportCase]) -> tuple[ExportCase, ...]:
    """Give safe names, none twice even where upper and lower case are the same."""
    seen: set[str] = set()
    result = []
    for case in cases:
        safe = re.sub(r"[^A-Za-z0-9-]+", "_", case.name).strip("_")
        name, number = safe, 2
        while name.lower() in seen:
            name, number = f"{safe}_{number}", number + 1
        seen.add(name.lower())
        result.append(replace(case, name=name))
    return tuple(result)
