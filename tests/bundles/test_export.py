"""Export by MONAI's own commands: the file computes what the network computes, at any size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import onnx_export
from monai.data import load_net_with_metadata
from torch import nn

from tools.networks.lesion_unet import LesionUNet

BUNDLE = "bundles/lefusion_lidc"
META = f"{BUNDLE}/configs/metadata.json"


@pytest.fixture(autouse=True)
def at_repository_root(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


def saved(network: nn.Module, path: Path) -> nn.Module:
    """The network with random weights everywhere, written to a file."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    torch.save(network.state_dict(), path)
    return network.eval()


def export_torchscript(folder: Path, *options: str) -> nn.Module:
    """Run ``ckpt_export`` as a user does and return what its file holds."""
    names = f"'{BUNDLE}/configs/inference.json','{BUNDLE}/configs/export.json'"
    command = [sys.executable, "-m", "monai.bundle", "ckpt_export", "--net_id", "network"]
    command += ["--filepath", str(folder / "model.ts"), "--ckpt_file", str(folder / "model.pt")]
    command += ["--meta_file", META, "--config_file", f"[{names}]", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    network, metadata, extra = load_net_with_metadata(
        str(folder / "model.ts"), more_extra_files=["inference.json"]
    )
    assert "network_data_format" in metadata
    assert extra["inference.json"]
    return network


@torch.no_grad()
def assert_same(exported: nn.Module, network: nn.Module, batch: int, *shape: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((batch, *shape), generator=generator)
    timesteps = torch.randint(0, 300, (batch,), generator=generator)
    condition = torch.rand((batch, 16), generator=generator)
    condition[0] = -1  # no control
    expected = network(x, timesteps, condition)
    torch.testing.assert_close(exported(x, timesteps, condition), expected)
    assert not torch.allclose(expected[:, :, 0], expected[:, :, 1])


def test_torchscript_of_the_default_network(tmp_path: Path) -> None:
    network = saved(LesionUNet(channels=(8, 16)), tmp_path / "model.pt")
    options = ["--network_def#channels", "[8,16]", "--window_size", "[8,8,8]"]
    exported = export_torchscript(tmp_path, *options)
    assert_same(exported, network, 1, 2, 8, 8, 8)
    assert_same(exported, network, 2, 2, 12, 8, 10)


@torch.no_grad()
def test_onnx_of_the_default_network(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"optional package {package} is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="optional package onnxruntime is missing")
    network = saved(LesionUNet(channels=(8, 16)), tmp_path / "model.pt")
    x = torch.randn(1, 2, 8, 8, 8)
    # the command line can name one input only: tensors cannot be written there
    inputs = {"timesteps": torch.tensor([1]), "condition": torch.full((1, 16), 1 / 16)}
    onnx_export(
        "network_def",
        str(tmp_path / "model.onnx"),
        str(tmp_path / "model.pt"),
        META,
        f"{BUNDLE}/configs/inference.json",
        use_trace=True,
        input_shape=list(x.shape),
        converter_kwargs={"kwargs": inputs, "dynamo": True},
        **{"network_def#channels": [8, 16]},
    )
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    assert [value.name for value in session.get_inputs()] == ["x", "timesteps", "condition"]
    for step in (0, 250):
        given = {"x": x, "timesteps": torch.tensor([step]), "condition": torch.rand(1, 16)}
        (result,) = session.run(None, {name: value.numpy() for name, value in given.items()})
        torch.testing.assert_close(torch.from_numpy(result), network(**given), rtol=1e-4, atol=1e-5)
