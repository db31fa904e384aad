"""MAISI's autoencoder: a file of its layout is converted, and anything else refused by name."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.bundle import ConfigParser
from torch import Tensor

from tools.cli import main
from tools.convert.fetch import fetch
from tools.convert.maisi import MAISI_AUTOENCODER, convert
from tools.networks.frozen_autoencoder import frozen_autoencoder

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "hr_ldm"
COMPUTATION = {"norm_float16", "num_splits", "dim_split", "save_mem"}
SMALL = MAISI_AUTOENCODER | {"num_channels": [8, 12, 16], "norm_num_groups": 4}


def autoencoder(definition: dict[str, Any]) -> AutoencoderKlMaisi:
    return AutoencoderKlMaisi(**definition, norm_float16=False, num_splits=1, save_mem=False)


def weights(definition: dict[str, Any] = SMALL) -> dict[str, Tensor]:
    """A state dict of the network's layout, every value different, made without its set-up."""
    with torch.device("meta"):
        layout = autoencoder(definition).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {k: 0.1 * torch.randn(v.shape, generator=generator) for k, v in layout.items()}


def write(folder: Path, content: Any) -> Path:
    path = folder / "released.pt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("wrapper", ["", "unet_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_arrive_unchanged(tmp_path: Path, wrapper: str, prefix: str) -> None:
    state = weights()
    content: Any = {f"{prefix}{name}": value for name, value in state.items()}
    if wrapper:
        content = {wrapper: content, "epoch": 273}
    definition = convert(write(tmp_path, content), tmp_path / "new" / "converted.pt", SMALL)
    assert definition == SMALL
    written = torch.load(tmp_path / "new" / "converted.pt", weights_only=True)
    assert written["network_def"] == SMALL
    assert written["model"].keys() == state.keys()
    assert all(torch.equal(written["model"][name], value) for name, value in state.items())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["converted.pt"]


@torch.no_grad()
def test_converted_network_computes_what_the_released_one_does(tmp_path: Path) -> None:
    state = weights()
    convert(write(tmp_path, state), tmp_path / "converted.pt", SMALL)
    network = frozen_autoencoder(autoencoder(SMALL), tmp_path / "converted.pt")
    released = autoencoder(SMALL).eval()
    released.load_state_dict(state)
    x = torch.rand(1, 1, 8, 8, 8)
    assert torch.equal(network.reconstruct(x), released.reconstruct(x))


def broken(state: dict[str, Tensor], name: str, value: Tensor | None) -> dict[str, Tensor]:
    state = dict(state)
    if value is None:
        del state[name]
    else:
        state[name] = value
    return state


BIAS = "decoder.blocks.0.conv.conv.bias"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (lambda s: broken(s, BIAS, None), f"network, missing 1: {BIAS}"),
        (lambda s: broken(s, "extra", torch.ones(1)), "network only, unknown 1: extra"),
        (lambda s: broken(s, BIAS, torch.ones(3)), rf"{BIAS} must have shape \(16,\), got \(3,\)"),
        (lambda s: broken(s, BIAS, torch.full((16,), torch.nan)), f"got others in 1: {BIAS}"),
        (lambda s: {"controlnet_state_dict": s}, "got keys .'controlnet_state_dict'"),
        (lambda s: {}, "network, missing"),
        (lambda s: [1], "must hold a dict, got list"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, sentence: str) -> None:
    path = write(tmp_path, content(weights()))
    with pytest.raises(ValueError, match=sentence):
        convert(path, tmp_path / "converted.pt", SMALL)
    assert not (tmp_path / "converted.pt").exists()


def test_overlay_is_the_network_of_the_file() -> None:
    config = ConfigParser.load_config_file(BUNDLE / "configs" / "published_autoencoder.json")
    arguments = {k: v for k, v in config["autoencoder_def"].items() if not k.startswith("_")}
    assert {k: v for k, v in arguments.items() if k not in COMPUTATION} == MAISI_AUTOENCODER
    # normalisation in half precision fails wherever autocast is off, on any device
    assert arguments["norm_float16"] is False
    with torch.device("meta"):
        network = AutoencoderKlMaisi(**arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == 20_944_897
    assert len(network.state_dict()) == 130


def test_fetch_puts_the_file_where_the_overlay_loads_it(tmp_path: Path) -> None:
    state = weights(MAISI_AUTOENCODER)
    released = write(tmp_path, state)
    listed = ConfigParser.load_config_file(BUNDLE / "published_weights.yml")["large_files"]
    # the real checksum is NVIDIA's; the file made here has another, which must be noticed first
    with pytest.raises(ValueError, match="hash_val must be the md5 of the file, 917cfb1e"):
        fetch(BUNDLE, out=tmp_path / "out", url=released.as_uri())
    assert not list((tmp_path / "out").rglob("*.pt"))
    mirror = tmp_path / "bundle"
    (mirror / "configs").mkdir(parents=True)
    name = "published_autoencoder.json"
    (mirror / "configs" / name).write_bytes((BUNDLE / "configs" / name).read_bytes())
    digest = hashlib.md5(released.read_bytes(), usedforsecurity=False).hexdigest()
    entry = listed[0] | {"hash_val": digest, "url": released.as_uri()}
    content = {"convert": "maisi", "large_files": [entry]}
    (mirror / "published_weights.yml").write_text(json.dumps(content))
    assert main(["fetch", str(mirror)]) == 0
    parser = ConfigParser(ConfigParser.load_config_file(mirror / "configs" / name))
    parser["bundle_root"] = str(mirror)
    with torch.device("meta"):
        network = parser.get_parsed_content("autoencoder_def")
    converted = torch.load(parser.get_parsed_content("autoencoder_path"), weights_only=True)
    assert network.load_state_dict(converted["model"], strict=True, assign=True)
    assert torch.equal(network.state_dict()[BIAS], state[BIAS])


def test_options_of_other_networks_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fetch", str(BUNDLE), "--out", str(tmp_path), "--sphere_outside", "-1"]
    assert main(words) == 1
    assert "error: sphere_outside needs a DiffMask checkpoint, got -1" in capsys.readouterr().err
