"""Networks of one class each behind a joint interface."""

import pytest
import torch

from tools.networks.per_class_unet import PerClassUNet

TIMES = torch.tensor([3, 40])


def small_network() -> PerClassUNet:
    torch.manual_seed(0)
    network = PerClassUNet(2, (8, 16), condition_size=4)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.mark.parametrize("number", [0, 1])
def test_a_class_is_its_own_network_of_its_channel_mask_and_histogram(number: int) -> None:
    network = small_network()
    x, condition = torch.randn(2, 4, 8, 8, 4), torch.rand(2, 8)
    alone = network.networks[number](
        x[:, [number, number + 2]], TIMES, condition.chunk(2, 1)[number]
    )
    assert torch.equal(network(x, TIMES, condition)[:, number : number + 1], alone)


def test_no_condition_is_a_row_of_minus_one() -> None:
    network = small_network()
    x = torch.randn(2, 4, 8, 8, 4)
    assert torch.equal(network(x, TIMES), network(x, TIMES, torch.full((2, 8), -1.0)))


def test_wrong_channels_are_named() -> None:
    with pytest.raises(ValueError, match="2 image and 2 mask channels, got 3"):
        small_network()(torch.zeros(2, 3, 8, 8, 4), TIMES)
    with pytest.raises(ValueError, match="classes must be at least 1, got 0"):
        PerClassUNet(0)
