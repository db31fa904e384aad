"""A dataset to export: its cases, and what the user decides about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ExportCase", "ExportChoice", "ExportSet"]


@dataclass(frozen=True)
class ExportChoice:
    """What the user decides about a dataset.

    Args:
        dataset_dir: folder that relative paths of the real datalist start from.
        rename: ``OLD:NEW`` names of synthetic classes.
        classes: names of the classes to write; empty means all.
        modality: ``CT`` or ``MRI``; None: as the datalists say.
        folds: number of folds where the real datalist has neither folds nor a validation list.
        seed: of the folds.
        keep_derived: take scans that synthetic cases were made from out of validation, so that
            all synthetic cases can be trained on in every fold.
        allow_synthetic_validation: validate on synthetic cases where there are no real ones.
    """

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

    Args:
        name: letters, digits, - and _; unique; starts with ``real`` or ``synthetic``.
        image: NIfTI file.
        label: NIfTI file; None where the scan is only tested on.
        values: value in the label file -> value to write.
        synthetic: whether lesions in it were made.
        testing: whether it is set aside for testing.
        fold: in which it is validated; None: never.
        blocked: fold in which it must not be trained on, since the scan it was made from, or
            another of that patient, is validated there; None: there is no such fold.
        source_label: label file of the scan it was made from, whose lesions it still shows.
        source_values: value in that file -> value to write.
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


@dataclass(frozen=True)
class ExportSet:
    """A dataset to write.

    Args:
        cases: all of them.
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
