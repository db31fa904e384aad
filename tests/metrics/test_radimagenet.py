"""The network of RadImageNet: its own form, weights that fit and weights that do not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet50
from torch import nn

from tools.metrics.radimagenet import radimagenet_features, radimagenet_network


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = radimagenet_network()
    for name, value in network.state_dict().items():
        if name.endswith("bias"):
            value.copy_(torch.rand_like(value) - 0.5)
    path = tmp_path_factory.mktemp("weights") / "RadImageNet-ResNet50_notop.pth"
    torch.save(network.state_dict(), path)
    return path


def test_it_is_the_form_of_keras(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.metrics.radimagenet.SIDE", 64)
    network = radimagenet_network(weights)
    pictures = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16))
    found = radimagenet_features(network, pictures, 1)
    assert found.shape == (2, 2048)
    assert not np.allclose(found[0], found[1])
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 53
    assert all(m.bias is not None and m.bias.abs().max() > 0 for m in convolutions)
    block = network.layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    assert {m.eps for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {1.001e-5}


def test_a_picture_is_scaled_as_it_was_in_training() -> None:
    class Seen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :, 0, 0]

    found = radimagenet_features(Seen(), np.stack([np.full((4, 4), v) for v in (-1.0, 1.0)]))
    assert found[0] == pytest.approx([-0.406, -0.456, -0.485])
    assert found[1] == pytest.approx([0.594, 0.544, 0.515])


def test_weights_that_do_not_fit_are_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="radimagenet must be a file of weights"):
        radimagenet_network(tmp_path / "none.pth")
    plain = resnet50(spatial_dims=2, n_input_channels=3, feed_forward=False)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    with pytest.raises(ValueError, match=r"of which conv1\.bias is missing"):
        radimagenet_network(tmp_path / "plain.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="must be a state dict of torch"):
        radimagenet_network(tmp_path / "text.pth")
