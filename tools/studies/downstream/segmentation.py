"""The task segmentation: a network that outlines lesions, trained on some, measured on others.

``training`` of a preset has, beside what :mod:`tools.studies.downstream.training` says,
``tolerance_mm`` of the surface Dice. Labels of cases are those of the bundle's ``class_names``;
``classes`` of the preset says which of them are measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from tools.bundle import resolved
from tools.metrics.segmentation import Dice, SurfaceDice, match_lesions
from tools.studies.downstream.cases import Case
from tools.studies.downstream.effects import Measure, Report, Rows
from tools.studies.downstream.training import fit, open_training, prepares, sample

__all__ = ["HEALTHY", "REPORT", "group", "kept", "measure", "synthetic_cases", "train"]


def train(
    cases: Sequence[Case],
    classes: Mapping[str, int],
    settings: Mapping[str, Any],
    seed: int,
    device: torch.device,
) -> tuple[nn.Module, list[float]]:
    """Return a network trained on cases, all of which are drawn equally often, and its losses.

    Raises:
        ValueError: if a class is none of the bundle's.
    """
    parser = open_training(settings, device, seed)
    known = len(parser["class_names"])
    if not all(1 <= value <= known for value in classes.values()):
        raise ValueError(f"classes must be labels from 1 to {known}, got {dict(classes)}")
    return fit(parser, [sample(case) for case in cases])


def kept(
    cases: Sequence[Case], classes: Mapping[str, int], settings: Mapping[str, Any], seed: int
) -> list[Case]:
    """Return all real cases: each is trained on."""
    return list(cases)


def group(case: Case, classes: Mapping[str, int], settings: Mapping[str, Any]) -> int:
    """Return 0: all cases are one group."""
    return 0


def synthetic_cases(
    rule: Mapping[str, Any],
    ratio: float,
    real: Sequence[Case],
    taken: Sequence[Case],
    classes: Mapping[str, int],
    settings: Mapping[str, Any],
) -> int:
    """Return how many cases of a pool an arm takes: so many per real case."""
    return round(ratio * len(taken))


def measure(
    network: nn.Module,
    cases: Sequence[Case],
    classes: Mapping[str, int],
    settings: Mapping[str, Any],
    device: torch.device,
) -> Iterator[dict[str, Any]]:
    """Yield what a network makes of each case: per class Dice, surface Dice, and lesions found.

    Only what was scanned counts. ``lesions`` lists the diameter of each lesion, the sphere's of its
    volume, and whether it was found: a connected part of the prediction has an intersection over
    union with it of a tenth or more (:func:`tools.metrics.segmentation.match_lesions`). ``false``
    is the number of parts that hit none. A class that is neither there nor predicted has no Dice.
    """
    parser = open_training(settings, device, overlays=("evaluate.json",))
    before = prepares(parser, "validate")
    inferer, after = (resolved(parser, f"validate#{key}") for key in ("inferer", "postprocessing"))
    for case in cases:
        start = time.perf_counter()
        data = before(sample(case))
        with torch.inference_mode():
            data["pred"] = inferer(data["image"][None].to(device), network)[0].cpu()
        predicted = after(data)["pred"].argmax(0).numpy()
        row: dict[str, Any] = {"name": case.name, "patient": case.patient, "classes": {}}
        for name, value in classes.items():
            got, wanted = ((part == value) & case.known for part in (predicted, case.label))
            tolerance = settings["tolerance_mm"]
            row["classes"][name] = _compared(got, wanted, case.spacing_mm, tolerance)
        row["seconds"] = round(time.perf_counter() - start, 3)
        yield row


def _compared(
    predicted: np.ndarray, wanted: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float
) -> dict[str, Any]:
    masks = [torch.from_numpy(part.astype(np.float32))[None, None] for part in (predicted, wanted)]
    found: dict[str, Any] = {}
    for key, metric in (
        ("dice", Dice(spacing_mm=spacing_mm)),
        ("nsd", SurfaceDice(tolerance_mm, spacing_mm=spacing_mm)),
    ):
        metric(*masks)
        value = float(metric.aggregate())
        found[key] = value if np.isfinite(value) else None
    matches = match_lesions(predicted.astype(float), wanted, spacing_mm)
    parts, number = ndimage.label(wanted, np.ones((3, 3, 3)))
    voxels = np.bincount(parts.ravel(), minlength=number + 1)[1:]
    diameters = (6 / np.pi * voxels * float(np.prod(spacing_mm))) ** (1 / 3)
    found["lesions"] = [
        [round(float(d), 2), bool(score > 0)]
        for d, score in zip(diameters, matches.scores, strict=True)
    ]
    found["false"] = len(matches.false)
    return found


def case_values(rows: Rows, name: str, measure: str) -> np.ndarray:
    """Return a measure of a class of each test case, NaN where there is none.

    ``sensitivity`` is the share of the case's lesions that were found.
    """
    found = []
    for row in rows:
        each = row["classes"][name]
        if measure == "sensitivity":
            hits = [hit for _, hit in each["lesions"]]
            found.append(float(np.mean(hits)) if hits else np.nan)
        else:
            found.append(np.nan if each[measure] is None else float(each[measure]))
    return np.array(found)


def share_found(rows: Rows, name: str, weights: np.ndarray) -> np.ndarray:
    """Return the share of all lesions that were found, of weighted cases."""
    lesions = [row["classes"][name]["lesions"] for row in rows]
    hits = np.array([sum(hit for _, hit in each) for each in lesions], float)
    counts = weights @ np.array([len(each) for each in lesions], float)
    return np.where(counts > 0, weights @ hits / np.maximum(counts, 1), np.nan)


def of_size(rows: Rows, name: str, size_mm: tuple[float, float]) -> tuple[Rows, int]:
    """Return rows with the lesions of a size alone, and their number."""
    low, high = size_mm
    kept = [
        [each for each in row["classes"][name]["lesions"] if low <= each[0] < high] for row in rows
    ]
    left = [
        {**row, "classes": {name: {**row["classes"][name], "lesions": lesions}}}
        for row, lesions in zip(rows, kept, strict=True)
    ]
    return left, sum(map(len, kept))


HEALTHY = False
REPORT = Report(
    measures={
        "dice": Measure("Dice", partial(case_values, measure="dice")),
        "nsd": Measure("NSD", partial(case_values, measure="nsd")),
        "sensitivity": Measure("found", partial(case_values, measure="sensitivity")),
        "false": Measure(
            "false per case", partial(case_values, measure="false"), scale=1, told=False
        ),
    },
    by_size={"sensitivity": Measure("share found", whole=share_found)},
    sized=of_size,
    names=list,
    facts="found: share of the lesions that a part of the prediction meets.",
)
