"""Trainings that go on from weights: one process or many, they begin with the weights named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

TRAININGS = [
    ("diffmask", "train.json", "multi_gpu_train.json", "model.pt"),
    ("difftumor", "train.json", "multi_gpu_train.json", "model.pt"),
    ("difftumor", "train_autoencoder.json", "multi_gpu_autoencoder.json", "autoencoder.pt"),
    ("hr_ldm", "train.json", "multi_gpu_train.json", "model.pt"),
    ("hr_ldm", "train_autoencoder.json", "multi_gpu_autoencoder.json", "autoencoder.pt"),
    ("lefusion_emidec", "train.json", "multi_gpu_train.json", "model.pt"),
    ("lefusion_lidc", "train.json", "multi_gpu_train.json", "model.pt"),
    ("lesion_segmentation", "train.json", "multi_gpu_train.json", "model.pt"),
    ("nodule_classification", "train.json", "multi_gpu_train.json", "model.pt"),
]


@pytest.mark.parametrize(("bundle", "config", "overlay", "weights"), TRAININGS)
def test_a_training_begins_with_the_weights_that_it_is_given(
    bundle: str,
    config: str,
    overlay: str,
    weights: str,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = repository / "bundles" / bundle
    path = folder / "models" / weights
    monkeypatch.chdir(repository)
    monkeypatch.setenv("LOCAL_RANK", "0")  # as torchrun does
    parser = ConfigParser()
    parser.read_config(folder / "configs" / config)
    parser["start_weights"] = str(path)
    parser["device"] = "$torch.device('cpu')"
    alone = parser.get_parsed_content("network").state_dict()
    # what each of several processes wraps
    parser["network"] = json.loads((folder / "configs" / overlay).read_text())["network"]["module"]
    parser.parse(True)
    wrapped = parser.get_parsed_content("network").state_dict()
    for name, value in torch.load(path, weights_only=True).items():
        assert torch.equal(alone[name], value.to(alone[name].dtype))
        assert torch.equal(wrapped[name], alone[name])
