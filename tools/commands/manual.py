"""What ``--help`` says: of all commands in the order in which they are used, and of each one."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tools.commands.arguments import Commands, arguments_of, form

__all__ = ["PROGRAM", "manual"]

PROGRAM = "python -m tools"
INTRODUCTION = """\
python -m tools COMMAND [OPTIONS]

Puts controllable synthetic lesions into real scans. You bring healthy CT or MRI, in NIfTI or DICOM;
you get the same scans back with lesions of the size, place, shape and texture you ask for, with
voxel-exact labels and a record of each lesion.

    scan -> site (where) -> shape (mask) -> texture (what is inside) -> composite -> dataset

Start with:  python -m tools demo
             python -m tools synthesize --scan chest.nii.gz --out out

Commands, in the order of a project (COMMAND --help explains each):
"""

CLOSING = """\

Networks are trained by MONAI itself:
  python -m monai.bundle run training --config_file bundles/lefusion_lidc/configs/train.json

With every command:
  --json       print one JSON object on stdout when done, {"ok": true, ...}; what is said meanwhile
               goes to stderr. Failed: {"ok": false, "error": SENTENCE}.
  --help       arguments, defaults, examples
  Names of options take - for _. What --help shows in capitals may stand without its name.

Exit codes:
  0  all of it is done
  1  the input is not what it must be (one sentence on stderr names argument, rule and value), a
     scan could not be done, or "check" found something
  2  the command line itself is wrong: unknown command or option, a required one missing
  130  interrupted; where a command can resume, the same command goes on where it stopped

Environment: ORGAN_BUNDLE, folder of the zoo's bundle that finds organs; CUDA_VISIBLE_DEVICES,
OMP_NUM_THREADS, as PyTorch reads them.
"""


def manual(wanted: Any, name: str) -> str:
    """Return the help of a command, of a group of commands, or, without a name, of all."""
    if not isinstance(wanted, Mapping):
        return _page(wanted, name)
    lines = list(_lines(wanted))
    width = max(len(command) for command, _ in lines) + 6
    table = [_fold(f"  {command}".ljust(width) + summary, width) for command, summary in lines]
    if name:
        return "\n".join([f"{PROGRAM} {name} COMMAND [OPTIONS]\n", *table])
    return "\n".join([INTRODUCTION, *table, CLOSING])


def _lines(commands: Commands) -> Iterator[tuple[str, str]]:
    """Yield name and first sentence of every command, those of a group after its name."""
    for name, command in commands.items():
        if isinstance(command, Mapping):
            yield from ((f"{name} {word}".rstrip(), sentence) for word, sentence in _lines(command))
        else:
            sentence = (inspect.getdoc(command) or "").split("\n\n")[0].split(". ")[0]
            yield name, " ".join(sentence.split()).rstrip(".")


def _page(command: Callable, name: str) -> str:
    text, _, described = (inspect.getdoc(command) or "").partition("Args:\n")
    options, standing = arguments_of(command)
    required = [n for n, option in options.items() if option.default is option.empty]
    words = [n.upper() if n in required else f"[{n.upper()}]" for n in standing]
    lines = [" ".join([PROGRAM, name, *words, "[OPTIONS]"]), "", text.rstrip(), "", "Options:"]
    for argument, meaning in re.findall(r"(?ms)^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", described):
        option = options.get(argument)
        heading = f"--{argument} {_rule(option)}" if option else f"{argument.upper()} (any number)"
        lines += [f"  {heading}", _fold(f"{'':6}{' '.join(meaning.split())}", 6)]
    return "\n".join(lines)


def _rule(option: inspect.Parameter) -> str:
    """Return type and default; of None and "" the description tells what they mean."""
    default, kind = option.default, form(option.annotation)
    if default is option.empty or default is False:
        return "(flag)" if default is False else f"({kind}; required)"
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return f"({kind})" if shown in (None, "") else f"({kind}; default {shown})"


def _fold(line: str, indent: int) -> str:
    wrapper = textwrap.TextWrapper(100, break_long_words=False, break_on_hyphens=False)
    wrapper.subsequent_indent = " " * indent
    return wrapper.fill(line)
