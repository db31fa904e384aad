"""Each training on the phantom, one epoch long: it shows its loss, leaves weights, says where."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, run

UNET = {"network_def#channels": [8, 16, 16], "validate#inferer#num_inference_steps": 2}
LATENT = {
    "window_size": [48, 48, 48],
    "variants": 1,
    "autoencoder_path": "",
    "autoencoder_def#num_channels": [8, 8, 16],
    "network_def#network#num_channels": [8, 16, 16],
    "network_def#network#norm_num_groups": 8,
    "network_def#network#num_head_channels": [0, 8, 8],
    "validate#inferer#sampler#num_inference_steps": 2,
    "validate#inferer#fewest_steps": 2,
}
AUTOENCODER = {"window_size": [16, 16, 16], "autoencoder_def#num_channels": [8, 8, 16]}
TRAININGS = [
    ("lefusion_lidc/configs/train.json", UNET, "model.pt", "loss="),
    ("lefusion_emidec/configs/train.json", UNET, "model.pt", "loss="),
    ("diffmask/configs/train.json", UNET, "model.pt", "loss="),
    ("hr_ldm/configs/train.json", LATENT, "model.pt", "loss="),
    ("hr_ldm/configs/train_autoencoder.json", AUTOENCODER, "autoencoder.pt", "discriminator="),
]


@pytest.fixture(autouse=True)
def at_repository_root(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


@pytest.mark.parametrize(("config", "small", "weights", "loss"), TRAININGS)
def test_loss_is_shown_and_the_last_line_names_the_weights(
    config: str,
    small: dict[str, Any],
    weights: str,
    loss: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO)
    few = {"max_epochs": 1, "batch_size": 2, "val_every_nth_case": 8}
    few |= {"train#trainer#epoch_length": 2, "output_dir": str(tmp_path)}
    run("training", config_file=f"bundles/{config}", logging_file=False, **few, **small)
    assert loss in capfd.readouterr().err
    assert f"weights: {tmp_path / 'models' / weights}; " in caplog.messages[-1]
    assert f"curves: tensorboard --logdir {tmp_path}" in caplog.messages[-1]
    assert torch.load(tmp_path / "models" / weights, weights_only=True)


@pytest.mark.parametrize("key", ["max_epochs", "train#trainer#max_epochs"])  # ours, and MONAI's
@pytest.mark.parametrize("config", [training[0] for training in TRAININGS])
def test_schedules_follow_the_number_of_epochs(config: str, key: str) -> None:
    parser = ConfigParser()
    parser.read_config(f"bundles/{config}")
    parser[key] = 1
    handlers = [each for each in parser["train#handlers"] if isinstance(each, dict)]
    (validation,) = (each for each in handlers if each["_target_"] == "ValidationHandler")
    follow = [parser["lr_scheduler#T_max"], parser["train#start_point#max_epochs"]]
    for text in [*follow, validation["interval"]]:
        parser["asked"] = text
        assert parser.get_parsed_content("asked") == 1
