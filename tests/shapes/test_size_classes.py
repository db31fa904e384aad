"""Ellipsoids of size classes: the ranges of the table, and the very distribution of their sizes."""

import numpy as np
import pytest

from tools.organs import load_organ
from tools.shapes import SizedEllipsoids, SizedShapes, make_shape_source
from tools.shapes.size_classes import read_shares

LIVER = load_organ("liver")


@pytest.mark.parametrize(
    ("name", "smallest", "largest"),
    [("tiny", 6, 10), ("small", 12, 20), ("medium", 24, 40), ("large", 48, 128)],
)
def test_diameters_are_between_the_balls_of_the_range(
    name: str, smallest: float, largest: float
) -> None:
    source = make_shape_source(LIVER, f"ellipsoid:{name}")
    assert isinstance(source, SizedShapes)
    rng = np.random.default_rng(0)
    drawn = np.array([source.draw_diameter(rng) for _ in range(300)])
    assert drawn.min() >= smallest - 1e-9
    assert drawn.max() <= largest + 1e-9
    # each is the ball of three whole semi-axes: (d / 2)^3 is a whole number
    assert np.allclose((drawn / 2) ** 3, np.round((drawn / 2) ** 3), rtol=1e-9)
    drawn = drawn if largest < 100 else drawn[drawn < 60]  # large ones take seconds
    shape = source.draw(float(drawn[0]), rng)
    assert shape.source == f"ellipsoid:{name}"
    assert shape.diameter_mm == drawn[0]
    assert shape.mask.sum() == pytest.approx(shape.volume_mm3, rel=0.01)


def test_tiny_sizes_come_as_often_as_the_product_of_three_dice() -> None:
    # of 27 triples of 3, 4, 5: one has the product 27, six have 60
    source, rng = SizedEllipsoids({"tiny": 1}), np.random.default_rng(1)
    cubes = np.round([(source.draw_diameter(rng) / 2) ** 3 for _ in range(4000)])
    assert np.mean(cubes == 27) == pytest.approx(1 / 27, abs=0.012)
    assert np.mean(cubes == 60) == pytest.approx(6 / 27, abs=0.025)


def test_shares_choose_the_class() -> None:
    source, rng = SizedEllipsoids(read_shares("tiny=3,large")), np.random.default_rng(2)
    large = np.mean([source.draw_diameter(rng) > 40 for _ in range(2000)])
    assert large == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("huge", "size classes must be of tiny, small, medium, large, got"),
        ("tiny=0", "shares of size classes must be 0 or more, not all 0"),
        ("tiny=-1,small=2", "shares of size classes must be 0 or more, not all 0"),
        ("tiny=x", "size classes must be such as tiny,small or tiny=3,large=1, got 'tiny=x'"),
        ("tiny,tiny", "size classes must be such as"),
    ],
)
def test_what_is_no_class_gets_one_sentence(words: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_shape_source(LIVER, f"ellipsoid:{words}")
