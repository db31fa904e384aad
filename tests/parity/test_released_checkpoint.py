"""Loading and converting a released checkpoint."""

from pathlib import Path

import pytest
import torch

from tools.convert.lefusion import convert, load_network

pytestmark = [pytest.mark.real, pytest.mark.parity]
DEFINITION = {
    "in_channels": 1,
    "out_channels": 1,
    "base_channels": 16,
    "channel_multipliers": [1, 2, 4, 8],
    "condition_size": 16,
    "attention_heads": 8,
    "attention_head_size": 32,
}


@pytest.fixture
def released(shared_dir: Path) -> Path:
    return shared_dir / "vectors" / "lidc16_ckpt.pt"


@pytest.fixture
def content(released: Path) -> dict:
    return torch.load(released, weights_only=True)


def save(content: dict, folder: Path) -> str:
    torch.save(content, folder / "checkpoint.pt")
    return str(folder / "checkpoint.pt")


def test_every_tensor_arrives(released: Path, content: dict) -> None:
    network = load_network(str(released))
    assert not network.training
    state = network.state_dict()
    theirs = {k.removeprefix("denoise_fn."): v for k, v in content["model"].items()}
    assert all(torch.equal(value, theirs[name]) for name, value in state.items())
    left = theirs.keys() - state.keys()
    assert sum(name.endswith("rotary_emb.freqs") for name in left) == 10
    assert len(left) == 22  # and the 12 buffers of the noise schedule


def test_averaged_weights(content: dict, tmp_path: Path) -> None:
    content["ema"] = {k: v.clone() for k, v in content["model"].items()}
    content["ema"]["denoise_fn.init_conv.bias"] += 1
    path = save(content, tmp_path)
    raw, averaged = load_network(path), load_network(path, "ema")
    assert torch.equal(averaged.init_conv.bias, raw.init_conv.bias + 1)
    assert torch.equal(averaged.init_conv.weight, raw.init_conv.weight)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mid_block1.block1.norm.weight", None, r"missing 1: mid_block1\.block1\.norm\.weight"),
        ("extra.weight", torch.zeros(1), r"unknown 1: extra\.weight"),
        (
            "mid_block1.mlp.1.weight",
            torch.zeros(256, 81),
            r"must have shape \(256, 80\), got \(256, 81\)",
        ),
        (
            "downs.2.3.fn.fn.fn.rotary_emb.freqs",
            1.01 * 10000.0 ** (-torch.arange(0, 32, 2) / 32),
            r"downs\.2.*rotary_emb\.freqs must be the constants",
        ),
    ],
)
def test_other_tensors_are_refused(
    content: dict, tmp_path: Path, name: str, value: torch.Tensor | None, message: str
) -> None:
    content["model"] |= {f"denoise_fn.{name}": value}
    if value is None:
        del content["model"][f"denoise_fn.{name}"]
    with pytest.raises(ValueError, match=message):
        load_network(save(content, tmp_path))


def test_converted_file_loads_alike(released: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "model.pt"
    convert(str(released), str(target))
    assert [path.name for path in target.parent.iterdir()] == ["model.pt"]
    written = torch.load(target, weights_only=True)
    assert written["network_def"] == DEFINITION
    again, first = load_network(str(target)), load_network(str(released))
    for name, value in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
