"""The command line: ``python -m tools COMMAND --help``."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import fire
import fire.core
import fire.decorators

from tools.commands.benchmark import benchmark_network, benchmark_synthesis
from tools.commands.completion import completion_command
from tools.commands.export import export_auto3dseg, export_nnunet
from tools.commands.manual import manual
from tools.commands.models import (
    convert_lefusion,
    convert_maisi,
    convert_monai_generative,
    evaluate,
    fetch,
)
from tools.commands.prepare import (
    prepare_emidec,
    prepare_lidc,
    prepare_phantom,
    prepare_scans,
)
from tools.commands.presets import cluster, subtypes
from tools.commands.release import check, pack, release
from tools.commands.result import Result
from tools.commands.story import Commands, story
from tools.commands.synthesize import demo, synthesize

__all__ = ["main"]

PROGRAM = "python -m tools"
COMMANDS: dict[str, Callable | Mapping[str, Callable]] = {
    "synthesize": synthesize,
    "demo": demo,
    "prepare": {
        "emidec": prepare_emidec,
        "lidc": prepare_lidc,
        "phantom": prepare_phantom,
        "scans": prepare_scans,
    },
    "cluster": cluster,
    "subtypes": subtypes,
    "fetch": fetch,
    "convert": {
        "lefusion": convert_lefusion,
        "maisi": convert_maisi,
        "monai_generative": convert_monai_generative,
    },
    "evaluate": evaluate,
    "export": {"auto3dseg": export_auto3dseg, "nnunet": export_nnunet},
    "benchmark": {"network": benchmark_network, "synthesis": benchmark_synthesis},
    "pack": pack,
    "check": check,
    "release": release,
}


COMMANDS["completion"] = completion_command(COMMANDS)


class _Planned:
    """A command with its arguments, to be run once the whole command line was understood."""

    def __init__(self, run: Callable[[], Result]) -> None:
        self._run = run


class _UsageError(Exception):
    """Words that name no command, no option, or not all that is needed."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code, see :mod:`tools.commands.story`.

    Args:
        arguments: words of the command line; None takes the process's own.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    _quieten_libraries()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(story(COMMANDS))
        return 0
    asked_for_help = "-h" in words or "--help" in words
    if asked_for_help and (page := manual(COMMANDS, words, PROGRAM)):
        print(page)
        return 0
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    try:
        # a program that reads stdout finds the result there and nothing else
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            result = _run(words)
    except (ValueError, OSError, _UsageError) as error:
        print(f"error: {error}", file=sys.stderr)
        if as_json:
            print(json.dumps({"ok": False, "error": str(error)}))
        return 2 if isinstance(error, _UsageError) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if as_json:
        print(json.dumps({"ok": result.exit_code == 0, **result.facts}, default=str))
    elif result.text:
        print(result.text)
    return result.exit_code


def _quieten_libraries() -> None:
    """Keep from people what libraries say of attributes copied, decoders and logs not there."""
    for name in ("highdicom", "monai.data.nvimgcodec_pydicom_plugin"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # MONAI sets this one's level when it is imported, and leaves filters alone
    logging.getLogger("monai.bundle.workflows").addFilter(_says_more_than_no_log)
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")


def _says_more_than_no_log(record: logging.LogRecord) -> bool:
    return "skipping logging" not in record.getMessage()


def _run(words: list[str]) -> Result:
    """Let Fire read all words before the command starts: a misspelt option costs no time."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            planned = fire.Fire(_planning(COMMANDS), words, PROGRAM, serialize=lambda _: None)
    except fire.core.FireExit as stopped:
        if not stopped.code:  # what follows "--" is for Fire itself
            print(said.getvalue(), file=sys.stderr)
            raise
        sentence = stopped.trace.elements[-1].ErrorAsStr()
        raise _UsageError(f"{sentence}; see {PROGRAM} --help or COMMAND --help") from stopped
    if not isinstance(planned, _Planned):  # a group without its command
        page = manual(COMMANDS, words, PROGRAM) or ""
        return Result(page, {"help": page})
    return planned._run()


def _planning(commands: Commands) -> dict[str, Any]:
    """Return the table with functions that keep their arguments for later."""

    def deferred(command: Callable) -> Callable:
        @functools.wraps(command)
        def plan(*args: Any, **kwargs: Any) -> _Planned:
            return _Planned(functools.partial(command, *args, **kwargs))

        return fire.decorators.SetParseFns(**_as_text(command))(plan)

    return {
        name: _planning(command) if isinstance(command, Mapping) else deferred(command)
        for name, command in commands.items()
    }


def _as_text(command: Callable) -> dict[str, Callable[[str], str | None]]:
    """Return how to read the arguments that are text: Fire takes 12 for a number, names or not."""
    parameters = inspect.signature(command).parameters.values()
    return {
        each.name: functools.partial(_text, each.name, each.annotation == "str | None")
        for each in parameters
        if each.annotation in ("str", "str | None") and each.kind is not each.VAR_POSITIONAL
    }


def _text(name: str, optional: bool, word: str) -> str | None:
    if word == "True":  # Fire's reading of an option without anything after it
        raise ValueError(f"{name} must have a value, got none after --{name}")
    return None if optional and word == "None" else word
