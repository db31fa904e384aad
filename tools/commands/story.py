"""What ``python -m tools --help`` says: what there is, in the order in which it is used."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping

__all__ = ["Commands", "command_lines", "story"]

Commands = Mapping[str, Callable | Mapping[str, Callable]]

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

Exit codes:
  0  all of it is done
  1  the input is not what it must be (one sentence on stderr names argument, rule and value), a
     scan could not be done, or "check" found something
  2  the command line itself is wrong: unknown command or option, a required one missing
  130  interrupted; where a command can resume, the same command goes on where it stopped

Environment: ORGAN_BUNDLE, folder of the zoo's bundle that finds organs; CUDA_VISIBLE_DEVICES,
OMP_NUM_THREADS, as PyTorch reads them.
"""


def story(commands: Commands) -> str:
    """Return the help of the whole command line.

    Args:
        commands: functions, or groups of them, by name.

    Example:
        >>> def check() -> None:
        ...     "Look for faults. And more."
        >>> "check    Look for faults" in story({"check": check})
        True
    """
    lines = command_lines(commands)
    width = max(len(name) for name, _ in lines) + 4
    rows = []
    for name, summary in lines:
        first, *rest = textwrap.wrap(summary, 98 - width) or [""]
        rows.append(f"  {name:<{width}}{first}")
        rows += [" " * (width + 2) + line for line in rest]
    return "\n".join([INTRODUCTION, *rows, CLOSING])


def command_lines(commands: Commands) -> list[tuple[str, str]]:
    """Return name and first sentence of every command, those of a group after its name."""
    lines: list[tuple[str, str]] = []
    for name, command in commands.items():
        if isinstance(command, Mapping):
            lines += [(f"{name} {word}", text) for word, text in command_lines(command)]
        else:
            sentence = (inspect.getdoc(command) or "").split("\n\n")[0].split(". ")[0]
            lines.append((name, " ".join(sentence.split()).rstrip(".")))
    return lines
