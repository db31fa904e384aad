"""Numbers of many cases in a few: quartiles, and standard errors by the bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 200

# What a measure returns, JSON values all. methods: by method, for the tables; cases: by method, a
# value per case; real: of the real cases; together: of several methods at once.
Found = dict[str, Any]


def summarize(values: Sequence[float | None]) -> dict[str, float | int] | None:
    """Return median, quartiles, mean and number of the values that are known; None without any.

    Example:
        >>> summarize([1, 2, None, 3, 4, 10])
        {'median': 3.0, 'q1': 2.0, 'q3': 4.0, 'mean': 4.0, 'n': 5}
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    q1, middle, q3 = np.percentile(known, [25, 50, 75]).tolist()
    return {"median": middle, "q1": q1, "q3": q3, "mean": float(np.mean(known)), "n": len(known)}


def standard_error(
    count: int, statistic: Callable[[np.ndarray], np.ndarray | float], seed: int
) -> np.ndarray:
    """Return the standard error of a statistic of row numbers ``0..count - 1``, by the bootstrap.

    The statistic is a number or a vector of row numbers drawn with replacement; below two rows
    there is no spread, and the error is 0.
    """
    if count < 2:
        return np.zeros_like(statistic(np.arange(count)))
    found = bootstrap(
        (np.arange(count),),
        lambda rows: statistic(rows.astype(int)),
        n_resamples=RESAMPLES,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return np.asarray(found.standard_error)


def mean_and_error(values: Sequence[float], seed: int) -> dict[str, float | int]:
    """Return the mean of some values, its standard error and their number; 0 of none."""
    rows = np.asarray(values, float)
    if not len(rows):
        return {"mean": 0.0, "error": 0.0, "n": 0}
    error = standard_error(len(rows), lambda chosen: rows[chosen].mean(), seed)
    return {"mean": float(rows.mean()), "error": float(error), "n": len(rows)}
