"""Measures of what a lesion looks like: histograms, contrasts, order, realism, background."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import wasserstein_distance
from torch import Tensor

from tools.histograms import jensen_shannon_divergence
from tools.metrics.lesion_edit import wasserstein_distance_hu
from tools.studies.cases import Case, class_histograms
from tools.studies.classify import SubtypeClassifier, forest_test, network_test, pooled
from tools.studies.methods import Drawn, Method
from tools.studies.statistics import Found, quartiles
from tools.transforms.conditions import SUBTYPES

# of the window's 2: below this, blood and myocardium are alike and a ratio to them says nothing
SMALLEST_SCALE = 0.05
SMALLEST_LESION, PAIRINGS = 8, 5
SMALLEST_SHARE = 1e-3

Compare = Callable[[Tensor, Tensor, Case], Tensor]


def _mean_of(histograms: Tensor, case: Case) -> Tensor:
    """Return the mean intensity of each histogram, ``(K,)``."""
    low, high = case.scale
    width = (high - low) / histograms.shape[1]
    centres = low + width * (torch.arange(histograms.shape[1]) + 0.5)
    return (histograms * centres).sum(1) / histograms.sum(1)


COMPARISONS: dict[str, Compare] = {
    "divergence": lambda got, asked, _: jensen_shannon_divergence(got, asked),
    "wasserstein": lambda got, asked, case: wasserstein_distance_hu(got, asked, case.scale),
    "mean_asked": lambda _, asked, case: _mean_of(asked, case),
    "mean_drawn": lambda got, _, case: _mean_of(got, case),
}


def histograms(study: Drawn, methods: Sequence[str], of: Sequence[str]) -> Found:
    """Compare the histogram of each lesion class with each of the method's targets.

    ``of`` are :data:`COMPARISONS`. By method, target, and class or subtype asked the quartiles of
    each; means over the samples of a case, None where a class is absent.
    """
    found: Found = {"methods": {}, "cases": {}}
    for name in methods:
        method = study.methods[name]
        summary, rows = {}, [dict[str, Any]() for _ in study.cases]
        for target, asked in method.targets.items():
            for row, run, case, wanted in zip(
                rows, study.runs[name].images, study.cases, asked, strict=True
            ):
                row[target] = {
                    key: _values(run, case, wanted, COMPARISONS[key], study.classes) for key in of
                }
            summary[target] = _by_group(study, method, [row[target] for row in rows])
        found["methods"][name], found["cases"][name] = summary, rows
    return found


def _values(
    images: Sequence[np.ndarray],
    case: Case,
    asked: Tensor | None,
    compare: Compare,
    classes: Sequence[str],
) -> dict[str, float | None]:
    """Return the comparison of each class, the mean over samples; None where it is absent."""
    if asked is None:
        return dict.fromkeys(classes)
    samples = []
    for image in images:
        got = class_histograms(image, case.masks, asked.shape[1], case.value_range)
        known = (got.sum(1) > 0) & (asked.sum(1) > 0)
        values = compare(got, asked, case).tolist()
        samples.append([v if there else None for v, there in zip(values, known, strict=True)])
    found = {name: quartiles(column) for name, *column in zip(classes, *samples, strict=True)}
    return {name: None if row is None else row["mean"] for name, row in found.items()}


def _by_group(
    study: Drawn, method: Method, rows: Sequence[Mapping[str, Mapping[str, float | None]]]
) -> dict[str, Any]:
    """Return quartiles over all cases by class, and over those of each subtype asked."""
    groups = [
        SUBTYPES[request.subtype] if request.subtype >= 0 else case.group
        for request, case in zip(method.asked, study.cases, strict=True)
    ]
    chosen = {name: (name, list(rows)) for name in study.classes}
    for group in (name for name in SUBTYPES if name in groups):
        mine = [row for row, other in zip(rows, groups, strict=True) if other == group]
        chosen[group] = (study.classes[0], mine)
    return {
        label: {key: quartiles([row[key][name] for row in mine]) for key in rows[0]}
        for label, (name, mine) in chosen.items()
    }


def chance(study: Drawn, methods: Sequence[str]) -> Found:
    """Return the divergence that chance alone leaves: one draw from the target per lesion voxel.

    A network that draws voxels independently from the requested histogram would reach this; one
    that arranges them can be better.
    """
    found: Found = {}
    for name in methods:
        rng, found[name] = np.random.default_rng(study.seed), []
        for case, asked in zip(study.cases, study.methods[name].targets[name], strict=True):
            assert asked is not None
            weights = asked[0].double().numpy()
            counts = rng.multinomial(int(case.masks[0].sum()), weights / weights.sum())
            drawn = jensen_shannon_divergence(torch.from_numpy(counts), asked[0])
            found[name].append(float(drawn))
    return {"methods": {name: quartiles(values) for name, values in found.items()}, "cases": found}


class LogLinear(NamedTuple):
    """How an output follows its original and its control; see :func:`fit_log_linear`."""

    r: float
    s: float
    p: float
    q: float

    def predicted(self, original: np.ndarray, control: np.ndarray) -> np.ndarray:
        """Return the histograms that the fit says will be drawn, rows ``(n, bins)`` of sum 1."""
        logs = self.r * _logs(original) + self.p + self.s * _logs(control) + self.q
        return np.exp(logs) / np.exp(logs).sum(1, keepdims=True)


def fit_log_linear(original: np.ndarray, control: np.ndarray, output: np.ndarray) -> LogLinear:
    r"""Return how much of the output comes from the original region and how much from the control.

    :math:`O = e^m, m = (r \log I + p) + (s \log h + q)` (LeFusion, Eq. 7-8), least squares over
    all bins of all cases. Only the sum of p and q is determined; the smallest pair is taken, in
    which they are equal. Shares below 0.001 count as that: empty bins have no logarithm.

    Args:
        original: histograms I of the region before, ``(n, bins)``.
        control: histograms h asked for.
        output: histograms O of what was drawn.

    References:
        Zhang et al., LeFusion, ICLR 2025, appendix C. https://arxiv.org/abs/2403.14066

    Example:
        >>> asked = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
        >>> fit = fit_log_linear(asked[:, ::-1], asked, asked)
        >>> abs(round(fit.r, 6)), round(fit.s, 6)
        (0.0, 1.0)
    """
    first, second = _logs(original).ravel(), _logs(control).ravel()
    ones = np.ones_like(first)
    table = np.stack([first, second, ones, ones], 1)
    return LogLinear(*np.linalg.lstsq(table, _logs(output).ravel())[0].tolist())


def _logs(histograms: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.maximum(histograms, SMALLEST_SHARE)))


def log_linear(study: Drawn, methods: Sequence[str]) -> Found:
    """Fit one :func:`fit_log_linear` to the first samples of all methods, first lesion class.

    ``divergence``: of what the fit says from what was drawn; ``control``: of what was asked for,
    quartiles by method. A method that asks for the lesion's own histogram has no place here: its
    control is its original.
    """
    rows: dict[str, list[np.ndarray]] = {}
    for name in methods:
        triples = [
            [each[0].double().numpy() for each in (case.histograms, asked, drawn)]
            for case, asked, image in zip(
                study.cases, study.methods[name].targets[name], study.runs[name].first, strict=True
            )
            if asked is not None
            for drawn in [class_histograms(image, case.masks, asked.shape[1], case.value_range)]
        ]
        rows[name] = [np.stack(column) for column in zip(*triples, strict=True)]
    fit = fit_log_linear(*(np.concatenate(part) for part in zip(*rows.values(), strict=True)))
    found: Found = {"methods": {}, "together": {**fit._asdict(), "n": len(study.cases)}}
    for name, (original, control, output) in rows.items():
        said = fit.predicted(original, control)
        apart = {
            key: jensen_shannon_divergence(torch.from_numpy(x), torch.from_numpy(output)).tolist()
            for key, x in (("divergence", said), ("control", control))
        }
        spread = {key: quartiles(values) for key, values in apart.items()}
        found["methods"][name] = {**fit._asdict(), "offset": fit.p + fit.q, **spread}
    return found


def lesion_mean(image: np.ndarray, case: Case) -> float:
    """Return the mean inside the lesion in the scan's units."""
    (low, high), (bottom, top) = case.scale, case.value_range
    mean = image[case.lesion].mean(dtype=float)
    return float(low + (mean - bottom) * ((high - low) / (top - bottom)))


