"""Cleaning of predicted masks: never empty, never a box, never outside."""

import numpy as np
import pytest
import torch

from tools.transforms.smooth_mask import SmoothMaskd, smooth_mask


def ball(radius: float, size: int = 40) -> np.ndarray:
    axes = np.arange(size) - (size - 1) / 2
    x, y, z = np.meshgrid(axes, axes, axes, indexing="ij")
    return x**2 + y**2 + z**2 <= radius**2


@pytest.mark.parametrize("radius", [7.0, 12.0, 15.0])
def test_large_balls_keep_their_volume(radius: float) -> None:
    mask = ball(radius)
    assert smooth_mask(mask).sum() == pytest.approx(mask.sum(), rel=0.12)


def test_the_smallest_lesion_is_thickened_not_lost() -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4] = True
    assert smooth_mask(mask).sum() > 1


def test_holes_are_filled_and_specks_dropped_on_request() -> None:
    mask = ball(9.0)
    mask[20, 20, 20] = False
    mask[1:8, 1:8, 1:8] = True
    both, one = smooth_mask(mask), smooth_mask(mask, largest_component=True)
    assert both[20, 20, 20]
    assert both[4, 4, 4]
    assert not one[:8, :8, :8].any()
    assert one.sum() < both.sum()


def test_empty_masks_are_an_error_and_never_a_box() -> None:
    with pytest.raises(ValueError, match="mask must hold a lesion"):
        smooth_mask(np.zeros((5, 5, 5), bool))
    with pytest.raises(ValueError, match="pred must hold a lesion, got an empty prediction"):
        SmoothMaskd("pred")({"pred": -torch.ones(1, 5, 5, 5)})


def test_transform_keeps_to_its_boundary_and_to_absent_classes() -> None:
    pred = torch.full((2, 40, 40, 40), -1.0)
    pred[0][torch.from_numpy(ball(9.0))] = 1
    boundary = torch.zeros(1, 40, 40, 40)
    boundary[:, :22] = 1
    clean = SmoothMaskd("pred", boundary_key="organ")({"pred": pred, "organ": boundary})["pred"]
    assert set(clean.unique().tolist()) == {0.0, 1.0}
    assert clean[0].sum() > 1000
    assert not clean[:, 22:].any()
    assert not clean[1].any()
