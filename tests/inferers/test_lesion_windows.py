"""A window per lesion gives what the window alone would give, wherever it lies."""

import pytest
import torch
from torch import Tensor

from tools.inferers import LesionInpaintInferer, LesionWindowInferer
from tools.schedules import cosine_scheduler


def network(x: Tensor, timesteps: Tensor, condition: Tensor | None) -> Tensor:
    return x[:, :1] * 0.5


@pytest.fixture
def inferer() -> LesionWindowInferer:
    return LesionWindowInferer(LesionInpaintInferer(cosine_scheduler(4)), 2, (8, 8, 8), 8)


def volume(*centres: tuple[int, int, int]) -> Tensor:
    inputs = torch.rand(1, 2, 40, 32, 24) * 2 - 1
    inputs[:, 1] = 0
    for i, j, k in centres:
        inputs[0, 1, i : i + 2, j : j + 2, k : k + 2] = 1
    return inputs


def test_each_lesion_equals_its_own_window(inferer: LesionWindowInferer) -> None:
    inputs = volume((4, 20, 10), (30, 4, 10))
    output = inferer(inputs, network, seeds=[5])
    outside = inputs[:, 1:] == 0
    assert torch.equal(output[outside], inputs[:, :1][outside])
    window = inputs[:, :, 1:9, 17:25, 7:15]
    alone = inferer.inferer(window, network, seeds=[5])
    inside = window[:, 1:] == 1
    assert torch.equal(output[:, :, 1:9, 17:25, 7:15][inside], alone[inside])


def test_a_lesion_at_the_border_is_kept_inside_the_volume(inferer: LesionWindowInferer) -> None:
    inputs = volume((38, 30, 22))
    output = inferer(inputs, network)
    inside = inputs[:, 1:] == 1
    assert (output[inside] != inputs[:, :1][inside]).all()


def test_a_lesion_larger_than_the_volume_allows_is_refused(inferer: LesionWindowInferer) -> None:
    inputs = torch.zeros(1, 2, 40, 32, 20)
    inputs[:, 1] = 1
    with pytest.raises(ValueError, match="lesion must fit a window inside the volume"):
        inferer(inputs, network)
