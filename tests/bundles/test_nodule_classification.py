"""Nodules classified: balance, overlays, weights of another task, figures that are right."""

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.networks.nets import DenseNet

from tests.bundles.runs import CLASSIFICATION, run_configs
from tools.bundle import start_network
from tools.phantoms.datasets import lesion_datalist, rated_datalist

BUNDLE = "nodule_classification"
FEW: dict[str, Any] = {"max_steps": 2, "epoch_length": 2, "batch_size": 4}


def parser(*names: str, **changes: Any) -> ConfigParser:
    found = ConfigParser()
    found.read_config([f"bundles/{BUNDLE}/configs/{name}.json" for name in names])
    for key, value in changes.items():
        found[key] = value
    return found


def rated(folder: Path, ratings: list[float | None], section: str = "validation") -> Path:
    """Nodules whose brightness goes with their malignancy, some of them not rated."""
    folder.mkdir(exist_ok=True)
    rng, entries = np.random.default_rng(0), []
    for number, rating in enumerate(ratings):
        label = np.zeros((36, 36, 30), np.uint8)
        label[20:26, 8:14, 12:18] = 1
        image = np.where(label > 0, -600 + 120 * (rating or 0), -850) + rng.normal(
            0, 20, label.shape
        )
        entry: dict[str, Any] = {"patient": f"p{number}", "ratings": {"malignancy": rating}}
        for key, values in (("image", image.astype(np.int16)), ("label", label)):
            entry[key] = f"n{number}_{key}.nii.gz"
            nib.save(nib.Nifti1Image(values, np.diag([-1.0, 1, 1, 1])), folder / entry[key])
        entries.append(entry)
    (folder / "datalist.json").write_text(json.dumps({"training": entries, section: entries}))
    return folder


def test_classes_are_drawn_equally_often() -> None:
    config = parser("train", batch_size=8, epoch_length=12)
    config["train#dataset#transform"] = None
    files = rated_datalist("", "training", "texture", config["rating_classes"])
    solid = [each for each in files if each["texture"] == "solid"]
    others = (next(e for e in files if e["texture"] == t) for t in config["class_names"][1:])
    rare = [*solid, *others]
    config["train#files"] = rare
    torch.manual_seed(0)
    drawn = [rare[k]["texture"] for k in config.get_parsed_content("train#sampler")]
    assert len(drawn) == 96
    assert all(22 <= drawn.count(name) <= 42 for name in config["class_names"])


def test_a_patch_has_the_nodule_in_its_middle(tmp_path: Path) -> None:
    changes = {"dataset_dir": str(rated(tmp_path, [5.0])), "rating": "malignancy"}
    config = parser("train", "malignancy", **changes)
    sample = config.get_parsed_content("validate#dataset")[0]
    assert sample["image"].shape == (1, 32, 32, 32)
    assert sample["label"] == 1
    bright = np.argwhere(np.asarray(sample["image"][0]) > 0.5)
    assert (bright.min(0) + bright.max(0) + 1).tolist() == [32, 32, 32]
    assert sample["filename_or_obj"].endswith("n0_image.nii.gz")


@pytest.mark.parametrize("names", ["train densenet121", "train"])
def test_overlays_train(names: str, tmp_path: Path) -> None:
    size = (
        {"patch_size": [32] * 3, "network_def#init_features": 8}
        if "121" in names
        else CLASSIFICATION
    )
    run_configs(BUNDLE, "training", names, tmp_path, **FEW, **size)
    saved = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert saved["class_layers.out.weight"].shape[0] == 3


def test_malignancy_begins_with_the_weights_of_subtypes(tmp_path: Path) -> None:
    data = rated(tmp_path / "data", [1.0, 2.0, 3.0, 4.5, 5.0, None])
    config = parser("train", "malignancy", dataset_dir=str(data))
    files = config.get_parsed_content("train#files")
    assert [each["malignancy"] for each in files] == [1.0, 2.0, 4.5, 5.0]
    network = config.get_parsed_content("network")
    shipped = torch.load(f"bundles/{BUNDLE}/models/model.pt", weights_only=True)
    state = network.state_dict()
    head = "class_layers.out"
    assert state[f"{head}.weight"].shape[0] == 2
    assert all(torch.equal(state[k], v) for k, v in shipped.items() if not k.startswith(head))
    with pytest.raises(ValueError, match="weights must be those of this network"):
        start_network(network, f"bundles/{BUNDLE}/models/model.pt", anew=["features.conv0"])
    with pytest.raises(ValueError, match="anew must name layers"):
        start_network(network, f"bundles/{BUNDLE}/models/model.pt", anew=["none"])


def test_datasets_without_ratings_are_refused() -> None:
    with pytest.raises(ValueError, match="a rating of malignancy in section training, got none"):
        rated_datalist("", "training", "malignancy", {"benign": [1, 2], "malignant": [4, 5]})


class Brightness(DenseNet):
    """Says malignant where the middle of the patch is bright."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        middle = x[:, 0, 14:18, 14:18, 14:18].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(middle), 20 * (middle - 0.5)], 1)


def test_evaluation_and_inference_write_figures_and_probabilities(tmp_path: Path) -> None:
    data = rated(tmp_path / "data", [1.0, 2.0, 4.0, 5.0, 3.0])
    names = [
        f"bundles/{BUNDLE}/configs/{name}.json" for name in ("train", "malignancy", "evaluate")
    ]
    names.append(f"bundles/{BUNDLE}/configs/malignancy_evaluate.json")
    made = ConfigWorkflow(
        config_file=names, workflow_type="train", logging_file=False, dataset_dir=str(data),
        output_dir=str(tmp_path / "out"), ckpt_path="", **{"train#files": []},
    )  # fmt: skip
    made.initialize()
    handlers = [each for each in made.parser["validate#handlers"] if "Weights" not in str(each)]
    made.parser["validate#handlers"] = handlers
    made.parser["network"] = Brightness(3, 1, 2, 4, 4, (1,))
    evaluator = made.parser.get_parsed_content("validate#evaluator")
    evaluator.run()
    assert evaluator.state.metrics["auroc"] == evaluator.state.metrics["auprc_malignant"] == 1
    rows = list(csv.reader((tmp_path / "out" / "predictions.csv").open()))
    assert [Path(row[0]).name[:2] for row in rows] == ["n0", "n1", "n2", "n3"]
    shares = np.array([[float(cell) for cell in row[1:]] for row in rows])
    assert np.allclose(shares.sum(1), 1)
    assert (np.diff(shares[:, 1]) > 0).all()


def test_phantom_inference_has_a_row_for_each_scan(tmp_path: Path) -> None:
    run_configs(BUNDLE, "inference", "inference", tmp_path)
    rows = list(csv.reader((tmp_path / "predictions.csv").open()))
    assert [row[0] for row in rows] == [each["image"] for each in lesion_datalist("", "validation")]
    assert {len(row) for row in rows} == {4}


def test_phantom_evaluation_has_a_figure_for_each_class(tmp_path: Path) -> None:
    run_configs(BUNDLE, "evaluating", "train evaluate", tmp_path)
    with (tmp_path / "metrics.csv").open() as stream:
        names = [line.split(",")[0] for line in stream]
    classes = ("solid", "part_solid", "ground_glass")
    wanted = [f"{key}_{name}" for key in ("auroc", "auprc") for name in classes]
    assert set(wanted) | {"auroc", "auprc"} <= set(names)
