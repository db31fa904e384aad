"""A bundle of shapes in walls, tiny and untrained."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tools.networks.lesion_unet import LesionUNet


@pytest.fixture(scope="session")
def make_wall_bundle(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[float], Path]:
    """A writer of bundles like the cardiac ``diffmask``: all in or all out, by its bias."""

    def write(bias: float) -> Path:
        folder = tmp_path_factory.mktemp("walls") / "tiny_walls"
        for name in ("configs", "models"):
            (folder / name).mkdir(parents=True)
        for name in ("inference.json", "cardiac_inference.json"):
            text = (repository / "bundles/diffmask/configs" / name).read_text(encoding="utf-8")
            config = json.loads(text) | {"prediction_type": "sample", "amp_dtype": None}
            config["displayable_configs"]["num_inference_steps"] = 2
            config["network_def"]["channels"] = [8, 16, 16]
            (folder / "configs" / name).write_text(json.dumps(config), encoding="utf-8")
        definition = {k: v for k, v in config["network_def"].items() if not k.startswith("_")}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = LesionUNet(**definition)
        nn.init.constant_(network.output[-1].bias, bias)  # type: ignore[arg-type]
        torch.save(network.state_dict(), folder / "models" / "model_cardiac.pt")
        return folder

    return write
