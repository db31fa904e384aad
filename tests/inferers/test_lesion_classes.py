"""Several classes in one scan: each drawn in its own channel, put together by their masks."""

import pytest
import torch
from torch import Tensor, nn

from tools.inferers import LesionInpaintInferer
from tools.schedules import cosine_scheduler

STEPS = 8


@pytest.fixture
def inputs() -> Tensor:
    """Three scans, and the mask of the first class."""
    image = torch.rand(3, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mask = torch.zeros_like(image)
    mask[0, :, 2:5, 2:5, 2:5] = mask[1, :, 1:3, 4:8, 0:2] = mask[2, :, 6, 6, 6] = 1
    return torch.cat([image, mask], 1)


class AlikeNetwork(nn.Module):
    """Treats all channels alike, each for itself."""

    def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        return 0.8 * x.tanh() + timesteps.view(-1, 1, 1, 1, 1) / 100


class TwoClassNetwork(nn.Module):
    """Says a bright image in the first channel and a dark one in the second."""

    def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.stack([torch.full_like(x[:, 0], 0.7), torch.full_like(x[:, 1], -0.6)], 1)


def two_classes(inputs: Tensor) -> Tensor:
    """The same scan twice, then two masks; the second sample lacks the second class."""
    image, first = inputs[:, :1], inputs[:, 1:]
    second = torch.zeros_like(first)
    second[0, :, 5:7, 2:5, 2:5] = second[2, :, 1, 1, 1:4] = 1
    return torch.cat([image, image, first, second], 1)


@pytest.mark.parametrize("combine", ["step", "end"])
@pytest.mark.parametrize("jumps", [1, 2])
def test_classes_are_put_together_by_their_masks(inputs: Tensor, combine: str, jumps: int) -> None:
    joined = two_classes(inputs)
    inferer = LesionInpaintInferer(
        cosine_scheduler(STEPS, "sample"),
        sampler="ddim",
        mask_channels=2,
        combine=combine,
        jump_n_sample=jumps,
    )
    output = inferer(joined, TwoClassNetwork())
    first, second = joined[:, 2] > 0, joined[:, 3] > 0
    for channel in output.unbind(1):
        assert torch.allclose(channel[first], torch.tensor(0.7))
        assert torch.allclose(channel[second], torch.tensor(-0.6))
        outside = ~(first | second)
        assert torch.equal(channel[outside], inputs[:, 0][outside])


@pytest.mark.parametrize("background", ["noised", "clean"])
def test_channels_treated_alike_are_one_channel_on_the_union(
    inputs: Tensor, background: str
) -> None:
    joined = two_classes(inputs)
    union = torch.cat([joined[:, :1], joined[:, 2:].amax(1, keepdim=True)], 1)
    scheduler = cosine_scheduler(STEPS)
    arguments = {"background": background, "jump_n_sample": 2}
    alone = LesionInpaintInferer(scheduler, **arguments)(union, AlikeNetwork())
    step, end = (
        LesionInpaintInferer(scheduler, mask_channels=2, combine=combine, **arguments)
        for combine in ("step", "end")
    )
    result = step(joined, AlikeNetwork())
    assert torch.allclose(result, alone.expand_as(result), atol=1e-6)
    # without shared noise the second class is another draw
    other = end(joined, AlikeNetwork())
    assert not torch.allclose(other, alone.expand_as(other), atol=1e-3)


def test_classes_that_overlap_or_lack_a_channel_are_named(inputs: Tensor) -> None:
    for combine in ("step", "end"):
        inferer = LesionInpaintInferer(cosine_scheduler(STEPS), mask_channels=2, combine=combine)
        joined = two_classes(inputs)
        joined[0, 3] = joined[0, 2]
        with pytest.raises(ValueError, match="classes must not overlap"):
            inferer(joined, AlikeNetwork())
        with pytest.raises(ValueError, match="mask must have one channel per class"):
            inferer(two_classes(inputs)[:, 1:], AlikeNetwork())
    with pytest.raises(ValueError, match="combine must be one of"):
        LesionInpaintInferer(cosine_scheduler(STEPS), combine="mean")
