"""Old weights in MONAI's networks: same output, and every silent trap an error.

The old state dicts are made here, from new networks and the names that MONAI's loader asks for.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from torch import Tensor, nn

from tools.cli import main
from tools.convert.monai_generative import load_old_weights

DENOISER = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "channels": [8, 8],
    "num_res_blocks": 1,
    "attention_levels": [False, True],
    "norm_num_groups": 4,
    "num_head_channels": 4,
    "include_fc": False,
}
CONDITIONED = {"with_conditioning": True, "cross_attention_dim": 4, "include_fc": True}
AUTOENCODER = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "channels": [8, 8],
    "latent_channels": 2,
    "num_res_blocks": [1, 1],
    "attention_levels": [False, False],
    "norm_num_groups": 4,
    "with_encoder_nonlocal_attn": True,
    "with_decoder_nonlocal_attn": True,
    "include_fc": False,
    "use_convtranspose": False,
}


def seeded(network: nn.Module) -> nn.Module:
    """All parameters random: MONAI starts some layers at zero, where nothing would show."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def old_names(network: nn.Module) -> dict[str, Tensor]:
    """The state dict as the old package wrote it, its unused ``proj_attn`` included."""
    old = {}
    for name, value in network.state_dict().items():
        name = name.replace(".postconv.", ".conv.").replace(".out_proj.", ".to_out.0.")
        if ".attn.to_" in name:
            name = name.replace(".attn.to_", ".to_")
            if ".to_q." in name:
                old[name.replace(".to_q.", ".proj_attn.")] = torch.randn_like(value)
        old[name] = value.clone()
    return old


def denoiser(**changes: Any) -> DiffusionModelUNet:
    return DiffusionModelUNet(**{**DENOISER, **changes})


def autoencoder(**changes: Any) -> AutoencoderKL:
    return AutoencoderKL(**{**AUTOENCODER, **changes})


def write(folder: Path, state: dict, target: str, arguments: dict[str, Any]) -> list[str]:
    """Files for the command, and its words."""
    torch.save(state, folder / "old.pt")
    config = {"_target_": f"monai.networks.nets.{target}", **arguments}
    (folder / "net.json").write_text(json.dumps(config))
    command = ["convert", "monai_generative", str(folder / "old.pt"), str(folder / "new.pt")]
    return [*command, "--config", str(folder / "net.json")]


@pytest.mark.parametrize("changes", [{}, CONDITIONED], ids=["plain", "conditioned"])
@torch.no_grad()
def test_denoiser_gives_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    network = seeded(denoiser(**changes))
    old = old_names(network)
    assert old.keys() != network.state_dict().keys()
    assert main(write(tmp_path, old, "DiffusionModelUNet", {**DENOISER, **changes})) == 0
    other = denoiser(**changes).eval()
    other.load_state_dict(torch.load(tmp_path / "new.pt", weights_only=True))
    x, timesteps = torch.randn(2, 1, 8, 8), torch.tensor([3, 500])
    context = torch.randn(2, 3, 4) if changes else None
    assert torch.equal(other(x, timesteps, context), network(x, timesteps, context))


@pytest.mark.parametrize("key", ["", "unet"])
@torch.no_grad()
def test_autoencoder_gives_the_same(tmp_path: Path, key: str) -> None:
    network = seeded(autoencoder())
    old = {f"module.{name}": value for name, value in old_names(network).items()}
    state = {key: old, "epoch": 3} if key else old
    words = write(tmp_path, state, "AutoencoderKL", AUTOENCODER)
    assert main([*words, "--key_in_ckpt", key] if key else words) == 0
    other = autoencoder().eval()
    other.load_state_dict(torch.load(tmp_path / "new.pt", weights_only=True))
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(other.reconstruct(x), network.reconstruct(x))


def test_given_weights_are_left_as_they_are() -> None:
    old = old_names(seeded(autoencoder()))
    copy = dict(old)
    load_old_weights(autoencoder(), old)
    assert old.keys() == copy.keys()
    assert all(torch.equal(old[name], copy[name]) for name in old)


