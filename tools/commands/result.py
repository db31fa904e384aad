"""What a command gives back: a sentence for people, facts for programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Result"]


@dataclass(frozen=True)
class Result:
    """The end of a command that did its work.

    Args:
        text: printed without ``--json``; may have several lines.
        facts: JSON values, printed with ``--json``; paths as text.
        exit_code: 0, or 1 where the work was to find faults and some were found.
    """

    text: str
    facts: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0
