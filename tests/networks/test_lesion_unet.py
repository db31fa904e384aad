"""The compact network: sizes, control, gradients."""

import pytest
import torch
from torch import nn

from tools.networks.lesion_unet import LesionUNet


def wake(network: nn.Module) -> nn.Module:
    """Give layers that start at zero a value, so that everything has an effect."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


NETWORKS = {
    "time": lambda: LesionUNet(channels=(8, 16), condition_size=4),
    "cross_attention": lambda: LesionUNet(
        channels=(8, 16), condition_size=4, conditioning="cross_attention"
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_condition_and_its_absence_change_the_output(name: str) -> None:
    network = wake(NETWORKS[name]())
    x, t = torch.randn(2, 2, 8, 8, 8), torch.tensor([3, 200])
    flat = torch.full((2, 4), 0.25)
    peak = torch.tensor([[1.0, 0, 0, 0]]).expand(2, -1)
    free = torch.full((2, 4), -1.0)
    with torch.no_grad():
        outputs = [network(x, t, condition) for condition in (flat, peak, free, None)]
    assert outputs[0].shape == (2, 1, 8, 8, 8)
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-6)
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-6)
    assert torch.equal(outputs[2], outputs[3])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns(name: str) -> None:
    network = wake(NETWORKS[name]())
    condition = torch.stack([torch.full((4,), 0.25), torch.full((4,), -1.0)])
    network(torch.randn(2, 2, 8, 8, 8), torch.tensor([3, 200]), condition).square().sum().backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # with one token width the key bias of an attention shifts all scores alike
    assert still == []


def test_any_window_that_the_levels_divide() -> None:
    network = LesionUNet(channels=(8, 16, 24), condition_size=None)
    assert network(torch.zeros(1, 2, 8, 16, 12), torch.tensor([0])).shape == (1, 1, 8, 16, 12)
    with pytest.raises(ValueError, match="spatial sizes must be divisible by 4"):
        network(torch.zeros(1, 2, 8, 8, 10), torch.tensor([0]))


def test_bad_conditioning_is_named() -> None:
    with pytest.raises(ValueError, match="conditioning must be"):
        LesionUNet(conditioning="film")
