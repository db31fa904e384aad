"""The task detection: a network that tells nodules from vessels among candidate points.

This is the second half of a detector, the one that reduces false positives (LUNA16): candidates
are found by a fixed rule (:func:`candidates`), the network scores the patch round each. A lesion
that no candidate lies in is missed whatever the network says. Training sees patches with a nodule
and, as often, without: candidates of the same cases, and of windows of scans without any lesion,
which are hard negatives (vessels, the hilum, scars).

``classes`` of a preset is the name of the lesion and its label value. ``training`` has, beside
what :mod:`tools.studies.downstream.training` says:

* ``per_case``: candidates at most, the most blob-like ones.

Patches are as large as the bundle's ``patch_size``, of 1 mm; points nearer to the end of the scan
than half of it are no candidates, so that no patch holds what was not scanned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.bundle import ConfigParser
from scipy import ndimage
from torch import nn

from tools.metrics.segmentation import FALSE_PER_CASE
from tools.studies.downstream.cases import Case
from tools.studies.downstream.classification import RECALLS, average_precision
from tools.studies.downstream.effects import Curve, Measure, Report, Rows
from tools.studies.downstream.segmentation import group, kept, synthetic_cases
from tools.studies.downstream.training import fit, open_training, prepares, sample
from tools.transforms.ratings import patch_from

__all__ = [
    "HEALTHY",
    "REPORT",
    "candidates",
    "froc",
    "group",
    "kept",
    "measure",
    "synthetic_cases",
    "train",
]

KIND = "candidate"  # key of what a candidate is
HEALTHY = True  # windows of scans without lesion are trained on in all arms
SIGMAS_MM = (1.5, 4.0)  # of blobs: a ball of diameter d answers most at d / (2 sqrt 3)
AERATED_HU = -500.0
CLOSED_MM = 10.0  # radius of what lung surrounds: nodules up to twice as large are inside
ANSWER_HU = 40.0  # of a blob, at least
APART = 5  # voxels; the strongest of a neighbourhood of this width is a candidate
BRIGHTEST_HU = 200.0
BATCH = 64
RATES = tuple(2.0**k for k in np.linspace(-3, 3, 25))


class Candidates(NamedTuple):
    """Points of a case in the order of their answer, and which lesion each lies in.

    Attributes:
        points: voxel indices ``(n, 3)``.
        lesions: index of the lesion of each, -1: none.
        diameters_mm: of the lesions that were searched.
    """

    points: np.ndarray
    lesions: np.ndarray
    diameters_mm: np.ndarray


def candidates(
    case: Case, classes: Mapping[str, int], size: Sequence[int], per_case: int
) -> Candidates:
    r"""Return the blobs of a case that are brighter than the lung round them.

    Local maxima, over space, of the largest :math:`-\sigma^2 \nabla^2 (G_\sigma * I)` over scales
    (Lindeberg, IJCV 30:79, 1998), in the lung with all that it surrounds. A candidate belongs to
    the lesion that it lies in or touches. Lesions whose middle is too near to the end of the scan
    for a patch are not searched, and do not count.

    Args:
        case: in HU.
        classes: label values of lesions.
        size: voxels of a patch.
        per_case: points at most.
    """
    image = np.clip(np.asarray(case.image, np.float32), -1000, BRIGHTEST_HU)
    spacing = np.array(case.spacing_mm)
    answer = np.max(
        [-(s**2) * ndimage.gaussian_laplace(image, s / spacing) for s in SIGMAS_MM], axis=0
    )
    within = _searched(case.known, size)
    inside = within & _lung(image, spacing) & (answer >= ANSWER_HU)
    inside &= answer == ndimage.maximum_filter(answer, APART)
    points = np.argwhere(inside)
    points = points[np.argsort(-answer[inside], kind="stable")][:per_case]
    lesion = np.isin(case.label, list(classes.values()))
    parts, count = ndimage.label(lesion, np.ones((3, 3, 3)))
    middles = np.array(ndimage.center_of_mass(lesion, parts, range(1, count + 1))).reshape(-1, 3)
    wanted = [k for k, middle in enumerate(middles) if within[tuple(np.rint(middle).astype(int))]]
    touched = ndimage.grey_dilation(parts, (3, 3, 3))[tuple(points.T)] - 1
    number = {k: place for place, k in enumerate(wanted)}
    kept_points = np.array([k < 0 or k in number for k in touched], bool)
    voxels = np.bincount(parts.ravel(), minlength=count + 1)[1:][wanted]
    return Candidates(
        points[kept_points],
        np.array([number.get(k, -1) for k in touched[kept_points]], int),
        (6 / np.pi * voxels * spacing.prod()) ** (1 / 3),
    )


def _searched(known: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return the points round which a whole patch was scanned."""
    result = np.zeros(known.shape, bool)
    marked = np.argwhere(known)
    low, high = marked.min(0), marked.max(0) + 1
    half = np.asarray(size) // 2
    part = tuple(
        slice(a + h, b - h + 1) for a, b, h in zip(low.tolist(), high.tolist(), half, strict=True)
    )
    result[part] = True
    return result


