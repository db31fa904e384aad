"""Fixtures shared by all tests: small phantoms, an exact denoiser, the folder of real scans."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from torch import Tensor, nn

from tools.networks.lesion_unet import LesionUNet

REPOSITORY = Path(__file__).resolve().parents[1]


class BallPhantom(NamedTuple):
    """A noisy background with one ball-shaped lesion mask in the middle of the grid."""

    image: Tensor
    """Scan in [-1, 1], shape (1, 1, 24, 24, 24)."""
    lesion_mask: Tensor
    """1 inside the ball, 0 outside, float, same shape as the image."""
    centre: tuple[int, int, int]
    """Voxel at the middle of the ball."""
    radius: float
    """Radius of the ball in voxels (1 mm each)."""


class OracleDenoiser(nn.Module):
    r"""Exact noise prediction for voxels that are independent draws from N(mean, std^2).

    With :math:`x_t = \sqrt{\bar\alpha_t} x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon`, both Gaussian,
    :math:`E[\epsilon | x_t] = \sqrt{1-\bar\alpha_t}\,(x_t - \sqrt{\bar\alpha_t}\,\mu)
    / (\bar\alpha_t s^2 + 1 - \bar\alpha_t)`. The leading ``image_channels`` of the input are the
    noisy image; the rest (lesion mask) is ignored.
    """

    def __init__(
        self, scheduler: nn.Module, mean: float = 0.3, std: float = 0.2, image_channels: int = 1
    ) -> None:
        super().__init__()
        self.alphas_cumprod = scheduler.alphas_cumprod
        self.mean, self.std, self.image_channels = mean, std, image_channels

    def forward(self, x: Tensor, timesteps: Tensor, condition: Tensor | None = None) -> Tensor:
        x_t = x[:, : self.image_channels]
        alpha_bar = self.alphas_cumprod.to(x_t)[timesteps.long()]
        alpha_bar = alpha_bar.reshape(-1, *[1] * (x_t.ndim - 1))
        variance = alpha_bar * self.std**2 + 1 - alpha_bar
        return (1 - alpha_bar).sqrt() * (x_t - alpha_bar.sqrt() * self.mean) / variance


def pytest_configure(config: pytest.Config) -> None:
    """Two threads at most, one in each of several workers: the tensors are small."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that tests start
        torch.set_num_threads(1)
    else:
        torch.set_num_threads(min(2, torch.get_num_threads()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder ``../shared`` beside the checkout; the test is skipped where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder ../shared beside the checkout (real scans, reference arrays)")
    return folder


@pytest.fixture
def ball_phantom() -> BallPhantom:
    """A deterministic scan of 24^3 voxels with a ball of radius 6 in the middle as lesion mask."""
    size, radius = 24, 6.0
    axis = torch.arange(size) - size // 2
    squared = sum(grid**2 for grid in torch.meshgrid(axis, axis, axis, indexing="ij"))
    noise = torch.randn((1, 1, size, size, size), generator=torch.Generator().manual_seed(0))
    return BallPhantom(
        image=(-0.5 + 0.1 * noise).clamp(-1, 1),
        lesion_mask=(squared <= radius**2).float()[None, None],
        centre=(size // 2,) * 3,
        radius=radius,
    )


@pytest.fixture(scope="session")
def oracle_denoiser() -> type[OracleDenoiser]:
    """The class of the exact Gaussian denoiser: ``oracle_denoiser(scheduler, mean, std)``."""
    return OracleDenoiser


@pytest.fixture
def autoencoder() -> nn.Module:
    """An untrained autoencoder of factor 4 with 4 latent channels, always the same."""
    torch.manual_seed(0)
    return AutoencoderKlMaisi(
        3, 1, 1, (1, 1, 1), (8, 8, 8), (False,) * 3, 4, 4, num_splits=1, save_mem=False
    )


@pytest.fixture(scope="session")
def make_shape_bundle(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A writer of bundles like ``diffmask``, tiny and untrained: rough balls in three steps.

    The bias of the last layer decides how much is inside; of a wall with the overlay "cardiac".
    """

    def write(seed: int = 0, bias: float = 0.6, overlay: str = "") -> Path:
        folder = tmp_path_factory.mktemp("shapes") / "tiny_shapes"
        for name in ("configs", "models"):
            (folder / name).mkdir(parents=True)
        for name in ("inference.json", *[f"{overlay}_inference.json"] * bool(overlay)):
            source = repository / "bundles" / "diffmask" / "configs" / name
            config = json.loads(source.read_text(encoding="utf-8"))
            # the network names the shape itself, mostly above 0: its sphere with gaps, by the noise
            config |= {"prediction_type": "sample", "amp_dtype": None}
            config["displayable_configs"]["num_inference_steps"] = 3
            config["network_def"]["channels"] = [8, 16, 16]
            (folder / "configs" / name).write_text(json.dumps(config), encoding="utf-8")
        definition = {k: v for k, v in config["network_def"].items() if not k.startswith("_")}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = LesionUNet(**definition)
        nn.init.constant_(network.output[-1].bias, bias)  # type: ignore[arg-type]
        weights = f"model_{overlay}.pt" if overlay else "model.pt"
        torch.save(network.state_dict(), folder / "models" / weights)
        return folder

    return write


@pytest.fixture(scope="session")
def shape_bundle(make_shape_bundle: Callable[[int], Path]) -> Path:
    """The folder of one such bundle."""
    return make_shape_bundle(0)
