"""A dataset to export: its cases, what the user decides about it, what it says about itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.sentences import a_few

__all__ = ["ExportCase", "ExportChoice", "ExportSet", "describe", "reasons", "summarize"]


@dataclass(frozen=True)
class ExportChoice:
    """What the user decides about a dataset: the options of the commands of the same names."""

    dataset_dir: str | None = None
    rename: str | None = None
    classes: Sequence[str] = ()
    modality: str | None = None
    folds: int = 5
    seed: int = 0
    keep_derived: bool = False
    allow_synthetic_validation: bool = False


@dataclass(frozen=True)
class ExportCase:
    """One case to write.

    Attributes:
        name: letters, digits, - and _; unique; starts with ``real`` or ``synthetic``.
        label: None where the scan is only tested on.
        values: value in the label file -> value to write.
        fold: in which it is validated; None: never.
        blocked: fold in which it must not be trained on, since the scan it was made from, or
            another of that patient, is validated there; None: there is no such fold.
        source_label: label file of the scan it was made from, whose lesions it still shows.
        source_values: value in that file -> value to write.
        instances: file with the number of the lesion of each voxel; None: there is none.
    """

    name: str
    image: Path
    label: Path | None
    values: Mapping[int, int]
    synthetic: bool = False
    testing: bool = False
    fold: int | None = None
    blocked: int | None = None
    source_label: Path | None = None
    source_values: Mapping[int, int] = field(default_factory=dict)
    instances: Path | None = None

    @property
    def trained(self) -> bool:
        """Whether it is trained on, in some fold."""
        return not self.testing and self.label is not None


@dataclass(frozen=True)
class ExportSet:
    """A dataset to write.

    Attributes:
        classes: names of the label values 1, 2, ...
        modality: ``CT``, ``MRI`` or another word.
        folds: number of folds that are validated, 1 or more.
        left_out: name of a synthetic case -> why it is in no fold.
        warnings: sentences for the user.
    """

    cases: tuple[ExportCase, ...]
    classes: tuple[str, ...]
    modality: str
    folds: int
    left_out: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def summarize(
    dataset: ExportSet, found: Iterable[int], notes: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the facts of an export, JSON values; ``found``: label values of training cases."""
    held, cases = set(found), dataset.cases
    absent = [name for value, name in enumerate(dataset.classes, start=1) if value not in held]
    warnings = [*dataset.warnings, *notes]
    if absent:
        warnings.append(f"no training case holds {', '.join(absent)}")
    return {
        "real_training": sum(not case.synthetic and not case.testing for case in cases),
        "synthetic_training": sum(case.synthetic for case in cases),
        "testing": sum(case.testing for case in cases),
        "classes": list(dataset.classes),
        "modality": dataset.modality,
        "folds": dataset.folds,
        "synthetic": [case.name for case in cases if case.synthetic],
        "left_out": dict(dataset.left_out),
        "warnings": warnings,
    }


def reasons(left_out: Mapping[str, str]) -> str:
    """Return why synthetic cases are left out, in one line."""
    return a_few(f"{name}: {reason}" for name, reason in left_out.items()) or "none at all"


def describe(facts: Mapping[str, Any]) -> str:
    """Return the facts of an export as lines for people."""
    lines = [
        f"{facts['real_training']} real and {facts['synthetic_training']} synthetic cases to train "
        f"on, {facts['testing']} to test on, in {facts['out']}",
        f"classes: {', '.join(facts['classes'])}; {facts['modality']}; "
        f"folds to train: 0 to {facts['folds'] - 1}",
    ]
    lines += [f"left out: {name}: {reason}" for name, reason in facts["left_out"].items()]
    lines += [f"note: {warning}" for warning in facts["warnings"]]
    return "\n".join(lines)
