"""Answers to a reader test: how often were synthetic lesions recognised (``turing score``)?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from scipy.stats import binomtest

from tools.files import read_object
from tools.sentences import short
from tools.studies.judge import SIZES_MM
from tools.studies.reader_test import FORMAT
from tools.studies.tables import grid

__all__ = ["read_answers", "score", "score_page"]

HEADERS = ("reader", "answers", "right", "accuracy (95 %)", "p against 0.5", "median s")
NOTES = (
    "Accuracy 0.5 is chance: then synthetic lesions cannot be told from real ones. Intervals are "
    "those of Clopper and Pearson, p is two-sided; those of all readers together take answers as "
    "independent, though the readers saw the same lesions."
)


def read_answers(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Return the answers of each reader of one test.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if there is no file, one holds no answers, two are of different tests or of one
            reader.
    """
    if not paths:
        raise ValueError("answers must be one file or more, got none")
    found: list[dict[str, Any]] = []
    for path in paths:
        content = read_object(path, "answers")
        if content.get("format") != FORMAT or not _sound(content):
            raise ValueError(f"answers must be a file that the page of turing saved, got {path}")
        for other, earlier in zip(paths, found, strict=False):
            if content["test"] != earlier["test"]:
                raise ValueError(
                    f"answers must all be of one test, got {earlier['test']} in {other} and "
                    f"{short(content['test'])} in {path}"
                )
            if content["reader"] == earlier["reader"]:
                raise ValueError(
                    f"answers must be one file of each reader, got {short(content['reader'])} in "
                    f"{other} and {path}"
                )
        found.append(content)
    return found


def _sound(content: Mapping[str, Any]) -> bool:
    """Return whether what is counted is there and of its kind."""
    try:
        rows = content["answers"]
        known = {"test": str, "reader": str, "mode": str, "trials": int}
        own = {"right": bool, "view": str, "seconds": int | float, "shown": list}
        return (
            all(isinstance(content[key], kind) for key, kind in known.items())
            and all(isinstance(row[key], kind) for row in rows for key, kind in own.items())
            and all(float(each["mm"]) > 0 and row["shown"] for row in rows for each in row["shown"])
            and content["trials"] >= len(rows)
        )
    except (KeyError, TypeError, ValueError):
        return False


def score(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return accuracies, JSON values only.

    Args:
        answers: as :func:`read_answers` returns them, one or more.

    Returns:
        ``test``, ``mode``; ``readers``: by name, ``trials`` and the counts of ``all``, by view,
        size and, of single lesions, of the real and of the synthetic ones; ``pooled``: the same of
        all readers. Counts are ``answers``, ``right``, ``accuracy``, ``low`` and ``high`` (95 %),
        ``p`` and ``seconds`` (the median); groups without an answer are left out.
    """
    mode = answers[0]["mode"]
    together = [row for each in answers for row in each["answers"]]
    return {
        "test": answers[0]["test"],
        "mode": mode,
        "readers": {
            each["reader"]: {"trials": each["trials"], **_groups(each["answers"], mode)}
            for each in answers
        },
        "pooled": {"trials": sum(each["trials"] for each in answers), **_groups(together, mode)},
    }


def _groups(rows: Sequence[Mapping[str, Any]], mode: str) -> dict[str, Any]:
    kept: dict[str, Callable[[Mapping[str, Any]], bool]] = {"all": lambda row: True}
    for view in ("crop", "context"):
        kept[view] = lambda row, view=view: row["view"] == view  # type: ignore[misc]
    for low, high in pairwise(SIZES_MM):
        name = f"{low:g}-{high:g} mm" if high < 1e3 else f"{low:g} mm and more"
        kept[name] = lambda row, low=low, high=high: low <= _mm(row) < high  # type: ignore[misc]
    if mode == "single":
        kept["real ones"] = lambda row: not row["shown"][0]["synthetic"]
        kept["synthetic ones"] = lambda row: row["shown"][0]["synthetic"]
    groups = {name: [row for row in rows if rule(row)] for name, rule in kept.items()}
    return {name: _counts(own) for name, own in groups.items() if own}


def _mm(row: Mapping[str, Any]) -> float:
    """Return the mean diameter of the lesions of a trial, which are of about one size."""
    return sum(float(each["mm"]) for each in row["shown"]) / len(row["shown"])


def _counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    right = sum(row["right"] for row in rows)
    test = binomtest(right, len(rows))
    interval = test.proportion_ci(method="exact")
    return {
        "answers": len(rows),
        "right": right,
        "accuracy": right / len(rows),
        "low": float(interval.low),
        "high": float(interval.high),
        "p": float(test.pvalue),
        "seconds": float(median(row["seconds"] for row in rows)),
    }


def score_page(result: Mapping[str, Any]) -> list[str]:
    """Return the table as Markdown: each reader, then all together, with its groups below it."""
    rows = []
    for name, found in (*result["readers"].items(), ("all readers", result["pooled"])):
        for group, each in found.items():
            if group == "trials":
                continue
            whole = group == "all"
            answered = f"{each['answers']} of {found['trials']}" if whole else str(each["answers"])
            rows.append(
                [
                    name if whole else f"&nbsp; {group}",
                    answered,
                    str(each["right"]),
                    f"{each['accuracy']:.2f} ({each['low']:.2f} to {each['high']:.2f})",
                    f"{each['p']:.2g}",
                    f"{each['seconds']:.1f}",
                ]
            )
    title = f"Reader test {result['test']}, {result['mode']}"
    return [f"# {title}", "", *grid(HEADERS, rows), "", NOTES]
