"""Numbers of many cases in a few: quartiles, and intervals and errors by the bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ERROR_DRAWS, INTERVAL_DRAWS = 200, 500

# What a measure returns, JSON values all. methods: by method, for the tables; cases: by method, a
# value per case; real: of the real cases; together: of several methods at once.
Found = dict[str, Any]


def quartiles(
    values: Sequence[float | None] | np.ndarray,
    groups: Sequence[object] | None = None,
    seed: int = 0,
) -> dict[str, float | int] | None:
    """Return median, quartiles, mean and number of the values that are known; None without any.

    Args:
        values: None, NaN and infinite ones are not known.
        groups: adds the 95 % interval of the median (``low``, ``high``) from a bootstrap of these.
        seed: of the bootstrap.

    Example:
        >>> quartiles([1, 2, None, 3, 4, 10])
        {'median': 3.0, 'q1': 2.0, 'q3': 4.0, 'mean': 4.0, 'n': 5}
    """
    rows = np.array([np.nan if value is None else value for value in values], float)
    known = np.isfinite(rows)
    rows = rows[known]
    if not len(rows):
        return None
    q1, middle, q3 = np.percentile(rows, [25, 50, 75]).tolist()
    found = {"median": middle, "q1": q1, "q3": q3, "mean": float(rows.mean()), "n": len(rows)}
    if groups is None:
        return found
    names = np.array(groups, dtype=str)[known]
    low, high = bootstrap_interval(names, lambda chosen: float(np.median(rows[chosen])), seed)
    return {**found, "low": low, "high": high}


def resampled(
    groups: np.ndarray, statistic: Callable[[np.ndarray], Any], seed: int, count: int
) -> np.ndarray:
    """Return a statistic of ``count`` bootstrap draws, ``(count, ...)``.

    Args:
        groups: ``(N,)``, what is drawn with replacement, as a whole.
        statistic: of row numbers, a number or a vector.
        seed: of the draws.
        count: of the draws.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    draws = (rng.integers(len(members), size=len(members)) for _ in range(count))
    return np.array([statistic(np.concatenate([members[k] for k in draw])) for draw in draws])


def bootstrap_interval(
    groups: np.ndarray, statistic: Callable[[np.ndarray], float], seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of a statistic, from a bootstrap of groups.

    Args:
        groups: ``(N,)``, what is drawn with replacement, as a whole.
        statistic: of row numbers; NaN where it cannot be told of the rows drawn.
        seed: of the draws.

    Example:
        >>> values = np.arange(100.0)
        >>> low, high = bootstrap_interval(np.arange(100), lambda rows: values[rows].mean())
        >>> 42 < low < 46, 53 < high < 57
        (True, True)
    """
    found = resampled(groups, statistic, seed, INTERVAL_DRAWS)
    known = found[np.isfinite(found)]
    low, high = np.percentile(known, [2.5, 97.5]).tolist() if len(known) else (np.nan, np.nan)
    return low, high


def standard_error(
    count: int, statistic: Callable[[np.ndarray], np.ndarray | float], seed: int
) -> np.ndarray:
    """Return the standard error of a statistic of row numbers ``0..count - 1``, by the bootstrap.

    The statistic is a number or a vector of row numbers drawn with replacement; below two rows
    there is no spread, and the error is 0.
    """
    if count < 2:
        return np.zeros_like(statistic(np.arange(count)))
    return resampled(np.arange(count), statistic, seed, ERROR_DRAWS).std(0, ddof=1)


def mean_and_error(values: Sequence[float], seed: int) -> dict[str, float | int]:
    """Return the mean of some values, its standard error and their number; 0 of none."""
    rows = np.asarray(values, float)
    if not len(rows):
        return {"mean": 0.0, "error": 0.0, "n": 0}
    error = standard_error(len(rows), lambda chosen: rows[chosen].mean(), seed)
    return {"mean": float(rows.mean()), "error": float(error), "n": len(rows)}
