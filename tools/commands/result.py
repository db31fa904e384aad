"""What a command gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Result"]


@dataclass(frozen=True)
class Result:
    """A sentence or more for people, facts for programs: JSON values, paths as text."""

    text: str
    facts: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0  # 1 where the work was to find faults and some were found
