"""What the converter accepts and how it refuses; with files made here."""

from pathlib import Path

import pytest
import torch

from tests.convert.released import ARGUMENTS, DIFFMASK, write_released
from tools.cli import main
from tools.convert import lefusion
from tools.convert.lefusion import convert, load_network
from tools.networks.factorised_unet import FactorisedUNet
from tools.networks.sphere_encoded_unet import SphereEncodedUNet

CONVERTED = {k: v for k, v in DIFFMASK.items() if k != "condition_size"}


@pytest.mark.parametrize("prefix", ["denoise_fn.", "denoise_fn.module."])
@pytest.mark.parametrize("condition_size", [None, 16, 32])
def test_arguments_are_read_from_shapes(
    tmp_path: Path, prefix: str, condition_size: int | None
) -> None:
    arguments = {**ARGUMENTS, "condition_size": condition_size}  # 32: two classes of 16 bins
    network = write_released(tmp_path / "a.pt", prefix, arguments)
    convert(str(tmp_path / "a.pt"), str(tmp_path / "b.pt"))
    written = torch.load(tmp_path / "b.pt", weights_only=True)
    assert written["network_def"] == arguments
    assert all(torch.equal(written["model"][k], v) for k, v in network.state_dict().items())
    assert type(load_network(str(tmp_path / "b.pt"))) is FactorisedUNet


@pytest.mark.parametrize("prefix", ["denoise_fn.", "denoise_fn.module."])
@pytest.mark.parametrize(("asked", "outside"), [(None, 255.0), (-1, -1.0)])
def test_mask_network_keeps_its_sphere_encoding(
    tmp_path: Path, prefix: str, asked: float | None, outside: float
) -> None:
    network = write_released(tmp_path / "a.pt", prefix, DIFFMASK)
    definition = convert(str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), sphere_outside=asked)
    written = torch.load(tmp_path / "b.pt", weights_only=True)
    assert definition == written["network_def"]
    assert definition == {**CONVERTED, "sphere_inside": 1.0, "sphere_outside": outside}
    assert written["model"].keys() == network.state_dict().keys()
    x_t, region = torch.randn(1, 1, 8, 8, 3), (torch.rand(1, 1, 8, 8, 3) > 0.5).float()
    as_trained = torch.cat([x_t, torch.where(region > 0, 1.0, outside)], 1)
    for path in ("a.pt", "b.pt"):
        loaded = load_network(str(tmp_path / path), sphere_outside=asked)
        assert isinstance(loaded, SphereEncodedUNet)
        with torch.no_grad():
            result = loaded(torch.cat([x_t, region], 1), torch.tensor([5]), torch.zeros(1, 16))
            assert torch.equal(result, network.eval()(as_trained, torch.tensor([5])))


def test_encoding_of_a_converted_file_can_be_changed(tmp_path: Path) -> None:
    write_released(tmp_path / "a.pt", arguments=DIFFMASK)
    convert(str(tmp_path / "a.pt"), str(tmp_path / "b.pt"))
    convert(str(tmp_path / "b.pt"), str(tmp_path / "c.pt"), sphere_outside=-1)
    for name, outside in (("b.pt", 255.0), ("c.pt", -1.0)):
        network = load_network(str(tmp_path / name))
        assert isinstance(network, SphereEncodedUNet)
        assert network.sphere_outside == outside


def test_automatic_choice_gets_the_weights_and_their_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = write_released(tmp_path / "a.pt", arguments=DIFFMASK)
    seen: list[int] = []

    def choose(network: SphereEncodedUNet, num_train_timesteps: int) -> float:
        assert torch.equal(network.init_conv.weight, original.init_conv.weight)
        seen.append(num_train_timesteps)
        return -1.0

    monkeypatch.setattr(lefusion, "choose_sphere_outside", choose)
    a, b = str(tmp_path / "a.pt"), str(tmp_path / "b.pt")
    assert main(["convert", "lefusion", a, b, "--sphere_outside", "auto"]) == 0
    assert seen == [3]
    assert "b.pt, sphere_outside -1" in capsys.readouterr().out
    assert torch.load(b, weights_only=True)["network_def"]["sphere_outside"] == -1.0


@pytest.mark.parametrize(
    ("arguments", "value", "message"),
    [
        (ARGUMENTS, 255, "needs a DiffMask checkpoint, got a network of 2 to 2 channels"),
        (ARGUMENTS, "auto", "needs a DiffMask checkpoint"),
        (DIFFMASK, "both", "must be a number or \"auto\", got 'both'"),
        (DIFFMASK, True, 'must be a number or "auto", got True'),
        (DIFFMASK, 1, r"must differ from sphere_inside, got 1\.0"),
    ],
)
def test_encoding_must_fit(tmp_path: Path, arguments: dict, value: object, message: str) -> None:
    write_released(tmp_path / "a.pt", arguments=arguments)
    with pytest.raises(ValueError, match=f"sphere_outside {message}"):
        convert(str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), sphere_outside=value)
    assert not (tmp_path / "b.pt").exists()


def test_weights_must_be_there(tmp_path: Path) -> None:
    write_released(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="state dict under 'ema', got keys"):
        load_network(str(tmp_path / "a.pt"), "ema")
    with pytest.raises(ValueError, match='weights must be "model" or "ema", got \'best\''):
        load_network(str(tmp_path / "a.pt"), "best")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be an existing file"):
        load_network(str(tmp_path / "absent.pt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be a PyTorch file of plain tensors"),
        (b"not a checkpoint at all", "must be a PyTorch file of plain tensors"),
        (b"\x80\x04\x95garbage", "must be a PyTorch file of plain tensors"),
        ({"model": Path("x")}, "plain tensors"),  # no code of a file is run
        ([1, 2], "must hold a dict, got list"),
        ({"state_dict": {}}, "state dict under 'model'"),
        ({"model": {"weight": torch.zeros(1)}}, r"must hold keys 'denoise_fn\.\*'"),
        ({"model": {"denoise_fn.weight": torch.zeros(1)}}, "must be a factorised U-Net"),
        ({"network_def": ARGUMENTS}, "state dict under 'model'"),
    ],
)
def test_wrong_content_leaves_nothing(tmp_path: Path, content: object, message: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / "a.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        convert(str(tmp_path / "a.pt"), str(tmp_path / "b.pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
