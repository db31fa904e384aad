"""Errors of the control sphere in mm, derived by hand, thick slices and empty masks included."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from tools.metrics import InsideShare, ShapeDistance, SphereError


def line(first: int, last: int) -> torch.Tensor:
    """A row of voxels along the last axis."""
    mask = torch.zeros(1, 1, 5, 5, 12)
    mask[..., 2, 2, first : last + 1] = 1
    return mask


@pytest.mark.parametrize(("spacing", "factor"), [((1, 1, 1), 1.0), ((1.4, 1.4, 10), 10.0)])
def test_errors_are_in_millimetres(spacing: tuple[float, float, float], factor: float) -> None:
    real, result = line(1, 5), line(3, 9)
    for quantity, expected in {"diameter": 2.0, "centre": 3.0}.items():
        metric = SphereError(quantity, spacing)
        assert metric(result, real).item() == pytest.approx(expected * factor)
        assert metric(real, real).item() == 0


def test_masks_bring_their_own_size() -> None:
    metric = SphereError("diameter")
    for millimetres in (1.0, 2.0, 5.0):
        affine = torch.diag(torch.tensor([millimetres] * 3 + [1.0]))
        # as an evaluator hands them over: lists of samples
        result, real = (MetaTensor(mask[0], affine=affine) for mask in (line(1, 3), line(1, 5)))
        metric([result], [real])
    assert metric.get_buffer().flatten().tolist() == pytest.approx([-2, -4, -10])
    assert metric.aggregate().item() == pytest.approx(-4)
    with pytest.raises(ValueError, match="spacing_mm must be given"):
        metric(line(1, 2), line(1, 2))


def test_shape_distance_takes_the_size_of_the_masks() -> None:
    ball = torch.zeros(1, 1, 9, 9, 9)
    ball[..., 2:7, 2:7, 2:7] = 1
    for scale in (1.0, 3.0):
        metric = ShapeDistance(None)
        real = MetaTensor(ball, affine=torch.diag(torch.tensor([scale, scale, scale, 1.0])))
        metric(real, real)
        assert metric.get_buffer()[0, 1, 0].item() == pytest.approx(125 * scale**3)


def test_empty_masks_do_not_count() -> None:
    empty = torch.zeros(1, 1, 5, 5, 12)
    metric, inside = SphereError("centre", (1, 1, 1)), InsideShare()
    for result in (empty, line(3, 5)):
        metric(result, line(1, 5))
        inside(result, line(1, 4))
    assert np.isnan(metric.get_buffer()[0].item())
    assert metric.aggregate().item() == 1
    assert inside.aggregate().item() == pytest.approx(2 / 3)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="quantity must be"):
        SphereError("radius")
    with pytest.raises(ValueError, match="spacing_mm must be three numbers > 0"):
        SphereError("centre", (1, 0, 1))(line(1, 2), line(1, 2))
    for metric in (InsideShare(), ShapeDistance(), SphereError()):
        with pytest.raises(ValueError, match="masks of equal shape"):
            metric(line(1, 2), line(1, 2)[..., :5])
        with pytest.raises(ValueError, match="at least one sample"):
            metric.aggregate()
