"""The loss against values derived by hand."""

import pytest
import torch

from tools.losses import LesionNoiseLoss, NoiseTarget

SHAPE = (2, 1, 2, 2, 2)


def target(voxels: tuple[int, int]) -> NoiseTarget:
    """Zero noise; the first ``voxels[b]`` voxels of sample b are lesion."""
    mask = torch.zeros(SHAPE)
    for sample, count in zip(mask, voxels, strict=True):
        sample.view(-1)[:count] = 1
    return NoiseTarget(torch.zeros(SHAPE), mask)


def test_each_lesion_counts_the_same() -> None:
    prediction = torch.stack([torch.full(SHAPE[1:], 1.0), torch.full(SHAPE[1:], 3.0)])
    # squared errors 1 and 9, whatever the 8 voxels and 1 voxel of the lesions
    assert LesionNoiseLoss()(prediction, target((8, 1))).item() == pytest.approx(5.0)


def test_volume_normalisation_averages_over_all_voxels() -> None:
    prediction = torch.ones(SHAPE)
    loss = LesionNoiseLoss(norm="l1", normalize="volume")
    assert loss(prediction, target((4, 2))).item() == pytest.approx(6 / 16)


@pytest.mark.parametrize("normalize", ["lesion", "volume"])
def test_gradient_is_zero_outside_the_mask(normalize: str) -> None:
    goal = target((3, 2))
    prediction = torch.randn(SHAPE, requires_grad=True)
    LesionNoiseLoss(normalize=normalize)(prediction, goal).backward()
    outside = goal.lesion_mask == 0
    assert prediction.grad is not None
    assert (prediction.grad[outside] == 0).all()
    assert (prediction.grad[~outside] != 0).all()


@pytest.mark.parametrize("first", [0, 3])
def test_a_sample_without_lesion_changes_nothing(first: int) -> None:
    """Two such samples give 0, and no NaN."""
    prediction, goal = torch.randn(SHAPE, requires_grad=True), target((first, 0))
    both = LesionNoiseLoss()(prediction, goal)
    alone = LesionNoiseLoss()(prediction[:1], NoiseTarget(*(part[:1] for part in goal)))
    assert torch.equal(both, alone)
    assert (both > 0) == (first > 0)
    both.backward()
    assert (prediction.grad[goal.lesion_mask == 0] == 0).all()


def test_classes_add_up_each_under_its_own_mask() -> None:
    prediction = torch.ones(1, 2, 2, 2, 2)
    prediction[:, 1] = 2
    mask = torch.zeros_like(prediction)
    mask[0, 0, 0, 0, 0] = mask[0, 1, 1, 1, 1] = 1
    goal = NoiseTarget(torch.zeros_like(prediction), mask)
    assert LesionNoiseLoss()(prediction, goal).item() == pytest.approx(1 + 4)


def test_image_region_is_the_plain_mean() -> None:
    prediction = torch.randn(SHAPE)
    loss = LesionNoiseLoss(region="image")(prediction, target((1, 0)))
    assert loss.item() == pytest.approx(prediction.square().mean().item())


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="norm must be one of"):
        LesionNoiseLoss(norm="l3")
    with pytest.raises(ValueError, match="prediction must have the shape of noise"):
        LesionNoiseLoss()(torch.zeros(1, 1, 2, 2, 2), target((1, 1)))
    goal = NoiseTarget(torch.zeros(SHAPE), torch.zeros(2, 2, 2, 2, 2))
    with pytest.raises(ValueError, match="lesion_mask must have 1 or 1 channels, got 2"):
        LesionNoiseLoss()(torch.zeros(SHAPE), goal)
