"""Windows round a sphere and the way back: on any grid, never beyond sphere or boundary."""

import time

import numpy as np
import pytest
from nibabel.affines import apply_affine

from tools.transforms.shape_grid import (
    ShapeWindow,
    half_voxel_mm,
    shape_grid,
    shape_on_scan,
    slice_grid,
)
from tools.transforms.sphere import Sphere, sphere_mask

SHAPE = (44, 40, 30)
MIDDLE = (21.0, 19.0, 14.0)


def turned(spacing: tuple[float, float, float], degrees: float = 25.0) -> np.ndarray:
    """Axes turned about two of them, one flipped."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag([-1.0, 1, 1]) @ np.diag(spacing)
    affine[:3, 3] = (12.0, -7.0, 90.0)
    return affine


GRIDS = {
    "1mm": np.eye(4),
    "thick": np.diag([-0.7, -0.7, 2.5, 1.0]),
    "oblique": turned((0.8, 0.8, 1.6)),
}
grids = pytest.mark.parametrize("affine", GRIDS.values(), ids=GRIDS.keys())


def at(affine: np.ndarray, index: tuple[float, float, float] = MIDDLE) -> tuple:
    return tuple(apply_affine(affine, index))


def on_scan(
    level: np.ndarray, window: ShapeWindow, affine: np.ndarray, **arguments: object
) -> np.ndarray:
    part, box = shape_on_scan(level, window.grid, window.sphere, affine, SHAPE, **arguments)
    mask = np.zeros(SHAPE, bool)
    mask[box] = part
    return mask


def test_half_a_voxel_is_that_of_the_cube_of_its_volume() -> None:
    assert half_voxel_mm(np.diag([1.0, 2.0, 4.0, 1.0])) == pytest.approx(1.0)
    assert half_voxel_mm(turned((1.0, 2.0, 4.0))) == pytest.approx(1.0)


def test_sphere_fills_its_part_of_the_window_whatever_its_size() -> None:
    for radius in (1.5, 6.0, 20.0):
        grid = shape_grid((3.0, -4.0, 5.0), radius, 24, 0.8)
        assert 24 * 0.8 * grid.affine[0, 0] == pytest.approx(2 * radius)
        assert np.allclose(apply_affine(grid.affine, (11.5,) * 3), (3.0, -4.0, 5.0))
    # below 3 mm the window stays as it is
    assert shape_grid((0, 0, 0), 0.2).affine[0, 0] == shape_grid((0, 0, 0), 1.5).affine[0, 0]
    fixed = shape_grid((0, 0, 0), 9.0, (16, 16, 8), spacing_mm=2.0)
    assert fixed.size == (16, 16, 8)
    assert np.allclose(np.diag(fixed.affine)[:3], 2.0)


def test_slices_stay_slices_and_the_organ_lies_in_the_middle() -> None:
    affine = turned((1.2, 1.2, 9.0))
    organ = np.zeros((60, 50, 7))
    organ[10:31, 5:26, 1:6] = 1
    grid = slice_grid(organ, affine, (32, 24), 1.6)
    assert grid.size == (32, 24, 8)
    to_scan = np.linalg.inv(affine) @ grid.affine
    for index in [(0, 0, 0), (31, 23, 6)]:
        assert apply_affine(to_scan, index)[2] == pytest.approx(index[2])
    assert np.allclose(apply_affine(to_scan, (15.5, 11.5, 0)), (20, 15, 0))
    assert np.allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), (1.6, 1.6, 9.0))
    with pytest.raises(ValueError, match="organ_mask must hold an organ"):
        slice_grid(np.zeros((4, 4, 4)), affine)


@grids
def test_region_is_the_sphere_and_a_voxel_of_margin(affine: np.ndarray) -> None:
    window = ShapeWindow.around(Sphere(at(affine), 7.0), affine)
    assert window.radius_mm == pytest.approx(7 + half_voxel_mm(affine))
    voxel = window.grid.affine[0, 0]
    volume = window.region.sum() * voxel**3
    assert volume == pytest.approx(4 / 3 * np.pi * (window.radius_mm + voxel) ** 3, rel=0.04)
    inputs = window.inputs(2)
    assert inputs.shape == (3, 24, 24, 24)
    assert inputs.dtype == np.float32
    assert (inputs[:2] == -1).all()
    assert np.array_equal(inputs[2], window.region)


@grids
def test_boundary_and_sphere_are_never_left(affine: np.ndarray) -> None:
    boundary = np.zeros(SHAPE, np.uint8)
    boundary[:23, 5:, :16] = 1
    sphere = Sphere(at(affine), 7.3)
    window = ShapeWindow.around(sphere, affine, boundary)
    whole = ShapeWindow.around(sphere, affine)
    assert 0 < window.region.sum() < whole.region.sum()
    full = np.ones(window.grid.size)
    mask = on_scan(full, window, affine, boundary=boundary)
    # a prediction that is full everywhere: all that is allowed, and nothing else
    assert np.array_equal(mask, (boundary > 0) & sphere_mask(sphere, affine, SHAPE))
    assert np.array_equal(on_scan(full, whole, affine), sphere_mask(sphere, affine, SHAPE))
    assert not on_scan(-full, window, affine, boundary=boundary).any()


@grids
def test_a_shape_comes_back_where_it_was_drawn(affine: np.ndarray) -> None:
    sphere = Sphere(at(affine), 9.0)
    window = ShapeWindow.around(sphere, affine)
    small = Sphere(tuple(np.add(sphere.centre_mm, (2.0, -1.5, 1.0))), 5.0)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in window.grid.size], indexing="ij"), -1)
    points = apply_affine(window.grid.affine, index)
    level = small.radius_mm - np.linalg.norm(points - small.centre_mm, axis=-1)
    mask, expected = on_scan(level, window, affine), sphere_mask(small, affine, SHAPE)
    assert (mask ^ expected).sum() <= 0.03 * expected.sum()


@pytest.mark.parametrize("index", [(0.0, 19.0, 14.0), (43.0, 39.0, 29.0), (-2.0, 19.0, 14.0)])
def test_spheres_at_the_border_of_the_scan_are_cut(index: tuple[float, float, float]) -> None:
    affine = GRIDS["oblique"]
    sphere = Sphere(at(affine, index), 6.0)
    window = ShapeWindow.around(sphere, affine, np.ones(SHAPE, np.uint8))
    mask = on_scan(np.ones(window.grid.size), window, affine)
    assert np.array_equal(mask, sphere_mask(sphere, affine, SHAPE))
    assert mask.any()
    # nothing is generated beyond the scan
    assert window.region.sum() < ShapeWindow.around(sphere, affine).region.sum()


def test_a_sphere_between_voxels_holds_none_and_one_far_off_is_an_error() -> None:
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    level = np.ones((24, 24, 24))
    between = Sphere((20.0, 20.0, 12.5), 1.0)
    part, box = shape_on_scan(level, shape_grid(between.centre_mm, 2.0), between, affine, SHAPE)
    assert not part.any()
    assert part.shape == np.zeros(SHAPE)[box].shape
    far = Sphere((-20.0, 20.0, 10.0), 5.0)
    with pytest.raises(ValueError, match="sphere must touch the scan of shape"):
        shape_on_scan(level, shape_grid(far.centre_mm, 5.0), far, affine, SHAPE)


def test_no_room_is_an_error_that_says_where() -> None:
    boundary = np.zeros(SHAPE)
    boundary[30:] = 1
    with pytest.raises(ValueError, match=r"room for a lesion of 11\.0 mm at \(15\.0, 19\.0, 14\.0"):
        ShapeWindow.around(Sphere((15.0, 19.0, 14.0), 5.0), np.eye(4), boundary)
    with pytest.raises(ValueError, match="slices need a boundary, spacing_mm and a size of two"):
        ShapeWindow.around(Sphere(MIDDLE, 5.0), np.eye(4), slices=True)


def test_slices_take_the_window_of_the_organ() -> None:
    affine, organ = np.diag([1.2, 1.2, 9.0, 1.0]), np.zeros((60, 50, 7))
    organ[10:31, 5:26, 1:6] = 1
    sphere = Sphere(at(affine, (20, 15, 3)), 14.0)
    window = ShapeWindow.around(sphere, affine, organ, (32, 32), spacing_mm=1.6, slices=True)
    assert window.region.shape == (32, 32, 8)
    assert window.region.any((0, 1)).tolist() == [False, False, True, True, True, *[False] * 3]


def test_costs_do_not_grow_with_the_scan() -> None:
    class OnlyInPart:
        """A scan of ten thousand million voxels that hands out small parts only."""

        shape = (4000, 4000, 700)

        def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
            size = [part.stop - part.start for part in key]
            assert np.prod(size) < 1e5
            return np.ones(size, np.uint8)

    scan = OnlyInPart()
    start = time.process_time()
    sphere = Sphere((2000.0, 1500.0, 300.0), 6.0)
    window = ShapeWindow.around(sphere, np.eye(4), scan)  # type: ignore[arg-type]
    part, _ = shape_on_scan(
        np.ones(window.grid.size),
        window.grid,
        sphere,
        np.eye(4),
        scan.shape,
        scan,  # type: ignore[arg-type]
    )
    assert part.sum() == sphere_mask(Sphere((7.0,) * 3, 6.0), np.eye(4), (15,) * 3).sum()
    assert time.process_time() - start < 2