def order(study: Drawn, methods: Sequence[str]) -> Found:
    """Compare means in the lesions by preset; ``methods`` in rising order of what is asked."""
    found: Found = {"methods": {}, "cases": {}}
    for name in methods:
        pairs = zip(study.runs[name].first, study.cases, strict=True)
        means = [lesion_mean(image, case) for image, case in pairs]
        asked = study.methods[name].targets[name][0]
        assert asked is not None
        wanted = float(_mean_of(asked.double(), study.cases[0])[0])
        found["methods"][name] = {"asked": wanted, "drawn": quartiles(means)}
        found["cases"][name] = means
    rising = np.diff(list(found["cases"].values()), axis=0) > 0
    found["together"] = {
        "rising": " < ".join(methods),
        "ordered_fraction": float(rising.all(0).mean()),
        "n": len(study.cases),
    }
    return found


def tissue_scale(image: np.ndarray, dark: np.ndarray, bright: np.ndarray) -> tuple | None:
    """Return the median of the dark tissue and how far the bright one's lies above it.

    None where a tissue is absent or the bright one is hardly brighter.
    """
    if not (dark.any() and bright.any()):
        return None
    zero, one = float(np.median(image[dark])), float(np.median(image[bright]))
    return (zero, one - zero) if one - zero > SMALLEST_SCALE else None


