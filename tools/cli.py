"""The command line: ``python -m tools COMMAND --help``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import fire

from tools.commands.benchmark import benchmark_network, benchmark_synthesis
from tools.commands.models import (
    check,
    convert_lefusion,
    convert_maisi,
    convert_monai_generative,
    evaluate,
    fetch,
    pack,
)
from tools.commands.prepare import (
    cluster,
    prepare_crops,
    prepare_ct,
    prepare_emidec,
    prepare_lidc,
    prepare_masks,
    prepare_phantom,
    subtypes,
)
from tools.commands.synthesize import demo, synthesize

__all__ = ["main"]

COMMANDS: dict[str, Callable | dict[str, Callable]] = {
    "synthesize": synthesize,
    "demo": demo,
    "prepare": {
        "crops": prepare_crops,
        "ct": prepare_ct,
        "emidec": prepare_emidec,
        "lidc": prepare_lidc,
        "masks": prepare_masks,
        "phantom": prepare_phantom,
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
    "benchmark": {"network": benchmark_network, "synthesis": benchmark_synthesis},
    "pack": pack,
    "check": check,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; bad input ends with one sentence and exit code 1, bad usage with 2.

    Args:
        arguments: words of the command line; None takes the process's own.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        fire.Fire(COMMANDS, command=arguments, name="python -m tools")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
