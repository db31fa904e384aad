"""Features of shapes are those of solids known by heart; the distance is what it says."""

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler, from_engine
from scipy import ndimage

from tools.metrics import ShapeDistance, ShapeFeatures, shape_features
from tools.metrics.shape import WORST, feature_distances, surface_mesh


def solid(
    semi_axes_mm: tuple[float, float, float], spacing_mm: tuple[float, ...] = (1, 1, 1)
) -> np.ndarray:
    """An ellipsoid whose centre lies off the voxel centres."""
    axes = []
    for semi_axis, spacing in zip(semi_axes_mm, spacing_mm, strict=True):
        n = int(semi_axis / spacing) + 3
        axes.append((np.arange(-n, n + 1) + 0.2) * spacing)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    return ((grid / semi_axes_mm) ** 2).sum(-1) <= 1


def features(
    semi_axes_mm: tuple[float, float, float], spacing_mm: tuple[float, ...] = (1, 1, 1)
) -> ShapeFeatures:
    return shape_features(solid(semi_axes_mm, spacing_mm), np.diag([*spacing_mm, 1.0]))


def spiky(mask: np.ndarray) -> np.ndarray:
    """The mask with needles along the axes."""
    spiked = np.pad(mask, 5)
    middle = [n // 2 for n in spiked.shape]
    for axis in range(3):
        where = [slice(m, m + 2) for m in middle]
        where[axis] = slice(1, -1)
        spiked[tuple(where)] = True
    return spiked


@pytest.mark.parametrize("radius", [3.0, 6.0, 10.0])
def test_a_ball_is_a_ball(radius: float) -> None:
    found = features((radius,) * 3)
    assert found.volume_mm3 == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.05)
    assert 0.97 < found.sphericity <= 1
    assert found.surface_to_volume == pytest.approx(3 / radius, rel=0.05)
    assert found.components == 1
    assert found.roughness < 0.03
    # the sphere reaches the farthest of the voxels, half a voxel more or less
    assert (1 - 0.8 / radius) ** 3 < found.filling <= 1
    assert found.elongation == pytest.approx(1, abs=0.03)


def test_an_ellipsoid_is_elongated_and_not_rough() -> None:
    found = features((5.0, 5.0, 12.0))
    # of a prolate spheroid: 2 pi a (a + c arcsin(e) / e)
    e = np.sqrt(1 - (5 / 12) ** 2)
    area = 2 * np.pi * 5 * (5 + 12 * np.arcsin(e) / e)
    volume = 4 / 3 * np.pi * 5 * 5 * 12
    expected = np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area
    assert found.sphericity == pytest.approx(expected, rel=0.02)
    assert found.surface_to_volume == pytest.approx(area / volume, rel=0.03)
    assert found.elongation == pytest.approx(2.4, rel=0.03)
    assert found.filling == pytest.approx((5 / 12) ** 2, rel=0.08)
    assert found.roughness < 0.03


