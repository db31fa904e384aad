"""The task classification: a network that tells classes of lesions apart, by a rating of each.

``classes`` of a preset are names with lowest and highest rating, see
:func:`tools.transforms.ratings.rating_class`. ``training`` has, beside what
:mod:`tools.studies.downstream.training` says:

* ``rating``: its name in the datalist, such as texture; a pool says the class of its cases under
  ``facts``, such as ``{"texture": "part_solid"}``;
* ``balanced``: true lets all classes be drawn equally often, which is what synthetic cases compete
  with;
* ``keep``: share of the real cases of each class, 1 where it is left out. Those of a smaller share
  are among those of a larger one;
* ``real_share``: within each class. If only the rarer classes have synthetic cases, what tells
  these from real ones tells the class, too, and a real case of such a class counts as another.

The number of an arm at a pool is the share of what its class lacks to be as frequent as the most
frequent one: 1 makes them alike. With ``per_real`` of a pool it is one per real case of that class
before any was left out. The most frequent class is that of all real cases of the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import nn

from tools.studies.downstream.cases import Case
from tools.studies.downstream.effects import Curve, Measure, Report, Rows, fewest_runs
from tools.studies.downstream.training import fit, open_training, prepares, sample
from tools.transforms.ratings import rating_class

__all__ = [
    "HEALTHY",
    "REPORT",
    "area_under_roc",
    "average_precision",
    "group",
    "kept",
    "measure",
    "synthetic_cases",
    "train",
]

MACRO = "macro"  # the mean over classes
RECALLS = tuple(np.linspace(0, 1, 41).tolist())
BATCH = 16  # of patches that are measured together
SIZES_MM = ((0.0, 6.0), (6.0, 10.0), (10.0, 20.0), (20.0, 30.0))  # what is larger is no nodule
LOWEST_P = 0.002  # of HR-LDM's table 3


def group(
    case: Case, classes: Mapping[str, Sequence[float]], settings: Mapping[str, Any]
) -> int | None:
    """Return the number of a case's class, None where it has none."""
    return rating_class(case.facts.get(settings["rating"]), classes)


def _rated(
    cases: Sequence[Case], classes: Mapping[str, Sequence[float]], settings: Mapping[str, Any]
) -> list[tuple[Case, int]]:
    """Return the cases that have a class, and its number."""
    rated = ((case, group(case, classes, settings)) for case in cases)
    return [(case, number) for case, number in rated if number is not None]


def kept(
    cases: Sequence[Case],
    classes: Mapping[str, Sequence[float]],
    settings: Mapping[str, Any],
    seed: int,
) -> list[Case]:
    """Return the real cases that have a class, of each class the share that the settings keep."""
    rated, shares = _rated(cases, classes, settings), settings.get("keep", {})
    result = []
    for number, name in enumerate(classes):
        own = [case for case, found in rated if found == number]
        order = np.random.default_rng([seed, number]).permutation(len(own))
        result += [own[k] for k in sorted(order[: round(shares.get(name, 1) * len(own))])]
    return result


def train(
    cases: Sequence[Case],
    classes: Mapping[str, Sequence[float]],
    settings: Mapping[str, Any],
    seed: int,
    device: torch.device,
) -> tuple[nn.Module, list[float]]:
    """Return a network trained on the cases that have a class, and its losses.

    Raises:
        ValueError: if no case has a class.
    """
    rated = _rated(cases, classes, settings)
    if not rated:
        raise ValueError(f"cases must have a rating of {settings['rating']}, got none that has")
    count = Counter(number for _, number in rated)
    weights = [1 / count[number] for _, number in rated] if settings.get("balanced") else None
    samples = [_sample(case, classes, settings) for case, _ in rated]
    return fit(_opened(classes, settings, device, seed), samples, weights)


def _opened(
    classes: Mapping[str, Sequence[float]],
    settings: Mapping[str, Any],
    device: torch.device,
    seed: int = 0,
    overlays: Sequence[str] = (),
) -> ConfigParser:
    """Return the bundle's configs for these classes."""
    changes = {
        "rating": settings["rating"],
        "rating_classes": dict(classes),
        "class_names": list(classes),
    }
    return open_training(settings, device, seed, overlays, changes)