def tissue_contrasts(
    image: np.ndarray,
    masks: np.ndarray,
    dark: np.ndarray,
    bright: np.ndarray,
    names: Sequence[str] = ("first", "second"),
) -> dict[str, float | None]:
    r"""Return :math:`(x - d) / (b - d)`: 0 is the dark tissue, 1 is the bright one; medians.

    Of an image in [-1, 1] of any shape: ``dark`` is True in tissue such as remote myocardium,
    ``bright`` in one such as blood, ``masks`` ``(2, ...)`` in the lesion classes (the x). A
    contrast per class, and ``ratio``, the second to the first; None where a tissue is absent, the
    bright one is hardly brighter, or, for the ratio, the first class is no brighter.

    Example:
        >>> image = np.array([0.5, -0.5, 1.0, 0.0])
        >>> masks, one = np.eye(4, dtype=bool), ("infarct", "core")
        >>> tissue_contrasts(image, masks[2:], masks[1], masks[0], one)
        {'infarct': 1.5, 'core': 0.5, 'ratio': 0.3333333333333333}
    """
    found: dict[str, float | None] = dict.fromkeys((*names, "ratio"))
    scale = tissue_scale(image, dark, bright)
    if scale is None:
        return found
    for name, inside in zip(names, masks, strict=True):
        if inside.any():
            found[name] = float((np.median(image[inside]) - scale[0]) / scale[1])
    first, second = (found[name] for name in names)
    if first is not None and second is not None and first > SMALLEST_SCALE:
        found["ratio"] = second / first
    return found


def border_jump(
    image: np.ndarray, masks: np.ndarray, dark: np.ndarray, bright: np.ndarray
) -> dict[str, float | None]:
    """Return how far the intensity falls from the first class to the second one beside it.

    Only neighbours within a slice count: slices are far apart. ``fall`` is the mean of first minus
    second over such pairs, ``step`` that of its absolute value, both in units of the bright minus
    the dark tissue; None where the two do not touch or there is no such unit.
    """
    scale = tissue_scale(image, dark, bright)
    falls: list[np.ndarray] = []
    for axis in (0, 1):
        near = [np.delete(mask, -1, axis) for mask in masks]
        far = [np.delete(mask, 0, axis) for mask in masks]
        change = np.diff(image, axis=axis)
        falls += [-change[near[0] & far[1]], change[near[1] & far[0]]]
    values = np.concatenate(falls)
    if scale is None or not values.size:
        return {"fall": None, "step": None}
    values = values / scale[1]
    return {"fall": float(values.mean()), "step": float(np.abs(values).mean())}


def compare_values(
    real: Sequence[float | None], synthetic: Sequence[Sequence[float | None]]
) -> dict[str, Any] | None:
    """Compare a measure of real cases with that of their synthetic twins, several per case.

    Quartiles of both (``real``, ``synthetic``), ``wasserstein``, the Wasserstein-1 distance of
    their distributions, ``error``, the median absolute difference of twins, and ``n`` cases; None
    if no case has both.

    Example:
        >>> compare_values([1.0, None, 3.0], [[1.5], [9.0], [3.5]])["wasserstein"]
        0.5
    """
    values, drawn, weights, errors = [], [], [], []
    for value, samples in zip(real, synthetic, strict=True):
        twins = [twin for twin in samples if twin is not None]
        if value is None or not twins:
            continue
        values.append(value)
        drawn += twins
        weights += [1 / len(twins)] * len(twins)  # cases count alike, however many their samples
        errors.append(np.mean([abs(twin - value) for twin in twins]))
    if not values:
        return None
    return {
        "real": quartiles(values),
        "synthetic": quartiles(drawn),
        "wasserstein": float(wasserstein_distance(values, drawn, v_weights=weights)),
        "error": float(np.median(errors)),
        "n": len(values),
    }


