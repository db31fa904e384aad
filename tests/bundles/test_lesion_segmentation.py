"""Lesions outlined: organs and networks by overlay, synthetic lesions while it trains, figures."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from tests.bundles.runs import SEGMENTATION, raw_values, run_configs
from tools.phantoms.datasets import lesion_datalist
from tools.phantoms.heart_datasets import heart_datalist

BUNDLE = "lesion_segmentation"
FEW: dict[str, Any] = {"max_steps": 2, "epoch_length": 2, "batch_size": 2, "cache_rate": 0.0}
FEW |= {"val_every_nth_case": 8}
HEART: dict[str, Any] = {"network_def#channels": [4, 8, 8, 8], "patch_size": [48, 48, 8]}
DYNUNET: dict[str, Any] = {"network_def#filters": [4, 8, 8, 8]}
SWIN: dict[str, Any] = {"network_def#feature_size": 12, "network_def#depths": [1, 1, 1, 1]}


def parser(*names: str, **changes: Any) -> ConfigParser:
    found = ConfigParser()
    found.read_config([f"bundles/{BUNDLE}/configs/{name}.json" for name in names])
    for key, value in changes.items():
        found[key] = value
    return found


def train(names: str, out: Path, **options: Any) -> dict[str, torch.Tensor]:
    run_configs(BUNDLE, "training", names, out, **(FEW | options))
    return torch.load(out / "models" / "model.pt", weights_only=True)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ("train heart", HEART),
        ("train dynunet", DYNUNET),
        ("train heart heart_wall", {**HEART, "patch_size": [24, 24, 8]}),
        pytest.param("train heart heart_synthetic", HEART, marks=pytest.mark.slow),
        pytest.param("train swin_unetr", SWIN, marks=pytest.mark.slow),
        pytest.param(
            "train liver liver_synthetic",
            SEGMENTATION | {"patch_size": [32] * 3, "spacing_mm": [3.0] * 3},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "train liver",
            SEGMENTATION | {"patch_size": [32] * 3, "spacing_mm": [3.0] * 3},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_overlays_train(names: str, options: dict[str, Any], tmp_path: Path) -> None:
    assert train(names, tmp_path, **options)


def test_synthetic_lesions_are_what_is_learnt_from(tmp_path: Path) -> None:
    """Scans without lesions alone: without synthetic ones there would be nothing in a label."""
    config = parser("train", "synthetic", batch_size=2, texture_method="hand_crafted")
    config["train#files"], config["synthetic_steps"] = [], None
    config["synthetic_prob"], config["seed"] = 1.0, 4
    config["train#dataset#data"] = "$@normal_files[:2]"
    batches = [next(iter(config.get_parsed_content("train#dataloader"))) for _ in range(2)]
    for batch in batches:
        assert batch["image"].shape == (2, 1, 32, 32, 32)
        # 0 to 1, and brightness and contrast of 10 %
        assert -0.1 <= batch["image"].min() < batch["image"].max() <= 1.2
        assert batch["label"].unique().tolist() == [0, 1]


def test_livers_get_tumours_in_the_liver_while_training() -> None:
    names = ("train", "liver", "liver_synthetic")
    changes = {"spacing_mm": [3.0] * 3, "patch_size": [64] * 3, "batch_size": 1}
    config = parser(*names, **changes, texture_method="hand_crafted", synthetic_prob=1.0)
    config["train#files"], config["train#dataset#data"] = [], "$@normal_files[:1]"
    (before,) = config.get_parsed_content("train#dataset")
    (after,) = config.get_parsed_content("synthesize").set_random_state(0).many([before])
    tumour = after["label"] == 2
    assert tumour.any()
    assert (before["label"][tumour] == 1).all()
    assert not (after["image"] != before["image"])[~tumour].any()


def test_real_lesions_stay_and_no_others_come_by_default() -> None:
    config = parser("train", batch_size=2)
    config["train#dataset#data"] = "$@train#files[:2]"
    collate = config.get_parsed_content("train#dataloader").collate_fn
    assert collate.synthesize is None
    before = [dict(each) for each in config.get_parsed_content("train#dataset")]
    batch = collate(before)
    wanted = {int(each["label"].sum()) for each in before}
    # cubes of 32 voxels are whole patches: turned, but whole
    assert {int(label.sum()) for label in batch["label"]} == wanted


@pytest.mark.parametrize(("steps", "epochs"), [(800, 20), (40, 1), (10, 1), (95, 2)])
def test_length_is_a_number_of_steps(steps: int, epochs: int) -> None:
    assert parser("train", max_steps=steps).get_parsed_content("max_epochs") == epochs


def test_a_seed_gives_the_same_weights(tmp_path: Path) -> None:
    options = SEGMENTATION | {"val_interval": 1}
    one, again, other = (
        train("train", tmp_path / str(n), seed=seed, **options) for n, seed in enumerate((1, 1, 2))
    )
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


class Answer(torch.nn.Module):
    """Says lesion where its input is brighter than a value."""

    def __init__(self, level: float, classes: int = 2) -> None:
        super().__init__()
        self.level, self.classes = level, classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lesion = 20 * (x - self.level)
        rest = torch.full_like(x, -50).expand(-1, self.classes - 2, -1, -1, -1)
        return torch.cat([torch.zeros_like(x), rest, lesion], 1)


@pytest.fixture
def bright(tmp_path: Path) -> Path:
    """Two boxes of 8 mm on a left-handed grid of 1 x 1 x 2 mm, one of them outside the organ."""
    image, organ = np.full((40, 36, 20), -900, np.int16), np.zeros((40, 36, 20), np.uint8)
    for place in (slice(6, 14), slice(24, 32)):
        image[place, 10:18, 8:12] = 100
    label = (image > 0).astype(np.uint8)
    label[24:32] = 0
    organ[:20] = 1
    maps = {"image": image, "label": label, "organ_mask": organ}
    for name, values in maps.items():
        affine = np.diag([-1.0, 1.0, 2.0, 1.0])
        nib.save(nib.Nifti1Image(values, affine), tmp_path / f"{name}.nii.gz")
    entry = {name: f"{name}.nii.gz" for name in maps}
    (tmp_path / "datalist.json").write_text(json.dumps({"validation": [entry]}))
    return tmp_path


def workflow(names: list[str], kind: str, out: Path, **options: Any) -> ConfigWorkflow:
    made = ConfigWorkflow(
        config_file=[f"bundles/{BUNDLE}/configs/{name}.json" for name in names],
        workflow_type=kind, logging_file=False, output_dir=str(out), **options,
    )  # fmt: skip
    made.initialize()
    return made


def test_what_is_found_outside_the_organ_is_dropped(bright: Path, tmp_path: Path) -> None:
    """The figures of a perfect answer, but for the interpolation on the way to 1 mm and back."""
    options = {"dataset_dir": str(bright), "ckpt_path": "", "train#files": []}
    made = workflow(["train", "evaluate"], "train", tmp_path / "out", **options)
    handlers = [each for each in made.parser["validate#handlers"] if "Weights" not in str(each)]
    made.parser["validate#handlers"] = handlers
    made.parser["network"] = Answer(0.35)
    evaluator = made.parser.get_parsed_content("validate#evaluator")
    evaluator.run()
    assert raw_values(tmp_path / "out", "dice") > 0.9
    assert raw_values(tmp_path / "out", "nsd") == 1.0
    figures = evaluator.state.metrics
    assert [figures[name] for name in ("sensitivity", "false_per_case")] == [1.0, 0.0]


def test_inference_writes_on_the_grid_of_the_scan(bright: Path, tmp_path: Path) -> None:
    options = {"dataset_dir": str(bright), "handlers": []}
    made = workflow(["inference"], "inference", tmp_path / "out", **options)
    made.parser["network"] = Answer(0.35)
    made.parser.get_parsed_content("evaluator").run()
    (path,) = (tmp_path / "out").glob("*_lesion.nii.gz")
    found, given = nib.load(path), nib.load(bright / "label.nii.gz")
    assert np.allclose(found.affine, given.affine)
    assert found.get_data_dtype() == np.uint8
    mask, wanted = (np.asarray(each.dataobj) > 0 for each in (found, given))
    assert 2 * (mask & wanted).sum() / (mask.sum() + wanted.sum()) > 0.9
    assert not mask[20:].any()


class SecondChannel(torch.nn.Module):
    """Says infarct where its second channel is bright."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == 2
        infarct = 20 * (x[:, 1:] - 0.5)
        rest = torch.full_like(infarct, -50)
        return torch.cat([torch.zeros_like(infarct), rest, rest, infarct, rest], 1)


