"""What synthetic cases did to a network: paired differences with intervals and tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu, wilcoxon

__all__ = ["SIZES_MM", "case_values", "effect", "sensitivity", "summary"]

RESAMPLES = 2000
SIZES_MM = ((0.0, 6.0), (6.0, 10.0), (10.0, 20.0), (20.0, 40.0))
Rows = Sequence[Mapping[str, Any]]  # of the test cases of one run


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


def sensitivity(runs: Sequence[Rows], name: str, size_mm: tuple[float, float]) -> tuple[float, int]:
    """Return the share of lesions of a size that were found, over all runs, and their number."""
    hits = [
        hit
        for rows in runs
        for row in rows
        for diameter, hit in row["classes"][name]["lesions"]
        if size_mm[0] <= diameter < size_mm[1]
    ]
    return (float(np.mean(hits)) if hits else float("nan")), len(hits) // max(1, len(runs))


def summary(values: np.ndarray) -> dict[str, float]:
    """Return mean over seeds and its standard deviation, of values ``(seeds, cases)``."""
    means = _means(values)
    spread = float(means.std(ddof=1)) if len(means) > 1 else float("nan")
    return {"mean": float(means.mean()), "sd": spread}


def effect(
    base: np.ndarray, arm: np.ndarray, patients: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Return how an arm differs from the one without synthetic cases, paired by seed and case.

    ``effect``: mean difference over seeds and cases. ``low``, ``high``: its 95 % interval, from a
    bootstrap that draws seeds and test patients anew, both with replacement, so it holds what
    chance of the training and of the patients make. ``p_wilcoxon``: signed-rank test over
    patients, of their differences averaged over seeds. ``p_mann_whitney``: two-sided rank test of
    the runs' means, as HR-LDM tests; of n against n runs it cannot be below
    2 / binomial(2 n, n). NaN where a test cannot be made. ``verdict``: ``helps`` or ``harms``
    where the interval leaves 0 out, else ``no difference``.

    Args:
        base: ``(seeds, cases)``, larger is better, NaN where nothing is known.
        arm: likewise, of the same seeds and cases.
        patients: of each case.
        seed: of the bootstrap.

    Raises:
        ValueError: if the shapes differ, or nothing is known of both.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> base = rng.normal(0.7, 0.01, (5, 20))
        >>> found = effect(base, base + 0.1, [str(k) for k in range(20)])
        >>> round(found["effect"], 3), found["verdict"], found["p_wilcoxon"] < 1e-3
        (0.1, 'helps', True)
    """
    if base.shape != arm.shape or base.shape[1:] != (len(patients),):
        raise ValueError(f"arm must have the shape of base, got {arm.shape} and {base.shape}")
    change = arm - base
    if not np.isfinite(change).any():
        raise ValueError("base and arm must share a case that is known, got none")
    low, high = _interval(change, np.array(patients), seed)
    of_patients = _by_patient(change, patients)
    means = _means(base), _means(arm)
    verdict = "helps" if low > 0 else "harms" if high < 0 else "no difference"
    return {
        "effect": float(np.nanmean(change)),
        "low": low,
        "high": high,
        "p_wilcoxon": _p(lambda: wilcoxon(of_patients), bool(np.any(of_patients))),
        "p_mann_whitney": _p(lambda: mannwhitneyu(*means), len(means[0]) > 1),
        "seeds": len(change),
        "patients": len(of_patients),
        "verdict": verdict,
    }


def _by_patient(change: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """Return the mean difference of each patient of whom anything is known."""
    names = np.array(patients)
    parts = [change[:, names == name] for name in np.unique(names)]
    return np.array([np.nanmean(part) for part in parts if np.isfinite(part).any()])


def _means(values: np.ndarray) -> np.ndarray:
    return np.nanmean(values, axis=1)


def _p(test: Callable[[], Any], possible: bool) -> float:
    return float(test().pvalue) if possible else float("nan")


def _interval(change: np.ndarray, patients: np.ndarray, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    known, values = np.isfinite(change), np.nan_to_num(change)
    names = np.unique(patients)
    owner = np.stack([patients == name for name in names]).astype(float)  # (patients, cases)
    sums, counts = values @ owner.T, known.astype(float) @ owner.T  # (seeds, patients)
    seeds = rng.multinomial(len(change), [1 / len(change)] * len(change), RESAMPLES)
    drawn = rng.multinomial(len(names), [1 / len(names)] * len(names), RESAMPLES)
    total = np.einsum("rs,sp,rp->r", seeds, sums, drawn)
    number = np.einsum("rs,sp,rp->r", seeds, counts, drawn)
    found = total[number > 0] / number[number > 0]
    low, high = np.percentile(found, [2.5, 97.5]).tolist()
    return low, high
