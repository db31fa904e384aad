"""Values of JSON: those that people bring fit the record they become, those given back are JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from tools.sentences import short

__all__ = ["record_of", "without_nan"]

T = TypeVar("T")
Fits = Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and abs(value) <= 1e300  # NaN is not


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _all(fits: Fits, size: int | None = None) -> Fits:
    def check(value: Any) -> bool:
        right = isinstance(value, list | tuple) and size in (None, len(value))
        return right and all(map(fits, value))

    return check


def _named(fits: Fits) -> Fits:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


# by annotation; fields of other kinds are for whoever makes the record
KINDS: dict[str, Fits] = {
    "None": lambda value: value is None,
    "bool": lambda value: isinstance(value, bool),
    "str": _is_text,
    "int": _is_whole,
    "float": _is_number,
    "tuple[float, float]": _all(_is_number, 2),
    "Sequence[float]": _all(_is_number),
    "Sequence[int]": _all(_is_whole),
    "tuple[int, ...]": _all(_is_whole),
    "Sequence[str]": _all(_is_text),
    "tuple[str, ...]": _all(_is_text),
    "Mapping[str, int]": _named(_is_whole),
    "Mapping[str, str]": _named(_is_text),
    "Mapping[str, Any]": lambda value: isinstance(value, dict),
}


def record_of(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return a dataclass of the values that belong to it, others left out.

    Args:
        kind: a dataclass whose module postpones the evaluation of annotations.
        values: by name of the field.

    Raises:
        ValueError: if a value is missing, or not of the kind that its field says.
    """
    given = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in values:
            if field.default is MISSING and field.default_factory is MISSING:
                raise ValueError(f"{field.name} is missing")
            continue
        value = given[field.name] = values[field.name]
        value = value.tolist() if hasattr(value, "tolist") else value  # numpy's, of a program
        checks = [KINDS[word] for word in str(field.type).split(" | ") if word in KINDS]
        if checks and not any(fits(value) for fits in checks):
            raise ValueError(f"{field.name} must be {field.type}, got {short(value)}")
    return kind(**given)


def without_nan(found: Any) -> Any:
    """Return results with None for what could not be measured, as JSON has no NaN.

    Example:
        >>> without_nan({"sd": float("nan"), "values": (1.0, float("inf"))})
        {'sd': None, 'values': [1.0, None]}
    """
    if isinstance(found, Mapping):
        return {key: without_nan(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [without_nan(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found
