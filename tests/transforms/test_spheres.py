"""Spheres against ones known by hand; windows round them and the way back, on any grid."""

import time

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy.optimize import minimize

from tests.transforms.oblique import turned
from tools.transforms.spheres import (
    ShapeWindow,
    Sphere,
    attribute_condition,
    enclosing_sphere,
    fit_grid,
    half_voxel_mm,
    shape_grid,
    shape_on_scan,
    signed_distance,
    size_bins,
    sphere_mask,
)

SHAPE = (44, 40, 30)
MIDDLE = (21.0, 19.0, 14.0)
GRIDS = {
    "1mm": np.eye(4),
    "thick": np.diag([-0.7, -0.7, 2.5, 1.0]),
    "oblique": turned((0.8, 0.8, 1.6)),
}
grids = pytest.mark.parametrize("affine", GRIDS.values(), ids=GRIDS.keys())


@pytest.mark.parametrize(
    ("box", "centre", "radius"),
    [
        (np.s_[1:8:6, 2, 3], (4.0, 2.0, 3.0), 3.0),  # two voxels
        (np.s_[2, 2, 2], (2.0, 2.0, 2.0), 0.0),
        (np.s_[0:5, 0:5, 2], (2.0, 2.0, 2.0), 2 * 2**0.5),  # flat
    ],
)
def test_spheres_known_by_hand(box: tuple, centre: tuple, radius: float) -> None:
    mask = np.zeros((9, 9, 9))
    mask[box] = 1
    sphere = enclosing_sphere(mask, np.eye(4))
    assert sphere.centre_mm == pytest.approx(centre)
    assert sphere.radius_mm == pytest.approx(radius)


@pytest.mark.parametrize("seed", range(6))
def test_no_smaller_sphere_is_found_by_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((6, 7, 5)) < 0.1
    mask[3, 3, 2] = True
    affine = np.array([[0.7, 0.1, 0, -20], [0, -0.7, 0.2, 5], [0.1, 0, 2.5, 9], [0, 0, 0, 1.0]])
    points = apply_affine(affine, np.argwhere(mask))
    sphere = enclosing_sphere(mask, affine)
    reach = np.linalg.norm(points - sphere.centre_mm, axis=1).max()
    assert reach <= sphere.radius_mm + 1e-5
    found = minimize(
        lambda centre: np.linalg.norm(points - centre, axis=1).max(),
        points.mean(0),
        method="Nelder-Mead",
        options={"xatol": 1e-6, "fatol": 1e-8, "maxiter": 4000},
    )
    assert sphere.radius_mm <= found.fun + 1e-4


def test_empty_mask_is_an_error() -> None:
    with pytest.raises(ValueError, match="mask must hold a lesion, got an empty mask"):
        enclosing_sphere(np.zeros((3, 3, 3)), np.eye(4))


def test_sphere_mask_is_in_millimetres() -> None:
    inside = sphere_mask(
        Sphere((10.0, 10.0, 10.0), 5.0), np.diag([1.0, 1.0, 2.5, 1.0]), (21, 21, 9)
    )
    assert inside.any((1, 2)).sum() == 11
    assert inside.any((0, 1)).sum() == 5


def test_condition_moves_smoothly_and_unknown_scores_are_zero() -> None:
    known = attribute_condition(12.0, 2.0, 4.5)
    assert known.shape == (16,)
    for part in (known[:8], known[8:12], known[12:]):
        assert part.sum() == pytest.approx(1)
    unknown = attribute_condition(12.0)
    assert np.array_equal(unknown[:8], known[:8])
    assert not unknown[8:].any()
    assert np.abs(attribute_condition(12.5, 2.0, 4.5) - known).max() < 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "diameter_mm must be > 0"),
        ((9.0, 0.5), "spiculation"),
        ((9.0, None, 6), "lobulation"),
    ],
)
def test_bad_attributes_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attribute_condition(*arguments)


def test_bins_share_out_the_logarithm_of_their_range() -> None:
    assert size_bins(10.0, (10.0, 120.0))[:2].tolist() == [1, 0]
    assert size_bins(500.0, (10.0, 120.0))[7] == 1
    middle = size_bins(float(np.sqrt(1200)), (10.0, 120.0))
    assert middle[3:5].tolist() == pytest.approx([0.5, 0.5])
    # a score of 0 is one that is not known
    assert np.array_equal(attribute_condition(9.0, 0.0, 0), attribute_condition(9.0))


