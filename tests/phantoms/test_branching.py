import numpy as np
import pytest

from tools.phantoms.branching import RADIUS_EXPONENT, draw_tubes, grow_tree, tube_chain

SPACING = np.ones(3)


def straight_tube(radius: float) -> np.ndarray:
    return np.array([[-20.0, 10.0, 10.0, 40.0, 10.0, 10.0, radius, radius]])


@pytest.mark.parametrize("radius", [0.3, 1.0, 4.0])
def test_drawn_cross_section_is_the_area_of_the_circle(radius: float) -> None:
    coverage = np.zeros((8, 21, 21), dtype=np.float32)
    draw_tubes(coverage, straight_tube(radius), np.zeros(3), SPACING)
    # A line through voxel centres; the kernel of half a voxel spreads the thinnest ones.
    drawn = coverage[4].sum()
    assert drawn == pytest.approx(np.pi * radius**2, rel=0.3 if radius < 1 else 0.1)
    assert coverage.max() <= 1


def test_tube_outside_the_grid_changes_nothing() -> None:
    coverage = np.zeros((8, 8, 8), dtype=np.float32)
    draw_tubes(coverage, straight_tube(2.0) + 100, np.zeros(3), SPACING)
    assert not coverage.any()


def test_same_tube_on_a_shifted_grid_is_the_same_picture() -> None:
    whole = np.zeros((16, 24, 24), dtype=np.float32)
    part = np.zeros((6, 10, 12), dtype=np.float32)
    tubes = tube_chain([(-5, 3, 4, 3), (8, 12, 10, 2), (30, 20, 15, 1)])
    draw_tubes(whole, tubes, np.zeros(3), SPACING)
    draw_tubes(part, tubes, np.array([4.0, 6.0, 5.0]), SPACING)
    np.testing.assert_allclose(part, whole[4:10, 6:16, 5:17], atol=1e-5)


def test_tree_reaches_every_point_and_obeys_murray_at_the_tips() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-30, 30, (200, 3))
    tubes = grow_tree(points, np.array([50.0, 0, 0]), 6.0, rng)
    tips = tubes[tubes[:, 7] < 6.0 * (1.5 / 200) ** (1 / RADIUS_EXPONENT)]
    assert len(tips) == 200
    # A binary tree with n tips has 2 n - 1 branches.
    assert len(tubes) == 399
    nearest = np.linalg.norm(points[:, None] - tips[None, :, 3:6], axis=-1).min(axis=1)
    assert nearest.max() < 5.0
    assert (tubes[:, 7] <= tubes[:, 6] + 1e-9).all()


def test_every_branch_starts_where_another_ends() -> None:
    rng = np.random.default_rng(1)
    root = np.array([40.0, 0, 0])
    tubes = grow_tree(rng.uniform(-20, 20, (50, 3)), root, 5.0, rng)
    ends = {tuple(root), *map(tuple, tubes[:, 3:6])}
    assert all(tuple(start) in ends for start in tubes[:, :3])


def test_empty_cloud_gives_no_branches() -> None:
    assert grow_tree(np.zeros((0, 3)), np.zeros(3), 5.0, np.random.default_rng(0)).shape == (0, 8)
