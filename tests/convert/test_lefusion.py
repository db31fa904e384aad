"""What the converter accepts and how it refuses; with files made here."""

from pathlib import Path

import pytest
import torch

from tools.convert.lefusion import convert, load_network
from tools.networks.factorised_unet import FactorisedUNet

ARGUMENTS = {
    "in_channels": 2,
    "out_channels": 1,
    "base_channels": 8,
    "channel_multipliers": [1, 3],
    "condition_size": None,
    "attention_heads": 2,
    "attention_head_size": 16,
}


def checkpoint(path: Path, prefix: str = "denoise_fn.") -> FactorisedUNet:
    network = FactorisedUNet(**ARGUMENTS)
    state = {prefix + name: value for name, value in network.state_dict().items()}
    torch.save({"step": 1, "model": {"betas": torch.zeros(3), **state}, "scaler": {}}, path)
    return network


@pytest.mark.parametrize("prefix", ["denoise_fn.", "denoise_fn.module."])
def test_arguments_are_read_from_shapes(tmp_path: Path, prefix: str) -> None:
    network = checkpoint(tmp_path / "a.pt", prefix)
    convert(str(tmp_path / "a.pt"), str(tmp_path / "b.pt"))
    written = torch.load(tmp_path / "b.pt", weights_only=True)
    assert written["network_def"] == ARGUMENTS
    assert all(torch.equal(written["model"][k], v) for k, v in network.state_dict().items())
    assert isinstance(load_network(str(tmp_path / "b.pt")), FactorisedUNet)


def test_weights_must_be_there(tmp_path: Path) -> None:
    checkpoint(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="state dict under 'ema', got keys"):
        load_network(str(tmp_path / "a.pt"), "ema")
    with pytest.raises(ValueError, match='weights must be "model" or "ema", got \'best\''):
        load_network(str(tmp_path / "a.pt"), "best")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be an existing file"):
        load_network(str(tmp_path / "absent.pt"))


@pytest.mark.parametrize("data", [b"", b"not a checkpoint at all", b"\x80\x04\x95garbage"])
def test_file_of_another_kind(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(ValueError, match="must be a PyTorch file of plain tensors"):
        load_network(str(tmp_path / "a.pt"))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"model": Path("x")}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="plain tensors"):
        load_network(str(tmp_path / "a.pt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "must hold a dict, got list"),
        ({"state_dict": {}}, "state dict under 'model'"),
        ({"model": {"weight": torch.zeros(1)}}, r"must hold keys 'denoise_fn\.\*'"),
        ({"model": {"denoise_fn.weight": torch.zeros(1)}}, "must be a factorised U-Net"),
        ({"network_def": ARGUMENTS}, "state dict under 'model'"),
    ],
)
def test_wrong_content(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        load_network(str(tmp_path / "a.pt"))


def test_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="plain tensors"):
        convert(str(tmp_path / "a.pt"), str(tmp_path / "b.pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