@pytest.mark.parametrize(
    ("make", "trained", "changes", "message"),
    [
        (denoiser, {}, {"include_fc": True}, "include_fc must be false .* got true"),
        (autoencoder, {}, {"include_fc": True}, "include_fc must be false .* got true"),
        (denoiser, CONDITIONED, {"include_fc": False}, "include_fc must be true .* got false"),
        (autoencoder, {}, {"use_convtranspose": True}, "use_convtranspose must be fal.* got true"),
    ],
)
def test_arguments_of_another_network_are_refused(
    make: Any, trained: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    old = old_names(seeded(make(**trained)))
    network = make(**{**trained, **changes})
    network.load_old_state_dict(dict(old))  # MONAI says nothing: that is the trap
    with pytest.raises(ValueError, match=message):
        load_old_weights(network, old)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_levels": [False, False]}, "must have every tensor .* missing"),
        ({"in_channels": 2}, r"size mismatch for conv_in\.conv\.weight"),
    ],
)
def test_weights_of_another_network_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_old_weights(denoiser(), old_names(seeded(denoiser(**changes))))


@pytest.mark.parametrize("stated", [None, True])
def test_upsampling_must_be_stated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stated: bool | None
) -> None:
    arguments = {k: v for k, v in AUTOENCODER.items() if k != "use_convtranspose"}
    arguments |= {} if stated is None else {"use_convtranspose": stated}
    old = old_names(autoencoder())
    assert main(write(tmp_path, old, "AutoencoderKL", arguments)) == 1
    assert "use_convtranspose must be stated as false" in capsys.readouterr().err
    assert not (tmp_path / "new.pt").exists()


def test_parameter_without_weights_is_refused() -> None:
    old = old_names(seeded(denoiser()))
    del old["conv_in.conv.bias"]
    denoiser().load_old_state_dict(dict(old))
    with pytest.raises(ValueError, match=r"parameters without weights, 1: conv_in\.conv\.bias$"):
        load_old_weights(denoiser(), old)
    new = seeded(denoiser()).state_dict()  # names agree, one is missing
    del new["conv_in.conv.bias"]
    with pytest.raises(ValueError, match=r"missing 1: conv_in\.conv\.bias$"):
        load_old_weights(denoiser(), new)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("class_embedding.weight", 1.0, r"without a place, 1: class_embedding\.weight$"),
        ("conv_in.conv.bias", torch.nan, r"finite numbers, got others in 1: conv_in\.conv\.bias"),
    ],
)
def test_tensors_that_nothing_can_use_are_refused(name: str, value: float, message: str) -> None:
    old = {**old_names(seeded(denoiser())), name: torch.full((8,), value)}
    denoiser().load_old_state_dict(dict(old))
    with pytest.raises(ValueError, match=message):
        load_old_weights(denoiser(), old)


@pytest.mark.parametrize(
    ("state", "options", "sentence"),
    [
        ({"unet": {"a": torch.ones(1)}}, [], "(else give key_in_ckpt), got keys ['unet']"),
        ({"a": torch.ones(1)}, ["--key_in_ckpt", "b"], "key_in_ckpt must be a key of"),
        ({}, [], "checkpoint must hold tensors, got none"),
        ({"a": torch.ones(1)}, ["--config", "absent.json"], "config must be an existing file"),
    ],
)
def test_faulty_input_is_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    state: dict,
    options: list[str],
    sentence: str,
) -> None:
    words = write(tmp_path, state, "DiffusionModelUNet", DENOISER)
    assert main([*(words[:-2] if "--config" in options else words), *options]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"other": 1}, "net_id must be the key of a network"),
        ({"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}, "got Linear"),
        ({"_target_": "monai.networks.nets.DiffusionModelUNet"}, "config must make a network"),
    ],
)
def test_config_must_name_a_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: dict, sentence: str
) -> None:
    words = write(tmp_path, {"a": torch.ones(1)}, "DiffusionModelUNet", DENOISER)
    (tmp_path / "net.json").write_text(json.dumps(config))
    assert main(words) == 1
    assert sentence in capsys.readouterr().err
