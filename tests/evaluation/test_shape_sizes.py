"""Sizes asked for and got: what the sweep measures, and how it is told."""

import numpy as np
import pytest

from tools.evaluation.shape_sizes import size_sweep, size_table
from tools.transforms.spheres import Sphere, sphere_mask


def ball(sphere: Sphere, affine: np.ndarray, shape: list[int], seed: int) -> np.ndarray:
    return sphere_mask(sphere, affine, shape)


def test_a_ball_has_the_size_asked_for_on_every_grid() -> None:
    rows = size_sweep(ball, diameters_mm=(6.0, 20.0), grids_mm=((1.0, 1.0, 1.0), (0.7, 0.7, 2.5)))
    assert len(rows) == 4
    for row in rows:
        assert row["got_mm"] == pytest.approx(row["asked_mm"], abs=max(row["spacing_mm"]))
    assert rows[1]["volume_mm3"] > 20 * rows[0]["volume_mm3"]


def test_a_source_that_makes_all_too_small_shows() -> None:
    def half(sphere: Sphere, affine: np.ndarray, shape: list[int], seed: int) -> np.ndarray:
        return sphere_mask(sphere._replace(radius_mm=sphere.radius_mm / 2), affine, shape)

    rows = size_sweep(half, diameters_mm=(20.0,), grids_mm=((1.0, 1.0, 1.0),))
    assert rows[0]["got_mm"] == pytest.approx(10.5, abs=1)
    assert "| 1 x 1 x 1 | " in size_table(rows)
