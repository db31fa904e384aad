"""The learned baselines: other overlays, the same path, from training to a data set."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from tests.bundles.runs import FEW_STEPS, LATENT, SHORT, TINY, TINY_LATENT, run_configs
from tests.synthesis.test_run import write_scans
from tools.bundle import read_configs
from tools.cli import main
from tools.synthesis.arrays import LEARNED

SMALL: dict[str, Any] = {"network_def#channels": TINY}
METHODS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "repaint": ("lefusion_lidc", SMALL | FEW_STEPS, SMALL),
    "cond_diffusion": ("lefusion_lidc", SMALL | FEW_STEPS, SMALL),
    "cond_diffusion_latent": ("hr_ldm", LATENT, TINY_LATENT),
}


@pytest.mark.parametrize("name", LEARNED)
def test_baselines_train_and_draw(name: str, tmp_path: Path) -> None:
    bundle, training, inference = METHODS[name]
    few = training | SHORT | {"val_every_nth_case": 100}
    run_configs(bundle, "training", f"train {name}", tmp_path, **few)
    best = tmp_path / "models" / "model.pt"
    assert not any("histogram" in key for key in torch.load(best, weights_only=True))
    one = {"ckpt_path": str(best), "dataset#data": "$@files[:1]"}
    one |= {"displayable_configs#num_inference_steps": 2} | inference
    if bundle == "hr_ldm":
        one |= {"inferer#inferer#fewest_steps": 2}
    run_configs(bundle, "inference", f"inference {name}_inference", tmp_path / "out", **one)
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1


@pytest.mark.parametrize("name", LEARNED)
def test_the_loss_covers_the_whole_window(name: str) -> None:
    bundle, training, _ = METHODS[name]
    parser = ConfigParser()
    parser.read_config([f"bundles/{bundle}/configs/{each}.json" for each in ("train", name)])
    for key, value in training.items():
        parser[key] = value
    batch = {"image": torch.rand(1, 1, 48, 48, 48), "label": torch.zeros(1, 1, 48, 48, 48)}
    batch["label"][..., 20:24, 20:24, 20:24] = 1
    batch |= {"latents": torch.rand(1, 4, 12, 12, 12), "shown": torch.zeros(1, 4, 12, 12, 12)}
    inputs, target, _, keywords = parser.get_parsed_content("train#prepare_batch")(batch)
    network = parser.get_parsed_content("network_def")
    for parameter in network.parameters():  # the last layer starts at 0
        parameter.data = parameter.data + 0.01
    inferer = parser.get_parsed_content("train#inferer")
    predicted = inferer(inputs, network, **keywords)
    predicted.retain_grad()
    parser.get_parsed_content("loss")(predicted, target).backward()
    assert predicted.grad is not None
    assert (predicted.grad != 0).float().mean() > 0.99


@pytest.mark.parametrize("name", LEARNED)
def test_baselines_are_methods_of_synthesize(name: str, tmp_path: Path) -> None:
    bundle, _, inference = METHODS[name]
    few = {key: value for key, value in inference.items() if key.startswith("network_def")}
    if bundle == "hr_ldm":
        few |= {"inferer#inferer#fewest_steps": 2}
    root = tmp_path / bundle
    shutil.copytree(Path("bundles", bundle, "configs"), root / "configs")
    (root / "models").symlink_to(Path("bundles", bundle, "models").resolve())
    small = ConfigParser()
    small.read_config(root / "configs" / "inference.json")
    for key, value in few.items():
        small[key] = value
    (root / "configs" / "inference.json").write_text(json.dumps(small.get()))
    names = ["inference.json", f"{name}_inference.json"]
    network = read_configs(root / "configs", names).get_parsed_content("network_def")
    torch.save(network.state_dict(), tmp_path / "w.pt")
    scans = write_scans(tmp_path / "scans", ("a",))
    words = ["--scan", str(scans), "--out", str(tmp_path / "out"), "--bundle", str(root)]
    words += ["--method", name, "--weights", str(tmp_path / "w.pt"), "--count", "1"]
    words += ["--diameter_mm", "6", "--shape", "ellipsoid", "--device", "cpu", "--steps", "2"]
    assert main(["synthesize", *words]) == 0
    record = json.loads((tmp_path / "out" / "a" / "lesions.json").read_text())
    (lesion,) = record["lesions"]
    assert lesion["sampler"]["method"] == name
    assert lesion["attempts"] == 1  # nothing is asked for that could be missed
    assert lesion["texture"] == "none"
