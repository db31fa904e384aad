"""Export by MONAI's own commands: the file computes what the network computes."""

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, onnx_export
from monai.data import load_net_with_metadata
from torch import Tensor, nn

from tests.bundles.runs import random_weights

SMALL = {"network_def#channels": [8, 16]}
SMALL_MAISI = {
    "network_def#network#num_res_blocks": [1, 1],
    "network_def#network#num_channels": [16, 32],
    "network_def#network#attention_levels": [False, True],
    "network_def#network#num_head_channels": [0, 16],
}
# name, settings for a network that is built in no time, channels of the image and the condition
NETWORKS = [
    ("lefusion_lidc", SMALL, 2, 16),
    ("lefusion_emidec", SMALL, 4, 32),
    ("diffmask", SMALL, 2, 16),
    ("hr_ldm", SMALL_MAISI, 68, 41),
]
parametrised = pytest.mark.parametrize(
    ("name", "settings", "channels", "numbers"), NETWORKS, ids=[row[0] for row in NETWORKS]
)


def files(name: str) -> dict[str, str]:
    folder = f"bundles/{name}/configs"
    return {"meta_file": f"{folder}/metadata.json", "config_file": f"{folder}/inference.json"}


def saved(name: str, settings: dict, path: Path) -> nn.Module:
    """The network of a bundle with random weights everywhere, written to a file."""
    parser = ConfigParser(ConfigParser.load_config_file(files(name)["config_file"]))
    for key, value in settings.items():
        parser[key] = value
    return random_weights(parser.get_parsed_content("network_def").eval(), path)


def inputs(batch: int, channels: int, numbers: int, *size: int) -> dict[str, Tensor]:
    """Image, steps and conditions, the first of them without control."""
    generator = torch.Generator().manual_seed(1)
    condition = torch.rand((batch, numbers), generator=generator)
    condition[0] = -1
    return {
        "x": torch.randn((batch, channels, *size), generator=generator),
        "timesteps": torch.randint(1, 300, (batch,), generator=generator),
        "condition": condition,
    }


@parametrised
@torch.no_grad()
def test_torchscript_by_the_plain_command(
    name: str, settings: dict, channels: int, numbers: int, tmp_path: Path
) -> None:
    """No option says that it is traced, no input is frozen, and both conditions may be left out."""
    network = saved(name, settings, tmp_path / "model.pt")
    paths = {"filepath": str(tmp_path / "model.ts"), "ckpt_file": str(tmp_path / "model.pt")}
    ckpt_export("network_def", **paths, **files(name), **settings)
    exported, metadata, extra = load_net_with_metadata(
        paths["filepath"], more_extra_files=["inference.json"]
    )
    assert "network_data_format" in metadata
    assert extra["inference.json"]
    for batch, size in ((1, (8, 8, 8)), (2, (12, 8, 10))):
        given = inputs(batch, channels, numbers, *size)
        expected = network(**given)
        torch.testing.assert_close(exported(**given), expected)
        assert not torch.allclose(expected[:, :, 0], expected[:, :, 1])
        alone = network(given["x"])
        torch.testing.assert_close(exported(given["x"]), alone)
        assert not torch.allclose(alone, expected)


@parametrised
@torch.no_grad()
def test_one_tensor_means_step_zero_without_control(
    name: str, settings: dict, channels: int, numbers: int, tmp_path: Path
) -> None:
    network = saved(name, settings, tmp_path / "model.pt")
    x = inputs(2, channels, numbers, 8, 8, 8)["x"]
    zero, none = torch.zeros(2, dtype=torch.int64), torch.full((2, numbers), -1.0)
    assert torch.equal(network(x), network(x, zero, none))


@parametrised
@torch.no_grad()
def test_onnx_of_the_default_network(
    name: str, settings: dict, channels: int, numbers: int, tmp_path: Path
) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"optional package {package} is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="optional package onnxruntime is missing")
    network = saved(name, settings, tmp_path / "model.pt")
    paths = {"filepath": str(tmp_path / "model.onnx"), "ckpt_file": str(tmp_path / "model.pt")}
    example = inputs(1, channels, numbers, 8, 8, 8)
    x = example.pop("x")
    # the command line can name one input only: tensors cannot be written there
    options = {"use_trace": True, "input_shape": list(x.shape)}
    options["converter_kwargs"] = {"kwargs": example, "dynamo": True}
    onnx_export("network_def", **paths, **files(name), **options, **settings)
    session = runtime.InferenceSession(paths["filepath"])
    assert [value.name for value in session.get_inputs()] == ["x", "timesteps", "condition"]
    controlled = torch.rand((1, numbers), generator=torch.Generator().manual_seed(2))
    for step, condition in ((0, example["condition"]), (250, controlled)):
        given = {"x": x, "timesteps": torch.tensor([step]), "condition": condition}
        (result,) = session.run(None, {key: value.numpy() for key, value in given.items()})
        torch.testing.assert_close(torch.from_numpy(result), network(**given), rtol=1e-4, atol=1e-5)
