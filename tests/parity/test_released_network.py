"""The published network against stored outputs of the released code (random weights, seeded)."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tools.benchmark.plain_factorised_unet import PlainFactorisedUNet
from tools.convert.lefusion import load_network
from tools.networks.factorised_unet import FactorisedUNet

pytestmark = [pytest.mark.real, pytest.mark.parity]
TOLERANCE = 1e-5  # of the largest output; rounding of another order of sums


@pytest.fixture(scope="module")
def stored(shared_dir: Path) -> dict:
    return torch.load(shared_dir / "vectors" / "lidc16_forward.pt", weights_only=True)


@pytest.fixture(scope="module")
def network(shared_dir: Path) -> FactorisedUNet:
    return load_network(str(shared_dir / "vectors" / "lidc16_ckpt.pt"))


def volume(array: Tensor) -> Tensor:
    """(B, C, depth, height, width) as stored to (B, C, H, W, D)."""
    return array.permute(0, 1, 3, 4, 2)


def relative_error(result: Tensor, expected: Tensor) -> float:
    return float((result.detach() - volume(expected)).abs().max() / expected.abs().max())


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", ["out", "out_null", "out_null_row", "out_cond_none"])
def test_forward(network: FactorisedUNet, stored: dict, name: str, gradient: bool) -> None:
    condition = {
        "out": stored["cond"],
        "out_null": None,
        "out_null_row": torch.full_like(stored["cond"], -1),
        # the released code replaces None by a histogram in the last bin; ours is the null vector
        "out_cond_none": torch.eye(16)[15].expand(2, -1),
    }[name]
    with torch.set_grad_enabled(gradient):
        result = network(volume(stored["x"]), stored["t"], condition)
    assert relative_error(result, stored[name.removesuffix("_row")]) < TOLERANCE


def test_guidance(network: FactorisedUNet, stored: dict) -> None:
    x, t = volume(stored["x"]), stored["t"]
    with torch.no_grad():
        null, controlled = network(x, t), network(x, t, stored["cond"])
    assert relative_error(null + 2 * (controlled - null), stored["out_cfg2"]) < 2 * TOLERANCE


def test_plain_form(network: FactorisedUNet, stored: dict) -> None:
    plain = PlainFactorisedUNet(1, 1, base_channels=16, condition_size=16).eval()
    plain.load_state_dict(network.state_dict())
    with torch.no_grad():
        result = plain(volume(stored["x"]), stored["t"], stored["cond"])
    assert relative_error(result, stored["out"]) < TOLERANCE


def test_bfloat16_is_close(shared_dir: Path, stored: dict) -> None:
    half = load_network(str(shared_dir / "vectors" / "lidc16_ckpt.pt")).bfloat16()
    with torch.no_grad():
        result = half(volume(stored["x"]), stored["t"], stored["cond"])
    assert relative_error(result, stored["out"]) < 0.03
