"""hr_ldm on the phantom, with an autoencoder of random weights: trains, evaluates, draws."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from scipy import ndimage

from tests.bundles.runs import CROPS, FEW_LATENT_STEPS, SHORT, TINY_LATENT, raw_values, written
from tools.losses import HistogramRegularizedLoss
from tools.phantoms.datasets import lesion_datalist

BUNDLE = "bundles/hr_ldm"
TINY = TINY_LATENT | {"device": "cpu", "seed": 0}


def workflow(kind: str, *names: str, **options: Any) -> ConfigWorkflow:
    found = ConfigWorkflow(
        workflow_type=kind,
        config_file=[f"{BUNDLE}/configs/{name}" for name in names],
        meta_file=f"{BUNDLE}/configs/metadata.json",
        logging_file=False,
        **(TINY | options),
    )
    found.initialize()
    return found


@pytest.fixture(scope="module")
def trained(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Folder of a training of two iterations, and what it logged last."""
    folder = tmp_path_factory.mktemp("hr_ldm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        run = workflow(
            "train",
            "train.json",
            output_dir=str(folder),
            last_timestep=None,
            val_every_nth_case=4,
            **(CROPS | FEW_LATENT_STEPS | SHORT),
        )
        run.run()
        loss = run.parser.get_parsed_content("loss")
        trainer = run.parser.get_parsed_content("train#trainer")
        seen = {"loss": loss, "last": trainer.state.output[0]["loss"]}
    return folder, seen


@pytest.mark.slow
def test_the_loss_knows_the_ranges_of_the_features(trained: tuple[Path, dict[str, Any]]) -> None:
    _, seen = trained
    assert isinstance(seen["loss"], HistogramRegularizedLoss)
    ranges = seen["loss"].ranges
    # block 5 is the last before the second upsampling: as many channels as the middle level
    assert ranges.shape == (8, 2)
    assert (ranges[:, 1] > ranges[:, 0]).all()
    assert np.isfinite(float(seen["last"]))


@pytest.mark.slow
def test_inference_changes_the_lesion_and_nothing_beyond_the_margin(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run = workflow(
        "inference",
        "inference.json",
        ckpt_path=str(trained[0] / "models" / "model.pt"),
        output_dir=str(tmp_path),
        **{
            "dataset#data": "$@files[:2]",
            "inferer#inferer#fewest_steps": 2,
            "displayable_configs#num_inference_steps": 2,
        },
    )
    run.run()
    for entry in lesion_datalist("", "validation")[:2]:
        before, label, output = written(entry, tmp_path)
        inside = label > 0
        far = ndimage.distance_transform_edt(~inside) >= 2  # voxels of 1 mm
        assert np.array_equal(output[far], before[far])
        assert (output[inside] != before[inside]).mean() > 0.9


@pytest.mark.slow
def test_evaluation_reports_its_measures(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run = workflow(
        "train",
        "train.json",
        "evaluate.json",
        ckpt_path=str(trained[0] / "models" / "model.pt"),
        output_dir=str(tmp_path),
        num_inference_steps=2,
        val_every_nth_case=4,
        **(CROPS | {"validate#inferer#fewest_steps": 2}),
    )
    run.run()
    for name in ("histogram_jsd", "histogram_w1_hu", "changed_beyond_margin"):
        values = raw_values(tmp_path, name)
        assert len(values) == 2
    assert (values == 0).all()


def test_the_published_sizes_are_those_of_the_paper() -> None:
    parser = ConfigParser()
    parser.read_config([f"{BUNDLE}/configs/{name}" for name in ("train.json", "published.json")])
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    count = sum(weight.numel() for weight in network.parameters())
    assert 190e6 < count < 210e6
    assert network.network.conv_in.conv.weight.shape == (64, 5, 3, 3, 3)


def test_presets_and_condition_have_the_same_bins() -> None:
    configs = Path(BUNDLE) / "configs"
    subtypes = json.loads((configs / "subtypes.json").read_text(encoding="utf-8"))
    inference = json.loads((configs / "inference.json").read_text(encoding="utf-8"))
    assert subtypes["bins"] == inference["histogram_bins"]
    assert subtypes["window_hu"] == inference["window_hu"]
