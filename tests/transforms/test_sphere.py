"""The control sphere against spheres known by hand and against a plain search."""

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy.optimize import minimize

from tools.transforms.sphere import Sphere, attribute_condition, enclosing_sphere, sphere_mask


def test_two_voxels_have_their_middle_and_half_their_distance() -> None:
    mask = np.zeros((9, 9, 9))
    mask[1, 2, 3] = mask[7, 2, 3] = 1
    assert enclosing_sphere(mask, np.eye(4)) == Sphere((4.0, 2.0, 3.0), 3.0)


def test_centroid_plays_no_part() -> None:
    """A heavy end and a thin tail: the released centre would lie in the heavy end."""
    mask = np.zeros((31, 9, 9))
    mask[2:9, 1:8, 1:8] = 1
    mask[9:29, 4, 4] = 1
    sphere = enclosing_sphere(mask, np.eye(4))
    assert sphere.centre_mm[0] > 14
    distances = np.linalg.norm(np.argwhere(mask) - sphere.centre_mm, axis=1)
    assert distances.max() == pytest.approx(sphere.radius_mm, abs=1e-5)


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


def test_flat_and_single_masks_have_spheres() -> None:
    mask = np.zeros((5, 5, 5))
    mask[2, 2, 2] = 1
    assert enclosing_sphere(mask, np.eye(4)).radius_mm == 0
    mask[0:5, 0:5, 2] = 1
    assert enclosing_sphere(mask, np.eye(4)).radius_mm == pytest.approx(2 * 2**0.5)


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


def test_range_of_the_condition_and_scores_of_nothing() -> None:
    """The bins share out the logarithm of the range; a score of 0 is one that is not known."""
    hearts = {"range_mm": (10.0, 120.0)}
    assert attribute_condition(10.0, **hearts)[:2].tolist() == [1, 0]
    assert attribute_condition(500.0, **hearts)[7] == 1
    middle = attribute_condition(float(np.sqrt(1200)), **hearts)
    assert middle[3:5].tolist() == pytest.approx([0.5, 0.5])
    assert not np.array_equal(middle, attribute_condition(float(np.sqrt(1200))))
    assert np.array_equal(attribute_condition(9.0, 0.0, 0), attribute_condition(9.0))