def _sample(
    case: Case, classes: Mapping[str, Sequence[float]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a case as the transforms of the bundle take it."""
    return {**sample(case), settings["rating"]: case.facts.get(settings["rating"])}


def synthetic_cases(
    rule: Mapping[str, Any],
    ratio: float,
    real: Sequence[Case],
    taken: Sequence[Case],
    classes: Mapping[str, Sequence[float]],
    settings: Mapping[str, Any],
) -> int:
    """Return how many cases of a pool an arm takes; see above.

    Args:
        rule: of the pool.
        ratio: the number of the arm.
        real: all cases of the run.
        taken: those that are trained on.
        classes: ranges of ratings by name.
        settings: ``training`` of the preset.

    Raises:
        ValueError: if the pool does not say its class.
    """
    number = rating_class(rule.get("facts", {}).get(settings["rating"]), classes)
    if number is None:
        raise ValueError(
            f"facts of a pool must hold {settings['rating']}, one of {list(classes)}, got "
            f"{rule.get('facts')}"
        )
    every = Counter(own for _, own in _rated(real, classes, settings))
    if rule.get("per_real"):
        return round(ratio * every[number])
    left = sum(own == number for _, own in _rated(taken, classes, settings))
    return round(ratio * (max(every.values(), default=0) - left))


def measure(
    network: nn.Module,
    cases: Sequence[Case],
    classes: Mapping[str, Sequence[float]],
    settings: Mapping[str, Any],
    device: torch.device,
) -> Iterator[dict[str, Any]]:
    """Yield of each case that has a class: that, its diameter, and the probability of each class.

    The diameter is that of the sphere of the lesion's volume, mm.
    """
    rated, names = _rated(cases, classes, settings), list(classes)
    prepare = prepares(_opened(classes, settings, device, overlays=["evaluate.json"]), "validate")
    for start in range(0, len(rated), BATCH):
        part = rated[start : start + BATCH]
        taken = (prepare(_sample(case, classes, settings)) for case, _ in part)
        patches = torch.stack([each["image"] for each in taken])
        with torch.inference_mode():
            shares = network(patches.to(device)).softmax(1).cpu().numpy()
        for (case, number), scores in zip(part, shares, strict=True):
            volume = float((case.label > 0).sum()) * float(np.prod(case.spacing_mm))
            yield {
                "name": case.name,
                "patient": case.patient,
                "class": names[number],
                "diameter_mm": round((6 / np.pi * volume) ** (1 / 3), 2),
                "scores": {k: round(float(s), 5) for k, s in zip(names, scores, strict=True)},
            }


def area_under_roc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of weighted cases, ``(draws,)``.

    The share of pairs of a positive and a negative case of which the positive scores higher; ties
    count half. NaN where a draw lacks either.

    Args:
        positive: ``(cases,)`` bool.
        scores: ``(cases,)``.
        weights: ``(draws, cases)``, 0 or more.

    Example:
        >>> positive, scores = np.array([True, False, True]), np.array([0.9, 0.5, 0.4])
        >>> area_under_roc(positive, scores, np.array([[1, 1, 1], [2, 1, 0], [0, 1, 0]])).tolist()
        [0.5, 1.0, nan]
    """
    first, second = scores[positive][:, None], scores[~positive][None]
    wins = (first > second) + 0.5 * (first == second)
    own, other = weights[:, positive].astype(float), weights[:, ~positive].astype(float)
    pairs = own.sum(1) * other.sum(1)
    return np.where(pairs > 0, ((own @ wins) * other).sum(1) / np.maximum(pairs, 1e-12), np.nan)


def average_precision(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    r"""Return the area under the curve of precision and recall of weighted cases, ``(draws,)``.

    :math:`\sum_n (R_n - R_{n-1}) P_n` over falling thresholds, as scikit-learn's; cases of one
    score come together. NaN where a draw has no positive case. Arguments as of
    :func:`area_under_roc`.

    Example:
        >>> positive, scores = np.array([True, False, True]), np.array([0.9, 0.5, 0.4])
        >>> average_precision(positive, scores, np.ones((1, 3))).round(4).tolist()
        [0.8333]
    """
    order = np.argsort(-scores, kind="stable")
    weights, ranked = weights[:, order].astype(float), scores[order]
    hits = weights * positive[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # last of each score
    recalled, taken = hits.cumsum(1)[:, ends], weights.cumsum(1)[:, ends]
    precision = recalled / np.maximum(taken, 1e-12)
    steps = np.diff(recalled, axis=1, prepend=0)
    total = hits.sum(1)
    return np.where(total > 0, (steps * precision).sum(1) / np.maximum(total, 1e-12), np.nan)


Area = Any  # of positive, scores and weights


def _of_class(rows: Rows, name: str, weights: np.ndarray, area: Area) -> np.ndarray:
    """Return an area for a class against the rest, or the mean over classes."""
    if not rows:
        return np.full(len(weights), np.nan)
    if name == MACRO:
        return np.mean([_of_class(rows, each, weights, area) for each in rows[0]["scores"]], axis=0)
    positive = np.array([row["class"] == name for row in rows])
    return area(positive, np.array([row["scores"][name] for row in rows]), weights)


def _of_size(rows: Rows, name: str, size_mm: tuple[float, float]) -> tuple[Rows, int]:
    """Return the cases of a size, and how many are of a class."""
    few = [row for row in rows if size_mm[0] <= row["diameter_mm"] < size_mm[1]]
    return few, sum(name in (MACRO, row["class"]) for row in few)


def _precisions(rows: Rows, name: str) -> np.ndarray:
    """Return the highest precision at each recall or beyond; of all classes together for macro."""
    names = list(rows[0]["scores"]) if name == MACRO else [name]
    positive = np.array([row["class"] == each for each in names for row in rows])
    scores = np.array([row["scores"][each] for each in names for row in rows])
    hits = positive[np.argsort(-scores, kind="stable")].cumsum()
    if not len(hits) or not hits[-1]:
        return np.full(len(RECALLS), np.nan)
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return precision[np.searchsorted(hits / hits[-1], np.minimum(RECALLS, 1 - 1e-9))]


def _names(classes: Mapping[str, Any]) -> list[str]:
    """Two classes have one area under the ROC curve; a mean is told of three or more."""
    return [*([MACRO] if len(classes) > 2 else []), *classes]


AREAS = {
    "auroc": Measure("AUROC", whole=partial(_of_class, area=area_under_roc)),
    "auprc": Measure("AUPRC", whole=partial(_of_class, area=average_precision)),
}
HEALTHY = False
REPORT = Report(
    measures=AREAS,
    by_size=AREAS,
    sized=_of_size,
    names=_names,
    sizes_mm=SIZES_MM,
    facts=(
        "AUROC and AUPRC in per cent, of a class against the rest; macro: mean over classes. Of n "
        "against n runs the rank test cannot give less than 2 / binomial(2n, n): the lowest p that "
        f"HR-LDM reports, {LOWEST_P}, takes {fewest_runs(LOWEST_P)} runs of each arm."
    ),
    curves={"precision and recall": Curve(("recall", "precision"), RECALLS, _precisions)},
)
