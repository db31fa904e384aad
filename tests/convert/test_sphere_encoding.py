"""The encoding that a mask network was trained on is found by its denoising loss."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tools.convert.lefusion import _lesion, choose_sphere_outside, sphere_encoding_losses
from tools.networks.sphere_encoded_unet import SphereEncodedUNet
from tools.schedules import cosine_scheduler

WINDOW = (16, 16, 4)
SMALL = {
    "base_channels": 8,
    "channel_multipliers": (1,),
    "attention_heads": 1,
    "attention_head_size": 8,
}


class LinearDenoiser(SphereEncodedUNet):
    """Takes the sphere for the lesion, read as a network trained on one encoding reads it."""

    def __init__(self, trained_outside: float) -> None:
        super().__init__(**SMALL)
        self.trained_outside = trained_outside

    def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        seen = self.sphere_outside + (self.sphere_inside - self.sphere_outside) * x[:, 1:]
        lesion = 2 * (seen - self.trained_outside) / (1 - self.trained_outside) - 1
        alpha_bar = cosine_scheduler(300).alphas_cumprod[timesteps].reshape(-1, 1, 1, 1, 1)
        return (x[:, :1] - alpha_bar.sqrt() * lesion) / (1 - alpha_bar).sqrt()


@pytest.mark.parametrize("outside", [255.0, -1.0])
def test_encoding_of_the_training_wins(outside: float, capsys: pytest.CaptureFixture[str]) -> None:
    network = LinearDenoiser(outside)
    losses = sphere_encoding_losses(network, window_size=(24, 24, 24))
    other = next(value for value in losses if value != outside)
    assert losses[outside] < 0.5 * losses[other]
    assert network.sphere_outside == 255.0  # as it was
    assert choose_sphere_outside(network, window_size=(24, 24, 24)) == outside
    printed = capsys.readouterr().out
    for value, loss in losses.items():
        assert f"{loss:.4f} with {value:g}" in printed


def train_on_intended_encoding(steps: int = 50) -> SphereEncodedUNet:
    torch.manual_seed(0)
    network = SphereEncodedUNet(**SMALL, sphere_outside=-1.0)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    scheduler, rng = cosine_scheduler(300), np.random.default_rng(1)
    for _ in range(steps):
        pairs = np.stack([np.stack(_lesion(WINDOW, rng)) for _ in range(2)])
        lesion, region = torch.from_numpy(pairs[:, :, 0]).unbind(1)
        timesteps, noise = torch.randint(0, 300, (2,)), torch.randn(lesion.shape)
        x_t = scheduler.add_noise(original_samples=lesion, noise=noise, timesteps=timesteps)
        loss = (network(torch.cat([x_t, region], 1), timesteps) - noise).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def test_a_trained_network_tells_its_encoding() -> None:
    network = train_on_intended_encoding()
    losses = sphere_encoding_losses(network, window_size=WINDOW)
    assert losses[-1.0] < 0.4
    assert losses[255.0] > 2 * losses[-1.0]
    # the same function of the sphere, written for 255 (but for the padding at the edges)
    with torch.no_grad():
        weight = network.init_conv.weight[:, 1]
        network.init_conv.bias += weight.sum((1, 2, 3)) * 128 / 127
        weight /= -127
    assert choose_sphere_outside(network, window_size=WINDOW) == 255.0


def test_untrained_network_is_refused() -> None:
    torch.manual_seed(0)
    network = SphereEncodedUNet(**SMALL).eval()
    with pytest.raises(ValueError, match="must be a number for a network that denoises with neit"):
        choose_sphere_outside(network, window_size=WINDOW)


def test_overflow_does_not_win() -> None:
    class Overflowing(LinearDenoiser):
        def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
            result = super().forward(x, timesteps)
            return result * math.nan if self.sphere_outside == 255 else result

    losses = sphere_encoding_losses(Overflowing(-1.0), window_size=WINDOW)
    assert losses[255.0] == math.inf
    assert choose_sphere_outside(Overflowing(-1.0), window_size=(24, 24, 24)) == -1.0


def test_result_is_repeatable_and_full_windows_hold_whole_lesions() -> None:
    network = LinearDenoiser(-1.0)
    first, second = (sphere_encoding_losses(network, window_size=WINDOW) for _ in range(2))
    assert first == second
    rng = np.random.default_rng(0)
    for _ in range(20):
        lesion, region = (array[0, 0] > 0 for array in _lesion((26, 26, 26), rng))
        assert lesion.any()
        assert (region | ~lesion).all()
        shell = np.ones_like(region)
        shell[1:-1, 1:-1, 1:-1] = False
        assert not (region & shell).any()