def test_a_wall_that_is_given_is_shown_to_the_network(tmp_path: Path) -> None:
    entry = heart_datalist("", "validation")[0]
    label = nib.load(entry["label"])
    wall = np.isin(np.asarray(label.dataobj), [2, 3, 4])
    path = tmp_path / "wall.nii.gz"
    nib.save(nib.Nifti1Image(wall.astype(np.uint8), label.affine), path)
    files = [{"image": entry["image"], "organ_mask": str(path)}]
    names = ["inference", "heart_inference", "heart_wall_inference"]
    made = workflow(names, "inference", tmp_path / "out", files=files, handlers=[])
    made.parser["network"] = SecondChannel()
    made.parser.get_parsed_content("evaluator").run()
    (found,) = (tmp_path / "out").glob("*_lesion.nii.gz")
    mask = np.asarray(nib.load(found).dataobj) == 3
    # on voxels of 2 mm and back
    assert 2 * (mask & wall).sum() / (mask.sum() + wall.sum()) > 0.8
    assert not mask[~wall].any()


def test_phantom_evaluation_has_a_figure_for_each_lesion_class(tmp_path: Path) -> None:
    weights = tmp_path / "model.pt"
    torch.save(parser("train").get_parsed_content("network_def").state_dict(), weights)
    options = {"ckpt_path": str(weights), "val_every_nth_case": 4, "train#files": []}
    run_configs(BUNDLE, "evaluating", "train evaluate", tmp_path, **options)
    cases = len(lesion_datalist("", "validation")[::4])
    for name in ("dice", "nsd"):
        values = raw_values(tmp_path, name)
        assert len(values) == cases
        assert ((values >= 0) & (values <= 1)).all()
