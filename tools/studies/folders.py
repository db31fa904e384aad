"""``tools evaluate --real --synthetic``: two folders read, measured, judged and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.files import require_apart
from tools.studies.asked import asked_and_got, named_subtypes
from tools.studies.deep import network_told_apart, picture_distances
from tools.studies.judge import judge, measure, read_crops
from tools.studies.memory import memory, seed_spread
from tools.studies.verdict import write_verdict

__all__ = ["Folders", "judge_folders"]


@dataclass(frozen=True)
class Folders:
    """The options of the command, which describes them."""

    real: str
    synthetic: str
    out: str
    section: str | None = None
    values: Sequence[int] = ()
    window: tuple[float, float] = (-1000, 400)
    limit: int | None = None
    seed: int = 0
    training: str = ""
    other_seeds: Sequence[str] = ()
    radimagenet: str = ""
    network_test: bool = False


def judge_folders(options: Folders) -> tuple[dict[str, Any], list[tuple[str, str, str, str]]]:
    """Judge two folders, write the verdict; return what was found, and the table.

    Raises:
        ValueError: if a folder is not named, or holds too few lesions.
    """
    for name in ("real", "synthetic"):
        if not getattr(options, name):
            raise ValueError(f"{name} must be a folder or datalist of lesions, got none")
    sources = [options.real, options.synthetic, *options.other_seeds]
    require_apart(options.out, [p if p.is_dir() else p.parent for p in map(Path, sources)])
    values, limit, seed = options.values, options.limit, options.seed
    crops = read_crops(options.synthetic, values, None, limit)
    real = measure(read_crops(options.real, values, options.section, limit), options.window)
    synthetic = measure(crops, options.window)
    result = judge(real, synthetic, seed)
    library = real
    if options.training:
        library = measure(read_crops(*_training(options.training, values)), options.window)
        result["memory"] = memory(synthetic, library, seed)
    if options.other_seeds:
        others = [read_crops(each, values, None, limit) for each in options.other_seeds]
        result["seeds"] = seed_spread([crops, *others], seed)
    if options.radimagenet:
        found = picture_distances(real, synthetic, options.radimagenet, seed)
        result["distances"] |= dict(found)
    if options.network_test:
        result["told_apart"]["network"] = network_told_apart(real, synthetic, options.window, seed)
    result["subtypes"] = named_subtypes(library, synthetic, seed)
    result["asked"] = asked_and_got(options.synthetic, seed)
    title = "Real against synthetic lesions"
    return result, write_verdict(options.out, result, real, synthetic, title)


def _training(given: str, values: Sequence[int]) -> tuple[str, Sequence[int], str | None]:
    """Return the arguments of ``read_crops`` for DATALIST[:section], by default ``training``."""
    if Path(given).exists() or ":" not in given:
        return given, values, "training"
    source, section = given.rsplit(":", 1)
    return source, values, section
