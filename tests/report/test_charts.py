"""The histogram drawn has the heights of the fractions recorded."""

import pytest

from tools.report.charts import CHART_HEIGHT, CHART_WIDTH, histogram_chart, number_text
from tools.synthesis.records import LesionRecord


def record(asked: list[float] | None, got: list[float] | None) -> LesionRecord:
    return LesionRecord(
        label=1,
        class_name="lesion",
        site_mm=(0, 0, 0),
        diameter_mm=5.0,
        volume_mm3=65.0,
        texture="solid",
        shape_source="ellipsoid",
        seed=0,
        histogram_requested=asked,
        histogram_achieved=got,
    )


def test_bars_are_what_was_got_and_the_line_what_was_asked() -> None:
    chart = histogram_chart(record([0.25, 0.75], [0.5, 0.5]), (-1000.0, 400.0), " HU")
    assert chart is not None
    assert [bar["height"] for bar in chart["bars"]] == [CHART_HEIGHT * 2 / 3] * 2
    assert chart["bars"][1]["text"] == "\u2212300 to 400 HU: 50.0%, asked 75.0%"
    assert chart["path"] == "M0 132.0L0.0 88.0H160.0L160.0 0.0H320.0V132.0"
    assert chart["ticks"][0] == (0, "\u22121000")
    assert chart["ticks"][-1] == (CHART_WIDTH, "400")
    assert chart["top"] == "75%"


def test_either_histogram_may_be_missing() -> None:
    only_got = histogram_chart(record(None, [1.0, 0.0]), (0.0, 1.0), "")
    assert only_got is not None
    assert only_got["path"] == ""
    assert only_got["unit"] == "scaled intensity"
    only_asked = histogram_chart(record([1.0, 0.0], None), (0.0, 1.0), "")
    assert only_asked is not None
    assert only_asked["bars"] == []
    assert histogram_chart(record(None, None), (0.0, 1.0), "") is None


def test_unequal_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="histogram_achieved must have 2 bins"):
        histogram_chart(record([0.5, 0.5], [1.0]), (0.0, 1.0), "")


def test_numbers_are_plain() -> None:
    assert number_text(-0.001) == "0"
    assert number_text(-3.50) == "\u22123.5"
    assert number_text(1200.4, 0) == "1200"
