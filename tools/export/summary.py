"""What an export says about itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tools.export.dataset import ExportCase, ExportSet

__all__ = ["describe", "reasons", "summarize"]


def summarize(
    dataset: ExportSet,
    cases: Sequence[ExportCase],
    left_out: Mapping[str, str],
    found: Iterable[int],
) -> dict[str, Any]:
    """Return the facts of an export, JSON values only.

    Args:
        dataset: as it was read.
        cases: those written.
        left_out: name of a synthetic case -> why it was not.
        found: label values in the training cases.
    """
    absent = [
        name for value, name in enumerate(dataset.classes, start=1) if value not in set(found)
    ]
    warnings = list(dataset.warnings)
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
        "left_out": dict(left_out),
        "warnings": warnings,
    }


def reasons(left_out: Mapping[str, str]) -> str:
    """Return why synthetic cases are left out, in one line.

    Example:
        >>> reasons({"chest": "it has no lesion"})
        'chest: it has no lesion'
    """
    return "; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or "none at all"


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
