"""What is said of errors and values: one line, whatever they hold."""

from __future__ import annotations

__all__ = ["error_line", "short"]


def error_line(error: BaseException) -> str:
    """Return what an error says in one line; what the system says of a file as a sentence of ours.

    Example:
        >>> error_line(FileNotFoundError(2, "No such file or directory", "a"))
        'files must be readable or writable, got a (No such file or directory)'
    """
    if isinstance(error, OSError) and error.filename is not None:  # of the system, not ours
        return f"files must be readable or writable, got {error.filename} ({error.strerror})"
    return " ".join(str(error).split())


def short(value: object) -> str:
    """Return a value as text that fits into a sentence."""
    text = repr(value) if isinstance(value, str | int | float | None) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
