"""What is said of errors and of values."""

from __future__ import annotations

__all__ = ["error_text", "short"]


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
