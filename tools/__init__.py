"""Controllable synthetic lesions for medical images, built on MONAI."""

from typing import Any

__version__ = "0.17.0"


def __getattr__(name: str) -> Any:
    """Import ``synthesize`` when it is asked for: torch takes seconds."""
    if name == "synthesize":
        from tools.synthesis.arrays import synthesize

        return synthesize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
