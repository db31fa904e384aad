"""What ``python -m tools COMMAND --help`` says."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from fire.helptext import HelpText
from fire.trace import FireTrace

from tools.commands.story import Commands

__all__ = ["manual", "whole_arguments"]


def manual(commands: Commands, words: list[str], program: str) -> str | None:
    """Return the help of a command or group, as Fire lays it out.

    Fire's own way to it writes to stderr, where no pager and no search looks, and quotes the
    program's name for a shell.

    Args:
        commands: functions, or groups of them, by name.
        words: of the command line; those after the command itself do not matter.
        program: how the command line is called, such as ``python -m tools``.

    Returns:
        The text, or None if the words name no command.

    Example:
        >>> def check(out: str) -> None:
        ...     '''Look.
        ...
        ...     Args:
        ...         out: a folder, or
        ...             none: the current one.
        ...     '''
        >>> "none: the current one" in manual({"check": check}, ["check", "--help"], "tool")
        True
        >>> manual({"check": check}, ["chek", "--help"], "tool") is None
        True
    """
    component: Any = commands
    name = program
    for word in words:
        if not isinstance(component, Mapping) or word.startswith("-"):
            break
        if word not in component:
            return None
        component, name = component[word], f"{name} {word}"
    if not isinstance(component, Mapping):
        component = _readable(component)
    page = HelpText(component, trace=FireTrace(component, name=name)).replace(f"'{name}'", name)
    return "\n".join(_folded(line) for line in page.splitlines())


def whole_arguments(documented: str) -> str:
    r"""Put the description of each argument on one line.

    Fire drops what follows a colon in the second and later lines of a description.

    Args:
        documented: docstring in Google style, without the indentation of its function.

    Example:
        >>> whole_arguments("Look.\n\nArgs:\n    out: a folder, or\n        none: here.")
        'Look.\n\nArgs:\n    out: a folder, or none: here.'
    """
    head, arguments, rest = documented.partition("Args:\n")
    lines: list[str] = []
    for line in rest.splitlines():
        if lines and line.startswith(" " * 8):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return head + arguments + "\n".join(lines)


def _folded(line: str) -> str:
    margin = " " * (len(line) - len(line.lstrip()))
    fold = functools.partial(textwrap.fill, break_long_words=False, break_on_hyphens=False)
    return fold(line.strip(), 100, initial_indent=margin, subsequent_indent=margin)


def _readable(command: Callable) -> Callable:
    @functools.wraps(command)
    def described(*args: Any, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    described.__doc__ = whole_arguments(inspect.getdoc(command) or "")
    return described