def points_of(window: ShapeWindow) -> np.ndarray:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in window.grid.size], indexing="ij"), -1)
    return apply_affine(window.grid.affine, index)


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
    level = small.radius_mm - np.linalg.norm(points_of(window) - small.centre_mm, axis=-1)
    mask, expected = on_scan(level, window, affine), sphere_mask(small, affine, SHAPE)
    assert (mask ^ expected).sum() <= 0.03 * expected.sum()


@pytest.mark.parametrize(
    ("first", "boundary", "fitted"),
    [
        (MIDDLE[0], None, True),
        (MIDDLE[0], np.s_[28:], True),
        (MIDDLE[0], np.s_[23:], False),  # cuts the sphere
        (2.0, np.s_[:0], False),  # as the border of the scan does
        (6.0, np.s_[:0], True),  # touches the first voxels, no more
    ],
)
def test_nothing_is_fitted_where_nothing_is_or_a_boundary_cuts(
    first: float, boundary: slice | None, fitted: bool
) -> None:
    affine, sphere = np.eye(4), Sphere((first, *MIDDLE[1:]), 6.0)
    grid = shape_grid(sphere.centre_mm, 6.5)
    level = np.full(grid.size, -1.0)
    allowed = None
    if boundary is not None:
        allowed = np.ones(SHAPE)
        allowed[boundary] = 0
    assert fit_grid(level, grid, sphere, affine, allowed) is grid
    level[12:16, 10:14, 10:14] = 1
    moved = fit_grid(level, grid, sphere, affine, allowed)
    assert np.allclose(moved.affine, grid.affine) != fitted


@grids
@pytest.mark.parametrize("diameter_mm", [4.0, 9.0, 30.0])
@pytest.mark.parametrize("shift", [(0, 0, 0), (2, -1.5, 1)], ids=["centred", "aside"])
def test_size_and_place_are_exact_from_the_least_to_the_largest(
    affine: np.ndarray, diameter_mm: float, shift: tuple[float, float, float]
) -> None:
    """An ellipsoid that fills four fifths of its sphere, as models leave it."""
    shape = (60, 60, 60)
    sphere = Sphere(at(affine, (29.3, 30.2, 29.6)), diameter_mm / 2 - half_voxel_mm(affine))
    window = ShapeWindow.around(sphere, affine)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in window.grid.size], indexing="ij"), -1)
    radius = np.linalg.norm((index - 11.5 - np.array(shift)) / (1, 0.8, 0.6), axis=-1)
    level = np.clip((0.8 * 9.6 - radius) / 3, -1, 1)
    grid = fit_grid(level, window.grid, sphere, affine, np.ones(shape))
    part, box = shape_on_scan(level, grid, sphere, affine, shape)
    mask = np.zeros(shape, bool)
    mask[box] = part
    found, voxel = enclosing_sphere(mask, affine), np.linalg.norm(affine[:3, :3], axis=0).max()
    assert 0 <= sphere.radius_mm - found.radius_mm < 0.5 * voxel
    assert np.linalg.norm(np.subtract(found.centre_mm, sphere.centre_mm)) < 0.6 * voxel


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


def test_slices_know_nothing_of_each_other() -> None:
    mask = np.zeros((12, 5, 3), bool)
    mask[:6, :, 1] = True
    field = signed_distance(mask, (1.0, 1.0, 120.0), (0.0, 0.0, 0.0))
    assert np.array_equal(field[:, 2, 1], np.arange(5.5, -6, -1))
    assert (field[..., [0, 2]] < -100).all()


def test_blur_moves_no_straight_outline() -> None:
    mask = np.zeros((12, 6, 6), bool)
    mask[:6] = True
    sharp, smooth = (signed_distance(mask, (2.0,) * 3, blur) for blur in (0.0, 0.5))
    assert np.array_equal(sharp > 0, smooth > 0)
    assert np.abs(sharp - smooth)[2:-2].max() < 1e-6
