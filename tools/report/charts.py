"""Geometry of the histogram drawn in the report, as plain numbers for an SVG."""

from __future__ import annotations

from typing import Any

import numpy as np

from tools.synthesis.records import LesionRecord

CHART_WIDTH = 320.0
CHART_HEIGHT = 132.0


def histogram_chart(
    record: LesionRecord, window: tuple[float, float], unit: str
) -> dict[str, Any] | None:
    """Return bars, outline and ticks that draw the histogram asked for over the one achieved.

    Args:
        record: lesion whose two histograms are drawn; either may be missing.
        window: intensities at the two ends of the axis.
        unit: unit of the window; empty labels the axis by intensity scaled to [-1, 1].

    Returns:
        Coordinates inside ``CHART_WIDTH`` x ``CHART_HEIGHT``, or None without any histogram.

    Raises:
        ValueError: if the two histograms differ in length.
    """
    asked, got = list(record.histogram_requested or ()), list(record.histogram_achieved or ())
    if not asked and not got:
        return None
    if asked and got and len(asked) != len(got):
        raise ValueError(
            f"histogram_achieved must have {len(asked)} bins as the one requested, got {len(got)}"
        )
    bins = len(asked or got)
    low, high = window if unit else (-1.0, 1.0)
    edges = [number_text(edge) for edge in np.linspace(low, high, bins + 1)]
    top = max(*asked, *got, 1e-9)
    step = CHART_WIDTH / bins
    bars = [
        {
            "x": index * step + 1,
            "height": CHART_HEIGHT * value / top,
            "text": f"{edges[index]} to {edges[index + 1]}{unit}: {value:.1%}"
            + (f", asked {asked[index]:.1%}" if asked else ""),
        }
        for index, value in enumerate(got)
    ]
    levels = [CHART_HEIGHT * (1 - value / top) for value in asked]
    path = "".join(f"L{i * step:.1f} {y:.1f}H{(i + 1) * step:.1f}" for i, y in enumerate(levels))
    ticks = [
        (CHART_WIDTH * part, number_text(low + part * (high - low)))
        for part in (0, 0.25, 0.5, 0.75, 1)
    ]
    return {
        "bars": bars,
        "step": step - 2,
        "path": f"M0 {CHART_HEIGHT}{path}V{CHART_HEIGHT}" if path else "",
        "ticks": ticks,
        "top": f"{top:.0%}",
        "unit": unit.strip() or "scaled intensity",
    }


def number_text(value: float, digits: int = 2) -> str:
    """Return a number without needless zeros and with a true minus sign."""
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"
    return ("0" if text == "-0" else text).replace("-", "\u2212")