def contrast(
    study: Drawn, methods: Sequence[str], dark: Sequence[int], bright: Sequence[int]
) -> Found:
    """Compare contrasts and border jump of synthetic lesions with the real ones in their place.

    ``dark`` and ``bright`` are labels of the tissues that are 0 and 1: myocardium and blood.
    """

    def measures(image: np.ndarray, case: Case) -> dict[str, float | None]:
        assert case.tissue is not None
        tissues = np.isin(case.tissue, dark), np.isin(case.tissue, bright)
        jump = border_jump(image, case.masks, *tissues)
        return tissue_contrasts(image, case.masks, *tissues, study.classes) | jump

    real = [measures(case.image, case) for case in study.cases]
    found: Found = {"methods": {}, "cases": {"real": [[row] for row in real]}}
    for name in methods:
        drawn = [
            [measures(image, case) for image in images]
            for images, case in zip(study.runs[name].images, study.cases, strict=True)
        ]
        found["cases"][name] = drawn
        found["methods"][name] = {
            key: compare_values([row[key] for row in real], [[s[key] for s in d] for d in drawn])
            for key in real[0]
        }
    return found


def changes(image: np.ndarray, case: Case, margin_mm: float = 0.0) -> dict[str, Any]:
    """Return how many voxels changed outside and inside the lesion, and the largest change outside.

    Outside begins ``margin_mm`` off the lesion (grid of 1 mm). A window that was resampled has
    ``scan_outside`` and ``scan_inside`` as well, on the scan's own grid after pasting back.
    """
    free, change = ~case.lesion, np.abs(image - case.shown)
    if margin_mm:
        free = ndimage.distance_transform_edt(free) >= margin_mm
    found: dict[str, Any] = {
        "largest": float(change[free].max(initial=0.0)),
        "outside": int((change[free] > 0).sum()),
        "inside": int((change[~free] > 0).sum()),
    }
    if case.native is not None:
        moved = case.pasted(image) != case.native.scan
        lesion = np.isin(case.native.label, case.native.lesions)
        found["scan_outside"] = int((moved & ~lesion).sum())
        found["scan_inside"] = int((moved & lesion).sum())
    return found


def background(study: Drawn, methods: Sequence[str]) -> Found:
    """Return what changed outside the lesions, over all cases and samples; it must be nothing."""
    found: Found = {"methods": {}}
    for name in methods:
        margin = study.methods[name].margin_mm
        rows = [
            changes(image, case, margin)
            for images, case in zip(study.runs[name].images, study.cases, strict=True)
            for image in images
        ]
        total = {key: sum(row[key] for row in rows) for key in rows[0]}
        found["methods"][name] = total | {"largest": max(row["largest"] for row in rows)}
    return found


