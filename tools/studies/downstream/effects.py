"""What synthetic cases did to a network: paired differences with intervals and tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import comb
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import mannwhitneyu, wilcoxon

__all__ = ["SIZES_MM", "Measure", "Report", "Rows", "compared", "effect", "fewest_runs", "summary"]

RESAMPLES = 2000
SIZES_MM = ((0.0, 6.0), (6.0, 10.0), (10.0, 20.0), (20.0, 40.0))
Rows = Sequence[Mapping[str, Any]]  # of the test cases of one run


class Measure(NamedTuple):
    """A measure of a task.

    Attributes:
        label: what tables call it.
        cases: value of each test case ``(cases,)`` for a class, NaN where there is none; the
            measure of a run is their mean.
        whole: of measures that are no mean over cases, such as an area under a curve: values
            ``(draws,)`` for a class, of weights ``(draws, cases)``, how often each case is in a
            draw; NaN where there is none.
        scale: of what is shown: 100 for shares.
        told: whether differences between arms are told; more is better then.
    """

    label: str
    cases: Callable[[Rows, str], np.ndarray] | None = None
    whole: Callable[[Rows, str, np.ndarray], np.ndarray] | None = None
    scale: float = 100.0
    told: bool = True

    def of_run(self, rows: Rows, name: str) -> float:
        """Return the measure of a class over all cases of a run."""
        if self.cases is not None:
            known = self.cases(rows, name)
            return float(np.nanmean(known)) if np.isfinite(known).any() else float("nan")
        assert self.whole is not None
        return float(self.whole(rows, name, np.ones((1, len(rows))))[0])


class Curve(NamedTuple):
    """A curve of a task: labels of its axes, places on the first, and values there by rows."""

    labels: tuple[str, str]
    places: tuple[float, ...]
    values: Callable[[Rows, str], np.ndarray]
    logarithmic: bool = False


class Report(NamedTuple):
    """How the results of a task are told.

    Attributes:
        measures: by key; differences in the first decide what the page draws.
        by_size: the same by diameter, of the rows that ``sized`` leaves.
        sized: rows of lesions of a class from a diameter up to another, mm, and their number.
        names: what measures are told of, by the classes of the preset.
        facts: a sentence that explains the measures.
        curves: by title.
        sizes_mm: diameters from which and up to which.
    """

    measures: Mapping[str, Measure]
    by_size: Mapping[str, Measure]
    sized: Callable[[Rows, str, tuple[float, float]], tuple[Rows, int]]
    names: Callable[[Mapping[str, Any]], list[str]]
    facts: str
    curves: Mapping[str, Curve] = {}
    sizes_mm: Sequence[tuple[float, float]] = SIZES_MM


def compared(
    measure: Measure, base: Sequence[Rows], arm: Sequence[Rows], name: str, seed: int = 0
) -> dict[str, Any]:
    """Return how the runs of an arm differ from those of another, paired by seed and case.

    Measures that are means over cases: :func:`effect`. Others are measured anew of each draw of
    patients, in both arms, and their differences averaged over a draw of seeds; there is no test
    over patients then.

    Args:
        measure: of the task.
        base: rows of each seed.
        arm: likewise, of the same seeds and cases.
        name: of the class.
        seed: of the bootstrap.
    """
    patients = [row["patient"] for row in base[0]]
    if measure.cases is not None:
        first, second = (
            np.array([measure.cases(rows, name) for rows in runs]) for runs in (base, arm)
        )
        return effect(first, second, patients, seed)
    assert measure.whole is not None
    rng = np.random.default_rng(seed)
    names, owner = np.unique(patients, return_inverse=True)
    drawn = rng.multinomial(len(names), [1 / len(names)] * len(names), RESAMPLES)[:, owner]
    weights = np.concatenate([np.ones((1, len(patients))), drawn])
    before, after = (
        np.array([measure.whole(rows, name, weights) for rows in runs]) for runs in (base, arm)
    )
    change = after - before  # (seeds, 1 + draws)
    seeds = rng.multinomial(len(change), [1 / len(change)] * len(change), RESAMPLES)
    found = (seeds * change[:, 1:].T).sum(1) / len(change)
    return _told(
        (before[:, 0], after[:, 0]),
        change[:, 0],
        found[np.isfinite(found)],
        float("nan"),
        len(names),
    )


def fewest_runs(p: float, decimals: int = 3) -> int:
    """Return of how many runs per arm, at least, the two-sided rank test can reach a rounded p.

    Example:
        >>> fewest_runs(0.05), fewest_runs(0.008), fewest_runs(0.002)
        (4, 5, 6)
    """
    return next(n for n in range(1, 100) if round(2 / comb(2 * n, n), decimals) <= p)


def summary(means: np.ndarray) -> dict[str, float]:
    """Return the mean over seeds and its standard deviation, of values ``(seeds,)``."""
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
    found = _drawn(change, np.array(patients), seed)
    of_patients = _by_patient(change, patients)
    p = _p(lambda: wilcoxon(of_patients), bool(np.any(of_patients)))
    return _told((_means(base), _means(arm)), change, found, p, len(of_patients))


def _told(
    means: tuple[np.ndarray, np.ndarray],
    change: np.ndarray,
    drawn: np.ndarray,
    p_wilcoxon: float,
    patients: int,
) -> dict[str, Any]:
    """Return the differences as tables and JSON have them, with the interval of the draws."""
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist() if len(drawn) else [float("nan")] * 2
    verdict = "helps" if low > 0 else "harms" if high < 0 else "no difference"
    return {
        "effect": float(np.nanmean(change)) if np.isfinite(change).any() else float("nan"),
        "low": low,
        "high": high,
        "p_wilcoxon": p_wilcoxon,
        "p_mann_whitney": _p(lambda: mannwhitneyu(*means), len(means[0]) > 1),
        "seeds": len(change),
        "patients": patients,
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


def _drawn(change: np.ndarray, patients: np.ndarray, seed: int) -> np.ndarray:
    """Return the mean difference of each draw of seeds and patients."""
    rng = np.random.default_rng(seed)
    known, values = np.isfinite(change), np.nan_to_num(change)
    names = np.unique(patients)
    owner = np.stack([patients == name for name in names]).astype(float)  # (patients, cases)
    sums, counts = values @ owner.T, known.astype(float) @ owner.T  # (seeds, patients)
    seeds = rng.multinomial(len(change), [1 / len(change)] * len(change), RESAMPLES)
    drawn = rng.multinomial(len(names), [1 / len(names)] * len(names), RESAMPLES)
    total = np.einsum("rs,sp,rp->r", seeds, sums, drawn)
    number = np.einsum("rs,sp,rp->r", seeds, counts, drawn)
    return total[number > 0] / number[number > 0]
