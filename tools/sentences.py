"""What is said of errors and of values."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["a_few", "error_text", "short"]

SAID = 3  # of many reasons


def a_few(sentences: Iterable[str], between: str = "; ", most: int = SAID) -> str:
    """Return the first of many sentences in one line, and how many more there are.

    Example:
        >>> a_few(f"{name} is empty" for name in "abcde")
        'a is empty; b is empty; c is empty (and 2 more)'
    """
    listed = list(sentences)
    more = f" (and {len(listed) - most} more)" if len(listed) > most else ""
    return between.join(listed[:most]) + more


def error_text(error: BaseException) -> str:
    """Return what an error says; what the system says of a file is a sentence of ours.

    Example:
        >>> error_text(FileNotFoundError(2, "No such file or directory", "a"))
        'files must be readable or writable, got a (No such file or directory)'
    """
    if isinstance(error, OSError) and error.filename is not None:  # of the system, not ours
        return f"files must be readable or writable, got {error.filename} ({error.strerror})"
    return str(error)


def short(value: object) -> str:
    """Return a value as text that fits into a sentence."""
    text = repr(value) if isinstance(value, str | int | float | None) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
