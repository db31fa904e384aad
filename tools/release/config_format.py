"""The house form of a config: two spaces, and one line for all that fits on it."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["LINE_LENGTH", "house_json"]

LINE_LENGTH = 100


def house_json(config: dict[str, Any]) -> str:
    """Return a config as text: keys in their order, each of the top ones on a line of its own.

    Args:
        config: parsed JSON.

    Example:
        >>> print(house_json({"bundle_root": ".", "window_hu": [-1000, 400]}), end="")
        {
          "bundle_root": ".",
          "window_hu": [-1000, 400]
        }
    """
    return _expanded(config, 0) + "\n"


def _written(value: Any, indent: int, before: int) -> str:
    """Return a value on one line if it fits behind ``before`` characters, else on several."""
    line = json.dumps(value, ensure_ascii=False)
    # one more for the comma
    if not isinstance(value, (dict, list)) or not value or before + len(line) < LINE_LENGTH:
        return line
    return _expanded(value, indent)


def _expanded(value: dict[str, Any] | list[Any], indent: int) -> str:
    """Return an object or a list with one entry per line."""
    inner, lines = indent + 2, []
    if isinstance(value, dict):
        for key, item in value.items():
            name = f"{json.dumps(key, ensure_ascii=False)}: "
            lines.append(name + _written(item, inner, inner + len(name)))
    else:
        lines = [_written(item, inner, inner) for item in value]
    opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
    body = ",\n".join(" " * inner + line for line in lines)
    return f"{opening}\n{body}\n{' ' * indent}{closing}"
