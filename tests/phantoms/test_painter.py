"""Shapes, trees and tissues that every phantom is painted with."""

from typing import Any

import numpy as np
import pytest

from tools.phantoms.branching import RADIUS_EXPONENT, draw_tubes, grow_tree, tube_chain
from tools.phantoms.painter import Build, Painter

TABLE: dict[str, Any] = {
    "scale": [[1, 1], [1, 1], [1, 1]],
    "sway_mm": 0,
    "vary": {"rim_mm": [2, 2]},
    "tissues": {"air": [-1000, 0, 0], "organ": [60, 0, 0], "rim": [10, 0, 0], "spotty": [0, 8, 4]},
}
STACK = {"stack": [[-14, 10, 6, 0, 0], [14, 10, 6, 0, 0]]}
BALL = {"ellipsoids": [[0, 0, 0, 9, 9, 9]]}


def painted(*parts: dict[str, Any], seed: int = 0, size: int = 41) -> Painter:
    build = Build.draw(TABLE, np.random.default_rng(seed))
    axes = [np.arange(size) - (size - 1) / 2] * 3
    painter = Painter(TABLE, axes, build, np.random.default_rng(seed))
    painter.paint(parts)
    return painter


def volume(*parts: dict[str, Any]) -> float:
    """mm3 of what is painted, partial volume included."""
    return float((painted(*parts).image + 1000).sum() / 1060)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (BALL, 4 / 3 * np.pi * 9**3),
        (STACK, np.pi * 60 * 28),
        (BALL | {"inset_mm": 3}, 4 / 3 * np.pi * 6**3),
        ({"ellipsoids": [[9, 0, 0, 5, 5, 5]], "mirror": True}, 2 * 4 / 3 * np.pi * 5**3),
        (STACK | {"every_mm": [14, 7, 0]}, np.pi * 60 * 14),
        (BALL | {"beyond": [[0, 0, 1, 0]]}, 2 / 3 * np.pi * 9**3),
        ({"plane": [0, 0, 1, 0], "shell_mm": 3}, 41 * 41 * 3),
        ({"tubes": [[[-15, 0, 0, 3], [15, 0, 0, 3]]]}, np.pi * 9 * 30 + 4 / 3 * np.pi * 27),
    ],
)
def test_shapes_have_their_volume(shape: dict[str, Any], expected: float) -> None:
    assert volume(shape | {"tissue": "organ"}) == pytest.approx(expected, rel=0.05)


def test_parts_are_cut_by_others_and_later_ones_cover_earlier_ones() -> None:
    shell = {"tissue": "rim", "inside": [["ball", 0]], "outside": [["ball", "rim_mm"]]}
    painter = painted(BALL | {"tissue": "organ", "name": "ball"}, shell | {"outside": []})
    assert painter.image[20, 20, 20] == 10
    core = {"tissue": "organ", "inside": [["ball", "rim_mm"]]}
    painter.paint([core])
    line = painter.image[20:, 20, 20].round().tolist()
    assert line[:6] == [60] * 6
    assert line[7:9] == pytest.approx([10, 10], abs=30)
    assert line[11:] == [-1000] * 10
    both = painted(
        BALL | {"name": "a"}, STACK | {"name": "b"}, {"union": [["a", 0], ["b", 0]], "name": "u"}
    )
    expected = np.maximum(both.distance["a"], both.distance["b"])
    np.testing.assert_array_equal(both.distance["u"], expected)


def test_textures_have_their_spread_and_follow_the_seed() -> None:
    images = [painted(BALL | {"tissue": "spotty"}, seed=seed).image for seed in (0, 0, 1)]
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()
    inside = images[0][16:25, 16:25, 16:25]
    assert abs(inside.mean()) < 8
    assert 3 < inside.std() < 16


@pytest.mark.parametrize("radius", [0.3, 1.0, 4.0])
def test_drawn_cross_section_is_the_area_of_the_circle(radius: float) -> None:
    coverage = np.zeros((8, 21, 21), dtype=np.float32)
    ends = np.array([[-20.0, 10.0, 10.0, 40.0, 10.0, 10.0, radius, radius]])
    draw_tubes(coverage, ends, np.zeros(3), np.ones(3))
    # a line through voxel centres; the kernel of half a voxel spreads the thinnest ones
    assert coverage[4].sum() == pytest.approx(np.pi * radius**2, rel=0.3 if radius < 1 else 0.1)
    before = coverage.copy()
    draw_tubes(coverage, ends, np.full(3, 100.0), np.ones(3))
    np.testing.assert_array_equal(coverage, before)


def test_same_tube_on_a_shifted_grid_is_the_same_picture() -> None:
    whole, part = np.zeros((16, 24, 24), np.float32), np.zeros((6, 10, 12), np.float32)
    tubes = tube_chain(np.array([(-5.0, 3, 4, 3), (8, 12, 10, 2), (30, 20, 15, 1)]))
    draw_tubes(whole, tubes, np.zeros(3), np.ones(3))
    draw_tubes(part, tubes, np.array([4.0, 6.0, 5.0]), np.ones(3))
    np.testing.assert_allclose(part, whole[4:10, 6:16, 5:17], atol=1e-5)


def test_tree_hangs_together_reaches_every_point_and_obeys_murray_at_the_tips() -> None:
    rng = np.random.default_rng(0)
    points, root = rng.uniform(-30, 30, (200, 3)), np.array([50.0, 0, 0])
    tubes = grow_tree(points, root, 6.0, rng)
    tips = tubes[tubes[:, 7] < 6.0 * (1.5 / 200) ** (1 / RADIUS_EXPONENT)]
    # a binary tree with n tips has 2 n - 1 branches
    assert (len(tips), len(tubes)) == (200, 399)
    nearest = np.linalg.norm(points[:, None] - tips[None, :, 3:6], axis=-1).min(axis=1)
    assert nearest.max() < 5.0
    assert (tubes[:, 7] <= tubes[:, 6] + 1e-9).all()
    ends = {tuple(root), *map(tuple, tubes[:, 3:6])}
    assert all(tuple(start) in ends for start in tubes[:, :3])
    assert grow_tree(np.zeros((0, 3)), root, 5.0, rng).shape == (0, 8)
