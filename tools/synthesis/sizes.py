"""Ranges of sizes and numbers to draw from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["SizeMix", "draw_range", "size_mix", "whole_range"]

SizeMix = tuple[tuple[float, float, float], ...]


def whole_range(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """Return a range of whole numbers given as one number or two.

    Raises:
        ValueError: naming the argument, if they are not whole, below 1, or in the wrong order.

    Example:
        >>> whole_range("count", 2)
        (2, 2)
    """
    numbers = tuple(value) if isinstance(value, Sequence) else (value, value)
    whole = all(isinstance(number, int) for number in numbers)
    if not (len(numbers) == 2 and whole and 1 <= numbers[0] <= numbers[1]):
        raise ValueError(f"{name} must be one or two whole numbers of at least 1, got {value!r}")
    return numbers


def size_mix(
    diameter_mm: float | Sequence[float] | Sequence[Sequence[float]] | None,
    weights: Sequence[float] | None,
) -> SizeMix | None:
    """Return weight, smallest and largest diameter of each part of a mix.

    Args:
        diameter_mm: one number, a pair, or several pairs; None: no mix.
        weights: one number for each pair; None: all the same.

    Raises:
        ValueError: if they do not go together.

    Example:
        >>> size_mix([(4, 8), (8, 20)], [3, 1])
        ((3.0, 4.0, 8.0), (1.0, 8.0, 20.0))
    """
    try:
        pairs = np.empty((0, 2)) if diameter_mm is None else np.array(diameter_mm, float)
        if pairs.ndim < 2:
            pairs = np.broadcast_to(pairs, (1, 2) if pairs.ndim == 0 else (1, len(pairs)))
        shares = np.ones(len(pairs)) if weights is None else np.array(weights, float)
    except (TypeError, ValueError):  # no numbers, or pairs beside single numbers
        pairs = shares = np.empty(0)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or shares.shape != pairs.shape[:1]:
        raise ValueError(
            "diameter_mm must be pairs of numbers, and size_weights one number for each, "
            f"got {diameter_mm!r} and {weights!r}"
        )
    if len(shares) and not (np.isfinite(shares).all() and shares.min() >= 0 and shares.any()):
        raise ValueError(f"size_weights must be 0 or more, not all 0, got {weights!r}")
    mix = tuple((float(w), float(p[0]), float(p[1])) for w, p in zip(shares, pairs, strict=True))
    return mix or None


def draw_range(mix: SizeMix, rng: np.random.Generator) -> tuple[float, float]:
    """Return the range of one part of a mix, drawn by weight."""
    weights = np.array([part[0] for part in mix])
    return mix[int(rng.choice(len(mix), p=weights / weights.sum()))][1:]
