"""Label values of two datasets under one list of classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.sentences import short

__all__ = ["ClassTable", "merge_classes", "parse_rename", "read_labels"]

BACKGROUND = "background"
VALUE = re.compile(r"[0-9]{1,3}")


@dataclass(frozen=True)
class ClassTable:
    """The classes that are written, and what the values of the files become.

    Attributes:
        names: of the values 1, 2, ...; 0 is the background.
        real: value in a real label file -> value written; ``synthetic``: the same of those.
        missing: classes that no synthetic label has.
    """

    names: tuple[str, ...]
    real: Mapping[int, int]
    synthetic: Mapping[int, int]
    missing: tuple[str, ...] = ()


def read_labels(content: Mapping[str, Any], argument: str) -> dict[int, str]:
    """Return the names of label values that a datalist states, without the background.

    ``labels`` is ``{"1": "tumour"}`` (Decathlon) or ``{"tumour": 1}`` (nnU-Net); without it the
    result is empty.

    Raises:
        ValueError: if a value is no whole number from 0 to 255, or a name comes twice.

    Example:
        >>> read_labels({"labels": {"background": 0, "tumour": 1}}, "real")
        {1: 'tumour'}
    """
    stated = content.get("labels") or {}
    if not isinstance(stated, Mapping):
        raise ValueError(f"labels of {argument} must be a mapping, got {stated!r}")
    names: dict[int, str] = {}
    for key, item in stated.items():
        value, name = (key, item) if VALUE.fullmatch(key) else (item, key)
        if not VALUE.fullmatch(str(value)) or int(value) > 255 or not isinstance(name, str):
            raise ValueError(
                f"labels of {argument} must be 0 to 255 with names, got {short(stated)}"
            )
        names[int(value)] = name
    if BACKGROUND in [name.casefold() for value, name in names.items() if value]:
        raise ValueError(f"labels of {argument} must call 0 alone {BACKGROUND}, got {names}")
    if len(set(names.values())) < len(names):
        raise ValueError(f"labels of {argument} must have names all different, got {names}")
    return {value: names[value] for value in sorted(names) if value != 0}


def parse_rename(text: str | None) -> dict[str, str]:
    """Return the names behind ``OLD:NEW,OLD:NEW``."""
    pairs = [part.split(":") for part in text.split(",")] if text else []
    if any(len(pair) != 2 or not all(word.strip() for word in pair) for pair in pairs):
        raise ValueError(f"rename must be OLD:NEW, several with commas, got {text!r}")
    names = {old.strip(): new.strip() for old, new in pairs}
    if len(names) < len(pairs) or BACKGROUND in map(str.casefold, names.values()):
        raise ValueError(
            f"rename must name each class once, and none {BACKGROUND} (classes leaves out those "
            f"that are not named there), got {text!r}"
        )
    return names


def merge_classes(
    real: Mapping[int, str] | None,
    synthetic: Mapping[int, str],
    rename: Mapping[str, str] | None = None,
    keep: Sequence[str] = (),
) -> ClassTable:
    """Bring two sets of label values under one list of classes, matched by name.

    Values written are 1, 2, ... without gaps: the real classes in their order, then synthetic ones
    that are new. A synthetic class that no real one is named like is most likely the same thing
    under another name, so it is refused until ``rename`` says what it is.

    Args:
        real: value -> name; empty: the values mean what they mean in the synthetic labels; None:
            there are no real cases.
        synthetic: value -> name.
        rename: synthetic name -> name to write; a name that maps to itself is a class of its own.
        keep: classes to write, all others become background; empty keeps all.

    Example:
        >>> table = merge_classes({1: "liver", 2: "tumour"}, {1: "lesion"}, {"lesion": "tumour"})
        >>> table.names, table.synthetic, table.missing
        (('liver', 'tumour'), {0: 0, 1: 2}, ('liver',))
    """
    rename = rename or {}
    unknown = sorted(set(rename) - set(synthetic.values()))
    if unknown:
        raise ValueError(f"rename must name {sorted(synthetic.values())}, got {unknown}")
    renamed = {value: rename.get(name, name) for value, name in synthetic.items()}
    known = dict(real) if real else (renamed if real is not None else {})
    strange = sorted(
        name
        for name in synthetic.values()
        if known and rename.get(name, name) not in known.values() and name not in rename
    )
    if strange:
        wanted = f"{strange[0]}:{next(iter(known.values()))}"
        raise ValueError(
            f"classes of synthetic cases must be among those of real ones {list(known.values())}, "
            f"got {strange}: say what they are, e.g. --rename {wanted}, or {strange[0]} again"
        )
    every = list(dict.fromkeys([*known.values(), *renamed.values()]))
    absent = sorted(set(keep) - set(every))
    if absent:
        raise ValueError(f"classes must be among {every}, got {absent}")
    names = tuple(name for name in every if not keep or name in keep)
    numbers = {name: place for place, name in enumerate(names, start=1)}
    tables = [
        {0: 0} | {value: numbers.get(name, 0) for value, name in side.items()}
        for side in (known, renamed)
    ]
    missing = tuple(name for name in names if name not in renamed.values())
    return ClassTable(names, tables[0], tables[1], missing)
