"""The sampler and the loss against stored arrays of the released code (random weights, seeded)."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tools.convert.lefusion import load_network
from tools.histograms import intensity_histogram
from tools.inferers import LesionInpaintInferer, lesion_inpaint
from tools.losses import LesionNoiseLoss, NoiseTarget
from tools.networks.factorised_unet import FactorisedUNet
from tools.schedules import cosine_scheduler, repaint_timesteps

pytestmark = [pytest.mark.real, pytest.mark.parity]


def volume(stored: Tensor) -> Tensor:
    """(B, C, depth, height, width) as stored to (B, C, H, W, D)."""
    return stored.permute(0, 1, 3, 4, 2).contiguous()


def load(shared_dir: Path, name: str) -> dict:
    return torch.load(shared_dir / "vectors" / name, weights_only=True)


@pytest.fixture(scope="module")
def network(shared_dir: Path) -> FactorisedUNet:
    return load_network(str(shared_dir / "vectors" / "lidc16_ckpt.pt"))


class StoredNoise:
    """Plays back the draws of the released run in their order."""

    def __init__(self, draws: list[Tensor]) -> None:
        self.draws = iter(draws)

    def draw(self) -> Tensor:
        return volume(next(self.draws))


def test_complete_sampling_run(
    shared_dir: Path, network: FactorisedUNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = load(shared_dir, "lidc16_sample_T6.pt")
    order = [step for step, _ in repaint_timesteps(6, 2, 2, "released")] + [-1]
    assert order == list(stored["times"])
    draws = StoredNoise(list(stored["noises"]))
    monkeypatch.setattr(lesion_inpaint, "SeededNoise", lambda *_: draws)
    inferer = LesionInpaintInferer(
        cosine_scheduler(6), jump_length=2, jump_n_sample=2, timetable="released"
    )
    known = volume(stored["gt"])
    mask = volume((stored["gt_keep_mask"] == 1).float())
    states: list[Tensor] = []
    condition = stored["cond"].reshape(1, -1).expand(len(known), -1)
    output = inferer(torch.cat([known, mask], 1), network, condition, trace=states)
    inside = mask.bool()
    difference = (output - volume(stored["final"]))[inside].abs().max()
    print(f"six-step sampling run: max difference inside the mask {difference:.2e}")
    assert difference < 1e-4
    assert torch.equal(output[~inside], known[~inside])  # the released run is off by more than 1
    for ours, theirs in zip(states, stored["step_x"], strict=True):
        assert (ours - volume(theirs))[inside].abs().max() < 1e-4


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_loss_and_gradients(shared_dir: Path, network: FactorisedUNet, norm: str) -> None:
    stored = load(shared_dir, "lidc16_loss.pt")
    image, noise, mask = (volume(stored[key].float()) for key in ("x_start", "noise", "mask"))
    scheduler = cosine_scheduler(300)
    inferer = LesionInpaintInferer(scheduler)
    network.zero_grad()
    prediction = inferer(
        torch.cat([image, mask], 1), network, stored["cond"], noise=noise, timesteps=stored["t"]
    )
    loss = LesionNoiseLoss(norm, "volume")(prediction, NoiseTarget(noise, mask))
    assert loss.item() == pytest.approx(float(stored[f"loss_{norm}"]), rel=1e-5)
    loss.backward()
    parameters = dict(network.named_parameters())
    compared = 0
    for name, norm_of_gradient in stored[f"grad_norms_{norm}"].items():
        if name in parameters:
            compared += 1
            ours = parameters[name].grad.norm().item()
            assert ours == pytest.approx(float(norm_of_gradient), rel=1e-3, abs=1e-9), name
    assert compared > 200


def test_noised_image_equals_the_released(shared_dir: Path) -> None:
    stored = load(shared_dir, "lidc16_loss.pt")
    noised = cosine_scheduler(300).add_noise(
        original_samples=stored["x_start"], noise=stored["noise"], timesteps=stored["t"]
    )
    assert torch.allclose(noised, stored["x_noisy"], atol=1e-6)


def test_histogram_equals_the_released(shared_dir: Path) -> None:
    stored = load(shared_dir, "histograms.pt")
    ours = intensity_histogram(stored["hist_image"], stored["hist_mask"] > 0, 16)[0]
    assert torch.allclose(ours, stored["hist"], atol=1e-6)
