"""Coordinates of a wall, and the way to a grid of angle, depth and slice and back."""

import numpy as np
import pytest
from nibabel.affines import apply_affine

from tools.transforms.wall import (
    WallCoordinates,
    from_wall,
    middle_angle,
    to_wall,
    wall_coordinates,
    wall_level,
)

AFFINE = np.diag([1.2, 1.2, 10.0, 1.0])
MIDDLE = (31.0, 29.0)
SIZE = (64, 8)


def polar(shape: tuple[int, int, int] = (60, 58, 6), affine: np.ndarray = AFFINE) -> np.ndarray:
    """Angle and radius in mm of each voxel round the middle, in RAS axes."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    x, y = np.moveaxis((index[..., :2] - MIDDLE) @ affine[:2, :2].T, -1, 0)
    return np.stack([np.arctan2(y, x), np.hypot(x, y)])


def ring(inner_mm: float = 16.0, outer_mm: float = 28.0) -> tuple[np.ndarray, np.ndarray]:
    radius = polar()[1]
    return (radius >= inner_mm) & (radius < outer_mm), radius < inner_mm


def values_of(place: WallCoordinates, values: np.ndarray) -> np.ndarray:
    return values[tuple(place.voxels.T)]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("given", [True, False], ids=["cavity", "enclosed"])
def test_depth_goes_from_inside_to_outside(given: bool) -> None:
    wall, cavity = ring()
    place = wall_coordinates(wall, AFFINE, cavity if given else None)
    assert len(place.voxels) == wall.sum()
    angle, radius = (values_of(place, values) for values in polar())
    # half a pixel of 12 mm is 0.05
    assert np.abs(place.depth - (radius - 16) / 12).max() < 0.1
    assert np.corrcoef(place.depth, radius)[0, 1] > 0.99
    assert place.depth.min() == pytest.approx(0, abs=0.06)
    assert place.depth.max() == pytest.approx(1, abs=0.06)
    assert np.abs(np.exp(1j * place.angle) - np.exp(1j * angle)).max() < 0.02


def test_angles_are_those_of_the_patient_whatever_the_axes_of_the_scan() -> None:
    wall, cavity = ring()
    place = wall_coordinates(wall, AFFINE, cavity)
    flipped = AFFINE @ np.diag([-1.0, -1, 1, 1])
    flipped[:2, 3] = apply_affine(AFFINE, (59, 57, 0))[:2]
    turned = wall_coordinates(wall[::-1, ::-1], flipped, cavity[::-1, ::-1])
    maps = []
    for found, back in ((place, (1, 1)), (turned, (-1, -1))):
        angles = np.full(wall.shape, np.nan)
        angles[tuple(found.voxels.T)] = found.angle
        maps.append(angles[:: back[0], :: back[1]])
    assert np.nanmax(np.abs(np.exp(1j * maps[0]) - np.exp(1j * maps[1]))) < 1e-6
    # x of the patient is angle 0, y a quarter turn
    assert middle_angle(place, AFFINE, (31 * 1.2 + 22, 29 * 1.2, 30.0)) == pytest.approx(0, abs=0.1)
    up = middle_angle(place, AFFINE, (31 * 1.2, 29 * 1.2 + 22, 30.0))
    assert up == pytest.approx(np.pi / 2, abs=0.1)


def test_crescents_are_open_where_there_is_no_wall() -> None:
    wall, cavity = ring()
    angle = polar()[0]
    crescent = wall & (np.abs(angle) < 2.0)
    place = wall_coordinates(crescent, AFFINE, cavity)
    depth = values_of(place, (polar()[1] - 16) / 12)
    away = np.abs(values_of(place, angle)) < 1.7
    assert np.abs(place.depth - depth)[away].max() < 0.1
    grid = to_wall(crescent, place, SIZE, 6)
    angles = ((np.arange(64) + 0.5) / 64 * 2 - 1) * np.pi
    assert np.isnan(grid[np.abs(angles) > 2.3]).all()
    assert (grid[np.abs(angles) < 1.9] == 1).all()


def test_an_apex_without_cavity_is_deep_at_its_rim() -> None:
    wall, cavity = ring()
    wall[..., 5] |= cavity[..., 5]
    cavity[..., 5] = False
    for given in (cavity, None):
        place = wall_coordinates(wall, AFFINE, given)
        apex = place.voxels[:, 2] == 5
        radius = values_of(place, polar()[1])[apex]
        assert np.abs(place.depth[apex] - radius / radius.max()).max() < 0.05


def test_slices_without_wall_are_left_out_and_no_wall_is_an_error() -> None:
    wall, cavity = ring()
    wall[..., [0, 3]] = cavity[..., [0, 3]] = False
    place = wall_coordinates(wall, AFFINE, cavity)
    assert np.unique(place.voxels[:, 2]).tolist() == [1, 2, 4, 5]
    grid = to_wall(wall, place, SIZE, 8)
    assert grid.shape == (64, 8, 8)
    assert np.isnan(grid).all((0, 1)).tolist() == [
        True,
        False,
        False,
        True,
        False,
        False,
        *[True] * 2,
    ]
    back = from_wall(np.ones((64, 8, 8)), place)
    assert np.array_equal(back > 0, wall)
    with pytest.raises(ValueError, match="wall must hold voxels, got an empty mask"):
        wall_coordinates(np.zeros((4, 4, 4)), AFFINE)


def lesion(wall: np.ndarray, centre: float) -> np.ndarray:
    """The inner two thirds of the wall, 80 degrees of it, in three slices."""
    angle, radius = polar()
    found = wall & (np.abs(np.angle(np.exp(1j * (angle - centre)))) < 0.7) & (radius < 24)
    found[..., [0, 4, 5]] = False
    return found


@pytest.mark.parametrize("centre", [0.0, 1.3, np.pi])
@pytest.mark.parametrize("middle", [0.0, -2.0, np.pi])
def test_a_lesion_comes_back_across_the_seam_too(centre: float, middle: float) -> None:
    wall, cavity = ring()
    place, mask = wall_coordinates(wall, AFFINE, cavity), lesion(wall, centre)
    grid = np.nan_to_num(to_wall(mask, place, SIZE, 8, middle)) > 0
    for level in (grid * 2.0 - 1, wall_level(grid)):
        back = from_wall(level, place, middle) > 0
        assert dice(back, mask) > 0.9
        assert not back[~wall].any()


def test_the_middle_of_the_grid_turns() -> None:
    wall, cavity = ring()
    place, mask = wall_coordinates(wall, AFFINE, cavity), lesion(wall, 1.3)
    grid = np.nan_to_num(to_wall(mask, place, SIZE, 6, 1.3)) > 0
    covered = np.flatnonzero(grid.any((1, 2)))
    assert covered.mean() == pytest.approx(31.5, abs=1)
    plain = np.nan_to_num(to_wall(mask, place, SIZE, 6)) > 0
    shift = round(1.3 / (2 * np.pi) * 64)
    assert dice(np.roll(plain, -shift, 0), grid) > 0.9


def test_levels_close_to_a_ring_and_never_reach_other_slices() -> None:
    mask = np.zeros((64, 8, 5), bool)
    mask[20:36, :, 2] = True
    level = wall_level(mask, band=2.0)
    assert np.array_equal(level > 0, mask)
    assert (level[..., [0, 1, 3, 4]] == -1).all()
    assert level.max() == 1
    # through the wall: no outline at its surfaces
    assert np.allclose(level, level[:, :1])
    assert np.allclose(wall_level(np.roll(mask, 30, 0)), np.roll(level, 30, 0))
    assert (wall_level(np.zeros((64, 8, 5), bool)) == -1).all()
    assert (wall_level(np.ones((64, 8, 5), bool)) == 1).all()
