"""The arguments of a command are those of its function: its signature is the parser."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from types import NoneType
from typing import Annotated, Any, NamedTuple, NoReturn, get_args, get_origin

from tools.commands.result import Result

__all__ = [
    "ALWAYS",
    "Commands",
    "Limits",
    "Number",
    "Seed",
    "UsageError",
    "arguments_of",
    "find",
    "form",
    "understood",
]

Commands = Mapping[str, "Callable[..., Result] | Commands"]
ALWAYS = ("--help", "--json")
FORMS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
TRUTH = ["false", "true"]


class Limits(NamedTuple):
    """The smallest and the largest number that an option takes, ``Annotated[int, Limits(1, 9)]``.

    They stand in the signature where nothing else refuses what is beyond, or only after minutes.
    """

    low: int
    high: int


Seed = Annotated[int, Limits(0, 2**32 - 1)]  # what numpy, torch and scikit-learn all take
Number = Annotated[int, Limits(1, 1000)]  # of things that are made one after the other


class UsageError(ValueError):
    """Words that name no command, no option, or not all that is needed."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def find(commands: Commands, words: list[str]) -> tuple[Any, list[str]]:
    """Return the command, or the group of commands, that words begin with, and those words.

    A group may have a command of no name, which is that of the group's own name.
    """
    found: Any = commands
    for place, word in enumerate(words):
        if not isinstance(found, Mapping):
            return found, words[:place]
        name = word.replace("-", "_")
        if name not in found and "" in found:
            return found[""], words[:place]
        if name not in found:
            typed = " ".join(words[: place + 1])
            raise UsageError(f"{typed!r} is no command{_near(name, found)}")
        found = found[name]
    return (found[""] if isinstance(found, Mapping) and "" in found else found), words


def arguments_of(command: Callable) -> tuple[dict[str, inspect.Parameter], list[str]]:
    """Return the options of a command, and which arguments may stand without a name.

    The latter are any number (``*bundles``), or else the required ones, or else the first.
    """
    options = dict(inspect.signature(command, eval_str=True).parameters)
    several = [name for name, each in options.items() if each.kind is each.VAR_POSITIONAL]
    required = [name for name, each in options.items() if each.default is each.empty]
    for name in several:
        del options[name]
    return options, several or required or list(options)[:1]


def understood(command: Callable[..., Result], words: list[str]) -> Callable[[], Result]:
    """Return a command with its arguments, ready to run: a misspelt option costs no time.

    Raises:
        UsageError: if words are unknown, missing or too many.
        ValueError: if a value does not have the type that the signature asks for.
    """
    options, standing = arguments_of(command)
    given, alone = _split(options, words)
    if set(standing) <= set(options):
        places = [name for name in standing if name not in given]
        for word in alone[len(places) :]:
            raise UsageError(f"{word!r} is one word too many")
        given |= zip(places, alone, strict=False)
        alone = []
    if not all(word.strip() for word in alone):
        raise ValueError(f"{' '.join(standing)} must not be empty, got {alone}")
    missing = [f"--{n}" for n, o in options.items() if o.default is o.empty and n not in given]
    if missing:
        raise UsageError(f"{' and '.join(missing)} must be given")
    # a value of two dashes, which end the options, comes back as an empty list
    texts = {name: "--" if word == [] else word.lstrip() for name, word in given.items()}
    values = {name: _value(options[name], text) for name, text in texts.items()}
    return functools.partial(command, *alone, **values)


def _split(
    options: Mapping[str, inspect.Parameter], words: list[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the values of options as they were typed, and the words that stand alone."""
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    flags: list[str] = []
    for name, option in options.items():
        spellings = list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))
        parser.add_argument(*spellings, dest=name)
        if option.annotation is bool:
            parser.add_argument(f"--no{name}", dest=name, action="store_const", const="false")
            flags += spellings
    # what begins with "-" is an option to argparse, and a flag has a value always or never
    words = [f" {word}" if re.match(r"-[\d.]", word) else word for word in words]
    plain = [a in flags and b.lower() not in TRUTH for a, b in pairwise([*words, ""])]
    words = [f"{word}=true" if flag else word for word, flag in zip(words, plain, strict=True)]
    given, alone = parser.parse_known_args(words)
    for word in alone:
        if word.startswith("-"):
            near = _near(word, [*(f"--{name}" for name in options), *ALWAYS])
            raise UsageError(f"{word!r} is no option{near}")
    return vars(given), alone


def _near(word: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(word.partition("=")[0], names, 1)
    return f", perhaps {close[0]}" if close else ""


def form(kind: Any) -> str:
    """Return how a value of a type is written.

    Example:
        >>> form(float | tuple[float, float] | None), form(Annotated[int, Limits(1, 9)])
        ('a number or 2 numbers with commas', 'a whole number from 1 to 9')
    """
    if get_origin(kind) is Annotated:
        plain, limits = get_args(kind)
        return f"{form(plain)} from {limits.low} to {limits.high}"
    kinds = [each for each in get_args(kind) if each is not NoneType]
    if get_origin(kind) is tuple:
        return f"{len(kinds)} {form(kinds[0]).removeprefix('a ')}s with commas"
    if get_origin(kind) is Sequence:
        return f"{form(kinds[0]).removeprefix('a ')}s with commas"
    return " or ".join(map(form, kinds)) or FORMS[kind]


def _value(option: inspect.Parameter, word: str) -> Any:
    if option.default != "" and (not word.strip() or "\0" in word):
        raise ValueError(f"{option.name} must not be empty, got {word!r}")
    try:
        return _read(option.annotation, word)
    except ValueError:
        rule = form(option.annotation)
        raise ValueError(f"{option.name} must be {rule}, got {word!r}") from None


def _read(kind: Any, word: str) -> Any:
    """Return a word as a type, or as the first of several that it fits; text stays as it is."""
    if kind is bool:
        return TRUTH.index(word.lower()) == 1
    if kind in FORMS:
        value = kind(word)
        if kind is str or math.isfinite(value):
            return value
    kinds = [each for each in get_args(kind) if each is not NoneType]
    if get_origin(kind) is Annotated:
        return _within(_read(kinds[0], word), kinds[1])
    numbers = word.strip("()[] ").split(",")
    if get_origin(kind) is tuple:
        return tuple(_read(each, number) for each, number in zip(kinds, numbers, strict=True))
    if get_origin(kind) is Sequence:
        return [_read(kinds[0], number) for number in numbers]
    for each in kinds:
        with contextlib.suppress(ValueError):
            return _read(each, word)
    raise ValueError(word)


def _within(value: int, limits: Limits) -> int:
    if not limits.low <= value <= limits.high:
        raise ValueError(value)
    return value