def test_anisotropic_and_oblique_grids_give_the_same_lesion() -> None:
    fine, coarse = features((8.0, 8.0, 8.0)), features((8.0, 8.0, 8.0), (0.7, 0.7, 2.5))
    for name in ("volume_mm3", "sphericity", "surface_to_volume"):
        assert getattr(coarse, name) == pytest.approx(getattr(fine, name), rel=0.06), name
    assert coarse.elongation < 1.05
    assert coarse.roughness < 0.06
    mask = solid((4.0, 5.0, 8.0))
    angle = 0.6
    turned = np.diag([-1.0, 1.0, 1.0, 1.0])
    turned[:2, :2] @= [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turned[:3, 3] = (-180.0, 40.0, 900.0)
    assert shape_features(mask, turned) == pytest.approx(shape_features(mask, np.eye(4)), rel=1e-4)


def test_needles_and_dents_are_rough_whatever_the_scale() -> None:
    ball = solid((6.0, 6.0, 6.0))
    rough = shape_features(spiky(ball), np.eye(4))
    smooth = shape_features(ball, np.eye(4))
    assert rough.roughness > 3 * smooth.roughness
    assert rough.sphericity < smooth.sphericity
    assert rough.filling < smooth.filling
    dented = ball & ~ndimage.shift(ball, (8, 0, 0), order=0)
    assert shape_features(dented, np.eye(4)).roughness > 3 * smooth.roughness
    double = shape_features(spiky(ball), np.diag([2.0, 2.0, 2.0, 1.0]))
    assert double.roughness == pytest.approx(rough.roughness)
    assert double.volume_mm3 == pytest.approx(8 * rough.volume_mm3)


def test_pieces_that_share_a_corner_are_one() -> None:
    mask = np.zeros((12, 12, 12), bool)
    mask[2:5, 2:5, 2:5] = mask[5:8, 5:8, 5:8] = True
    assert shape_features(mask, np.eye(4)).components == 1
    mask[:, :, 5] = False
    assert shape_features(mask, np.eye(4)).components == 2


@pytest.mark.parametrize("voxels", [1, 2, 4])
def test_the_smallest_lesions_have_features_at_the_border_of_the_grid(voxels: int) -> None:
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[:voxels, 0, 0] = 1
    found = shape_features(mask, np.eye(4))
    assert np.isfinite(found).all()
    assert found.volume_mm3 == voxels
    assert 0 < found.filling <= 1
    assert found.elongation == pytest.approx(voxels)


def test_an_empty_mask_is_an_error() -> None:
    for function in (shape_features, surface_mesh):
        with pytest.raises(ValueError, match="must hold a lesion, got an empty mask"):
            function(np.zeros((3, 3, 3)), np.eye(4))


def batch(*radii: float) -> torch.Tensor:
    """Balls; below 0 nothing."""
    masks = torch.zeros(len(radii), 1, 20, 20, 20)
    grid = torch.stack(torch.meshgrid(*[torch.arange(20.0) - 9.7] * 3, indexing="ij"))
    for mask, radius in zip(masks, radii, strict=True):
        mask[0] = grid.square().sum(0).sqrt() <= radius
    return masks


def test_distances_by_hand() -> None:
    real = np.array([[0.0, 1.0], [2.0, 1.0]])
    # first column: moved by 3, standard deviation 1; second: half moved by 0.2, no spread,
    # so a tenth of the mean stands for it
    found = feature_distances(np.array([[3.0, 1.0], [5.0, 1.2]]), real)
    assert found == pytest.approx([3.0, 1.0])
    assert feature_distances(real + 1e6, real) == pytest.approx([WORST, WORST])
    half_empty = np.array([[0.0, 1.0], [2.0, 1.0], [np.nan, np.nan], [np.nan, np.nan]])
    assert feature_distances(half_empty, real) == pytest.approx([WORST / 2, WORST / 2])
    with pytest.raises(ValueError, match="predicted must have at least one row"):
        feature_distances(real[:0], real)
    with pytest.raises(ValueError, match="real must have a lesion in each mask"):
        feature_distances(real, half_empty)


def distance(*pairs: tuple[torch.Tensor, torch.Tensor]) -> float:
    metric = ShapeDistance((1.0, 1.0, 2.0))
    for predicted, real in pairs:
        metric(predicted, real)
    return metric.aggregate().item()


def test_equal_sets_have_no_distance_in_any_order_and_empty_references_are_left_out() -> None:
    assert distance((batch(3, 5), batch(5, 7)), (batch(7), batch(3))) == pytest.approx(0, abs=1e-6)
    assert distance((batch(4, 4), batch(4, -1))) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="y must hold at least one lesion"):
        distance((batch(4), batch(-1)))


def test_distance_grows_and_an_empty_prediction_is_worst() -> None:
    near, far, empty, none = (
        distance((batch(*radii), batch(4, 6.5))) for radii in ((4, 6), (8, 9), (-1, 6), (-1, -1))
    )
    assert near < far < none == WORST
    assert empty >= WORST / 2


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="spacing_mm must be three numbers > 0"):
        ShapeDistance((1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="y must hold the real masks"):
        ShapeDistance()(batch(3))


def test_serves_as_key_metric_of_an_evaluator() -> None:
    def step(_: Engine, sample: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        return [{"pred": MetaTensor(mask), "label": mask} for mask in sample]

    engine = Engine(step)
    output = from_engine(["pred", "label"])
    IgniteMetricHandler(metric_fn=ShapeDistance(), output_transform=output).attach(
        engine, "shape_distance"
    )
    state = engine.run([batch(3, 5), batch(6, 7)])
    assert float(state.metrics["shape_distance"]) == pytest.approx(0, abs=1e-6)