def _lung(image: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Return aerated lung, closed by a ball: with vessels and nodules, without the chest wall."""
    dark = ndimage.gaussian_filter(image, 1 / spacing_mm) < AERATED_HU
    if not dark.any():
        return dark
    near = ndimage.distance_transform_edt(~dark, sampling=spacing_mm) <= CLOSED_MM
    # beyond the array all is near, as the lung goes on there
    around = np.pad(near, 1, constant_values=True)
    return ndimage.distance_transform_edt(around, sampling=spacing_mm)[1:-1, 1:-1, 1:-1] > CLOSED_MM


def _opened(
    classes: Mapping[str, int],
    settings: Mapping[str, Any],
    device: torch.device,
    seed: int = 0,
    overlays: Sequence[str] = (),
) -> ConfigParser:
    """Return the configs of a classifier that tells candidates in lesions from others."""
    names = ["other", *classes]
    ranges = {name: [number, number] for number, name in enumerate(names)}
    changes = {"rating": KIND, "rating_classes": ranges, "class_names": names}
    return open_training(settings, device, seed, overlays, changes)


def _samples(
    case: Case, found: Candidates, classes: Mapping[str, int], size: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the patch round each candidate, and what it is, as the bundle's transforms take it."""
    extent = np.asarray(size)
    empty, known, affine = np.zeros(extent, np.uint8), np.ones(extent, bool), np.eye(4)
    names = [next(iter(classes)) if lesion >= 0 else "other" for lesion in found.lesions]
    patches = (
        patch_from(case.image, (point - extent // 2).tolist(), size) for point in found.points
    )
    return [
        {**sample(Case(case.name, case.patient, patch, empty, affine, known)), KIND: name}
        for patch, name in zip(patches, names, strict=True)
    ]


def train(
    cases: Sequence[Case],
    classes: Mapping[str, int],
    settings: Mapping[str, Any],
    seed: int,
    device: torch.device,
) -> tuple[nn.Module, list[float]]:
    """Return a network trained on the candidates of cases, and its losses.

    Candidates in lesions and others are drawn equally often.

    Raises:
        ValueError: if there are not both.
    """
    parser = _opened(classes, settings, device, seed)
    samples: list[dict[str, Any]] = []
    for case in cases:
        found = candidates(case, classes, parser["patch_size"], settings["per_case"])
        samples += _samples(case, found, classes, parser["patch_size"])
    count = Counter(each[KIND] for each in samples)
    if len(count) < 2:
        raise ValueError(
            f"cases must have candidates in lesions and elsewhere, got {dict(count) or 'none'}"
        )
    return fit(parser, samples, [1 / count[each[KIND]] for each in samples])


def measure(
    network: nn.Module,
    cases: Sequence[Case],
    classes: Mapping[str, int],
    settings: Mapping[str, Any],
    device: torch.device,
) -> Iterator[dict[str, Any]]:
    """Yield of each case the lesions, with the highest score of a candidate in them, and others.

    ``lesions`` has diameter in mm and score of each, None where no candidate lies in it; ``false``
    the scores of all candidates outside of lesions.
    """
    parser = _opened(classes, settings, device, overlays=["evaluate.json"])
    size, prepare = parser["patch_size"], prepares(parser, "validate")
    for case in cases:
        found = candidates(case, classes, size, settings["per_case"])
        patches = [prepare(each)["image"] for each in _samples(case, found, classes, size)]
        scores = np.zeros(len(patches))
        for start in range(0, len(patches), BATCH):
            batch = torch.stack(patches[start : start + BATCH]).to(device)
            with torch.inference_mode():
                scores[start : start + len(batch)] = network(batch).softmax(1)[:, 1].cpu().numpy()
        lesions = []
        for number, diameter in enumerate(found.diameters_mm):
            own = scores[found.lesions == number]
            best = round(float(own.max()), 5) if len(own) else None
            lesions.append([round(float(diameter), 2), best])
        false = scores[found.lesions < 0].round(5).tolist()
        yield {"name": case.name, "patient": case.patient, "lesions": lesions, "false": false}


class _Ranked(NamedTuple):
    """All that has a score, the highest first, with the weights of its case by draw."""

    hit: np.ndarray  # whether it is a lesion
    scores: np.ndarray
    weights: np.ndarray  # (draws, n)
    lesions: np.ndarray  # (draws,), those without candidate too


def _ranked(rows: Rows, weights: np.ndarray) -> _Ranked:
    entries = [(score, True, k) for k, row in enumerate(rows) for _, score in row["lesions"]]
    count = weights @ np.array([len(row["lesions"]) for row in rows], float)
    entries += [(score, False, k) for k, row in enumerate(rows) for score in row["false"]]
    entries = [entry for entry in entries if entry[0] is not None]
    order = sorted(range(len(entries)), key=lambda k: -entries[k][0])
    cases = [entries[k][2] for k in order]
    return _Ranked(
        np.array([entries[k][1] for k in order], bool),
        np.array([entries[k][0] for k in order], float),
        weights[:, cases].astype(float),
        count,
    )


def froc(rows: Rows, weights: np.ndarray, rates: Sequence[float] = FALSE_PER_CASE) -> np.ndarray:
    """Return the share of lesions found at rates of false candidates per case, ``(draws, rates)``.

    Between thresholds the curve is straight, from none at none on, and level behind its end, as
    MONAI's ``compute_froc_score`` has it. NaN where a draw has no lesion.

    Args:
        rows: of cases.
        weights: ``(draws, cases)``, how often each is in a draw.
        rates: false candidates per case.

    Example:
        >>> rows = [{"lesions": [[8, 0.9], [5, None]], "false": [0.7]}]
        >>> froc(rows, np.ones((1, 1)), [0.5, 1]).tolist()
        [[0.5, 0.5]]
    """
    ranked = _ranked(rows, weights)
    ends = np.append(np.diff(ranked.scores) != 0, True)[: len(ranked.scores)].nonzero()[0]
    found = (ranked.weights * ranked.hit).cumsum(1)[:, ends]
    false = (ranked.weights * ~ranked.hit).cumsum(1)[:, ends]
    cases = weights.sum(1)
    result = np.full((len(weights), len(rates)), np.nan)
    for k in np.flatnonzero(ranked.lesions > 0):
        per_case, share = false[k] / cases[k], found[k] / ranked.lesions[k]
        # of points with as many false ones the highest counts
        places, first = np.unique(np.append(0, per_case)[::-1], return_index=True)
        result[k] = np.interp(rates, places, np.append(0, share)[::-1][first])
    return result


def _cpm(rows: Rows, name: str, weights: np.ndarray) -> np.ndarray:
    """Return the mean share found at 1/8 to 8 false candidates per case."""
    return froc(rows, weights).mean(1)


def _at(rows: Rows, name: str, weights: np.ndarray, rate: float) -> np.ndarray:
    return froc(rows, weights, [rate])[:, 0]


def _precision(rows: Rows, name: str, weights: np.ndarray) -> np.ndarray:
    """Return the area under precision and recall; lesions without candidate are never recalled."""
    ranked = _ranked(rows, weights)
    hits = (ranked.weights * ranked.hit).sum(1)
    share = np.where(ranked.lesions > 0, hits / np.maximum(ranked.lesions, 1e-12), np.nan)
    if not len(ranked.scores):
        return share * 0
    area = average_precision(ranked.hit, ranked.scores, ranked.weights)
    return np.where(hits > 0, area, 0) * share


def _of_size(rows: Rows, name: str, size_mm: tuple[float, float]) -> tuple[Rows, int]:
    """Return rows with the lesions of a size alone, and their number; false ones stay."""
    low, high = size_mm
    few = [
        {**row, "lesions": [each for each in row["lesions"] if low <= each[0] < high]}
        for row in rows
    ]
    return few, sum(len(row["lesions"]) for row in few)


def _froc_curve(rows: Rows, name: str) -> np.ndarray:
    return froc(rows, np.ones((1, len(rows))), RATES)[0]


def _precisions(rows: Rows, name: str) -> np.ndarray:
    """Return the highest precision at each recall or beyond; 0 where that is not reached."""
    ranked = _ranked(rows, np.ones((1, len(rows))))
    hits = ranked.hit.cumsum()
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    places = np.searchsorted(hits / max(1.0, ranked.lesions[0]), np.array(RECALLS) - 1e-9)
    return np.append(precision, 0)[places]


CPM = Measure("CPM", whole=_cpm)
REPORT = Report(
    measures={
        "cpm": CPM,
        "ap": Measure("AP", whole=_precision),
        **{
            f"at_{rate:g}": Measure(f"at {rate:g}", whole=partial(_at, rate=rate), told=False)
            for rate in FALSE_PER_CASE
        },
    },
    by_size={"cpm": CPM},
    sized=_of_size,
    names=list,
    facts=(
        "In per cent: at 0.125 ... 8: lesions found at so many false candidates per case; CPM: "
        "their mean; AP: area under precision and recall. Candidates are found by a fixed rule and "
        "scored by the network; a lesion without candidate is missed."
    ),
    curves={
        "FROC": Curve(
            ("false candidates per case", "share found"), RATES, _froc_curve, logarithmic=True
        ),
        "precision and recall": Curve(("recall", "precision"), RECALLS, _precisions),
    },
)
