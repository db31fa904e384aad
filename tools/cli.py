"""The command line: ``python -m tools COMMAND --help``."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping

from tools.commands import (
    benchmark,
    export,
    models,
    prepare,
    presets,
    readers,
    release,
    study,
    synthesize,
)
from tools.commands.arguments import Commands, UsageError, find, understood
from tools.commands.completion import completion_of
from tools.commands.manual import PROGRAM, manual
from tools.commands.result import Result
from tools.kinds import without_nan
from tools.sentences import error_text

__all__ = ["main"]

HELP = {"-h", "--help"}
COMMANDS: dict[str, Callable[..., Result] | Commands] = {
    "synthesize": synthesize.synthesize,
    "demo": synthesize.demo,
    "verify": synthesize.verify,
    "audit": readers.audit,
    "prepare": {
        "scans": prepare.prepare_scans,
        "lidc": prepare.prepare_lidc,
        "emidec": prepare.prepare_emidec,
        "msd": prepare.prepare_msd,
        "kits": prepare.prepare_kits,
        "dlcs": prepare.prepare_dlcs,
        "phantom": prepare.prepare_phantom,
    },
    "cluster": presets.cluster,
    "subtypes": presets.subtypes,
    "fetch": models.fetch,
    "convert": {
        "difftumor": models.convert_difftumor,
        "lefusion": models.convert_lefusion,
        "maisi": models.convert_maisi,
        "monai_generative": models.convert_monai_generative,
    },
    "compare": models.compare,
    "evaluate": models.evaluate,
    "turing": {"": readers.turing, "score": readers.turing_score},
    "adapt": study.adapt,
    "study": {
        "classification": study.study_classification,
        "detection": study.study_detection,
        "loop": study.study_loop,
        "segmentation": study.study_segmentation,
    },
    "export": {
        "auto3dseg": export.export_auto3dseg,
        "detection": export.export_detection,
        "nnunet": export.export_nnunet,
    },
    "benchmark": {
        "network": benchmark.benchmark_network,
        "synthesis": benchmark.benchmark_synthesis,
        "training": benchmark.benchmark_training,
    },
    "pack": release.pack,
    "check": release.check,
    "release": release.release,
}
COMMANDS["completion"] = completion_of(COMMANDS)  # itself too


def main(arguments: list[str] | None = None) -> int:
    """Run a command, of the process's own words if none are given, and return its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    _quieten_libraries()
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    try:
        # a program that reads stdout finds the result there and nothing else
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            result = _run([word for word in words if word != "--json"])
    except (ValueError, OSError) as error:
        said = error_text(error)
        print(f"error: {said}", file=sys.stderr)
        if as_json:
            print(json.dumps({"ok": False, "error": said}))
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    facts = {"ok": result.exit_code == 0, **result.facts}
    text = json.dumps(without_nan(facts), default=str, allow_nan=False) if as_json else result.text
    try:
        print(text, end="\n" if text else "", flush=True)
    except BrokenPipeError:  # whoever reads it has enough: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return result.exit_code


def _run(words: list[str]) -> Result:
    """Understand all words before the command starts."""
    path: list[str] = []
    plain = [word for word in words if word not in HELP]
    try:
        wanted, path = find(COMMANDS, plain)
        if isinstance(wanted, Mapping) or HELP & set(words):
            page = manual(wanted, " ".join(path))
            return Result(page, {"help": page})
        run = understood(wanted, plain[len(path) :])
    except UsageError as error:
        raise UsageError(f"{error}; see {' '.join([PROGRAM, *path, '--help'])}") from None
    return run()


def _quieten_libraries() -> None:
    """Keep from people what libraries say of decoders and logs not there."""
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    # MONAI sets this one's level when it is imported, and leaves filters alone
    logging.getLogger("monai.bundle.workflows").addFilter(_says_more_than_no_log)
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")


def _says_more_than_no_log(record: logging.LogRecord) -> bool:
    return "skipping logging" not in record.getMessage()
