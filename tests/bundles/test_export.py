"""Export by MONAI's own commands: the file computes what the network computes."""

from pathlib import Path
from typing import Any, NamedTuple

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


class Case(NamedTuple):
    """A bundle's network with random weights everywhere, which lie in a file."""

    network: nn.Module
    arguments: dict[str, Any]
    """Of MONAI's export: files of the bundle, weights, and what makes the network small."""
    channels: int
    numbers: int


@pytest.fixture(params=NETWORKS, ids=[row[0] for row in NETWORKS])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    name, settings, channels, numbers = request.param
    folder = f"bundles/{name}/configs"
    parser = ConfigParser(ConfigParser.load_config_file(f"{folder}/inference.json"))
    for key, value in settings.items():
        parser[key] = value
    network = random_weights(parser.get_parsed_content("network_def").eval(), tmp_path / "model.pt")
    files = {"meta_file": f"{folder}/metadata.json", "config_file": f"{folder}/inference.json"}
    arguments = {**settings, **files, "ckpt_file": str(tmp_path / "model.pt")}
    return Case(network, arguments, channels, numbers)


def inputs(batch: int, case: Case, *size: int) -> dict[str, Tensor]:
    """Image, steps and conditions, the first of them without control."""
    generator = torch.Generator().manual_seed(1)
    condition = torch.rand((batch, case.numbers), generator=generator)
    condition[0] = -1
    return {
        "x": torch.randn((batch, case.channels, *size), generator=generator),
        "timesteps": torch.randint(1, 300, (batch,), generator=generator),
        "condition": condition,
    }


@torch.no_grad()
def test_torchscript_by_the_plain_command(case: Case, tmp_path: Path) -> None:
    """No option says that it is traced, no input is frozen, and both conditions may be left out."""
    network, path = case.network, str(tmp_path / "model.ts")
    ckpt_export("network_def", filepath=path, **case.arguments)
    exported, metadata, extra = load_net_with_metadata(path, more_extra_files=["inference.json"])
    assert "network_data_format" in metadata
    assert extra["inference.json"]
    for batch, size in ((1, (8, 8, 8)), (2, (12, 8, 10))):
        given = inputs(batch, case, *size)
        expected = network(**given)
        torch.testing.assert_close(exported(**given), expected)
        assert not torch.allclose(expected[:, :, 0], expected[:, :, 1])
        alone = network(given["x"])
        torch.testing.assert_close(exported(given["x"]), alone)
        assert not torch.allclose(alone, expected)


@torch.no_grad()
def test_one_tensor_means_step_zero_without_control(case: Case) -> None:
    x = inputs(2, case, 8, 8, 8)["x"]
    zero, none = torch.zeros(2, dtype=torch.int64), torch.full((2, case.numbers), -1.0)
    assert torch.equal(case.network(x), case.network(x, zero, none))


@torch.no_grad()
def test_onnx_of_the_default_network(case: Case, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"optional package {package} is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="optional package onnxruntime is missing")
    path, example = str(tmp_path / "model.onnx"), inputs(1, case, 8, 8, 8)
    x = example.pop("x")
    # the command line can name one input only: tensors cannot be written there
    options = {"use_trace": True, "input_shape": list(x.shape)}
    options["converter_kwargs"] = {"kwargs": example, "dynamo": True}
    onnx_export("network_def", filepath=path, **options, **case.arguments)
    session = runtime.InferenceSession(path)
    assert [value.name for value in session.get_inputs()] == ["x", "timesteps", "condition"]
    controlled = torch.rand((1, case.numbers), generator=torch.Generator().manual_seed(2))
    for step, condition in ((0, example["condition"]), (250, controlled)):
        given = {"x": x, "timesteps": torch.tensor([step]), "condition": condition}
        (result,) = session.run(None, {key: value.numpy() for key, value in given.items()})
        expected = case.network(**given)
        torch.testing.assert_close(torch.from_numpy(result), expected, rtol=1e-4, atol=1e-5)