def lesion_crops(
    cases: Sequence[Case], images: Sequence[np.ndarray] | None = None, size: int = 24
) -> Tensor:
    """Return cubes of 1 mm about the lesions, ``(n, 1, size, size, size)``, for the network.

    A lesion with its 5 mm of surroundings that needs more than the cube is cropped, not shrunk:
    shrinking would average away the noise by which a synthetic texture shows. Intensities are
    rounded to whole units of the scan, as scans store them, so that rounding itself is no clue.
    """
    crops = []
    for case, image in zip(cases, images or [case.image for case in cases], strict=True):
        half = (case.scale[1] - case.scale[0]) / 2
        voxels = np.argwhere(case.lesion)
        middle = (voxels.min(0) + voxels.max(0) + 1) // 2
        i, j, k = np.clip(middle - size // 2, 0, np.array(case.image.shape) - size).tolist()
        crop = image[i : i + size, j : j + size, k : k + size].astype(np.float32)
        crops.append(torch.from_numpy((crop * half).round() / half)[None].float())
    return torch.stack(crops)


def slice_features(image: np.ndarray, masks: np.ndarray) -> list[float]:
    """Return what a radiologist would look at in a slice: levels, spread, grain, edges.

    For each class (masks ``(K, H, W)``) mean, standard deviation, grain (deviation from the mean of
    the neighbours) and slope, 0 where it is absent; then mean of the ring of one voxel round the
    lesion, and slope of its edge.
    """
    grain = np.abs(image - ndimage.uniform_filter(image, 3))
    slope = np.hypot(*np.gradient(image))
    features: list[float] = []
    for mask in masks > 0:
        values = np.zeros(4)
        if mask.any():
            inside = image[mask], grain[mask], slope[mask]
            values[:] = inside[0].mean(), inside[0].std(), inside[1].mean(), inside[2].mean()
        features += values.tolist()
    lesion = masks.max(0) > 0
    ring = ndimage.binary_dilation(lesion) & ~lesion
    edge = ndimage.binary_dilation(lesion) & ~ndimage.binary_erosion(lesion)
    return [*features, float(image[ring].mean()), float(slope[edge].mean())]


def lesion_slices(
    cases: Sequence[Case], images: Sequence[np.ndarray] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Return the features of every slice with a lesion of some voxels, and whose slices they are.

    Raises:
        ValueError: if there is no such slice.
    """
    features, patients = [], []
    for case, image in zip(cases, images or [case.image for case in cases], strict=True):
        for k in np.flatnonzero(case.lesion.sum((0, 1)) >= SMALLEST_LESION):
            features.append(slice_features(image[:, :, k], case.masks[:, :, :, k]))
            patients.append(case.patient)
    if not features:
        raise ValueError(f"cases must hold slices with {SMALLEST_LESION} voxels of lesion, got 0")
    return np.array(features), patients


def realism(study: Drawn, methods: Sequence[str], by: str) -> Found:
    """Test whether a classifier can tell the first sample of each method from the real lesions.

    ``by`` is ``network``, a small 3-D one on crops, or ``forest``, on features of slices, which is
    also given slices of one patient against those of another, called real and synthetic at
    random (``real_other``): what it says where there is nothing to tell.
    """
    tests: dict[str, Any] = {}
    if by == "network":
        crops, patients = lesion_crops(study.cases), [case.patient for case in study.cases]
        for name in methods:
            drawn = lesion_crops(study.cases, study.runs[name].first)
            tests[name] = network_test(crops, drawn, patients, seed=study.seed, device=study.device)
        return {"methods": tests}
    real, patients = lesion_slices(study.cases)
    for name in methods:
        features, _ = lesion_slices(study.cases, study.runs[name].first)
        tests[name] = forest_test(real, features, patients, seed=study.seed)
    return {"methods": tests, "real": {"real_other": _real_pairs(real, patients, study.seed)}}


def _real_pairs(real: np.ndarray, patients: Sequence[str], seed: int) -> dict[str, Any]:
    """Return the test of several random pairings of patients together: one has few slices."""
    names, owner, tests = np.unique(patients), np.array(patients), []
    for number in range(PAIRINGS):
        order = np.random.default_rng(seed + number).permutation(names)
        members = [np.flatnonzero(owner == name).tolist() for name in order]
        left, right = [], []
        for one, two in zip(members[0::2], members[1::2], strict=False):
            count = min(len(one), len(two))
            left += one[:count]
            right += two[:count]
        tests.append(forest_test(real[left], real[right], owner[left].tolist(), seed=seed + number))
    return pooled(tests)


def subtype(study: Drawn, methods: Sequence[str]) -> Found:
    """Return how often a classifier of real training lesions names the subtype asked for.

    ``together``: by model, over all methods that ask for one subtype in every lesion.
    """

    def known(cases: Sequence[Case]) -> tuple[list[np.ndarray], list[np.ndarray], list[int]]:
        numbers = [SUBTYPES.index(case.group) for case in cases]
        return [case.image for case in cases], [case.lesion for case in cases], numbers

    classifier = SubtypeClassifier(*known(study.training_cases()))
    images, masks, truth = known(study.cases)
    found: Found = {"methods": {}, "real": classifier.measure(images, masks, truth)}
    fixed: dict[str, tuple[list[np.ndarray], list[np.ndarray], list[int]]] = {}
    for name in methods:
        method, images = study.methods[name], study.runs[name].first
        base = method.base or name
        if base not in SUBTYPES:
            found["methods"][name] = classifier.measure(images, masks, truth)
            continue
        rows = fixed.setdefault(method.model, ([], [], []))
        rows[0].extend(images)
        rows[1].extend(masks)
        rows[2].extend([SUBTYPES.index(base)] * len(masks))
    found["together"] = {model: classifier.measure(*rows) for model, rows in fixed.items()}
    return found
