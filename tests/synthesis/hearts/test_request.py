"""What is asked of a source of infarcts: checked, and drawn as patients have it."""

import numpy as np
import pytest

from tools.synthesis.hearts.request import draw_no_reflow_share, heart_shape, settle
from tools.synthesis.hearts.shapes import Heart, HeartRequest

AFFINE = np.diag([-1.5, -1.5, 10.0, 1.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"diameter_mm": (50.0, 40.0)}, "diameter_mm must be two numbers, 0 < low <= high, got"),
        ({"diameter_mm": (0.0, 40.0)}, "diameter_mm must be"),
        ({"diameter_mm": 40.0}, "diameter_mm must be two numbers.* got 40.0"),
        ({"diameter_mm": (40.0, float("nan"))}, "diameter_mm must be"),
        ({"no_reflow_share": (0.2, 1.2)}, "no_reflow_share must be two numbers, 0 <= low"),
        ({"no_reflow_share": (0.3, 0.2)}, "no_reflow_share must be"),
        ({"site_mm": (1.0, 2.0)}, r"site_mm must be three numbers \(RAS mm\), got \(1.0, 2.0\)"),
        ({"site_mm": (1.0, 2.0, "x")}, "site_mm must be three numbers"),
    ],
)
def test_wrong_requests_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeartRequest(**arguments)


def test_shares_are_those_of_patients_or_those_asked_for() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([draw_no_reflow_share(HeartRequest(), rng) for _ in range(2000)])
    assert (drawn > 0).mean() == pytest.approx(22 / 37, abs=0.03)
    assert np.median(drawn[drawn > 0]) == pytest.approx(0.11, abs=0.02)
    assert drawn.max() <= 0.35
    asked = HeartRequest(no_reflow_share=(0.1, 0.2))
    drawn = np.array([draw_no_reflow_share(asked, rng) for _ in range(200)])
    assert 0.1 <= drawn.min() < 0.11
    assert 0.19 < drawn.max() <= 0.2


def test_no_reflow_without_infarct_round_it_becomes_infarct() -> None:
    label = np.zeros((9, 5, 3), np.uint8)
    label[1:3, 1, 1], label[3, 2, 2], label[6, 1, 1] = 3, 4, 4
    # touching by a corner counts, a piece apart does not
    settled = settle(label)
    assert settled[3, 2, 2] == 4
    assert settled[6, 1, 1] == 3
    assert np.array_equal(settled > 0, label > 0)
    alone = np.where(label > 0, 4, 0)
    assert np.array_equal(settle(alone), alone)
    heart = Heart(label > 0, label > 9, AFFINE)
    with pytest.raises(ValueError, match="mask must hold a lesion"):
        heart_shape(np.zeros_like(label), heart, "nothing")
