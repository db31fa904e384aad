"""The bundle as MONAI sees it: properties, shapes, and the literal command lines."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_net_in_out

BUNDLE = "bundles/lefusion_lidc"
each_bundle = pytest.mark.parametrize(
    "bundle", [BUNDLE, "bundles/diffmask", "bundles/lefusion_emidec", "bundles/hr_ldm"]
)


@pytest.fixture(autouse=True)
def at_repository_root(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


def run_bundle(*arguments: str) -> str:
    """Run ``python -m monai.bundle`` as a user does and return what it printed."""
    command = [sys.executable, "-m", "monai.bundle", "run", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


@each_bundle
@pytest.mark.parametrize(
    ("kind", "configs"),
    [
        ("train", ["train.json"]),
        ("inference", ["inference.json"]),
        ("train", ["train.json", "evaluate.json"]),
    ],
)
def test_no_property_is_missing(kind: str, configs: list[str], bundle: str, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        workflow_type=kind,
        config_file=[f"{bundle}/configs/{name}" for name in configs],
        meta_file=f"{bundle}/configs/metadata.json",
        logging_file=f"{bundle}/configs/logging.conf",
        output_dir=str(tmp_path),
    )
    workflow.initialize()
    assert not workflow.check_properties()


@each_bundle
def test_network_takes_and_gives_what_the_metadata_says(bundle: str) -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=f"{bundle}/configs/metadata.json",
        config_file=f"{bundle}/configs/inference.json",
        device="cpu",
        extra_forward_args={"timesteps": torch.tensor([1])},
    )


@pytest.mark.slow
def test_training_command_runs_saves_and_resumes(tmp_path: Path) -> None:
    train = ["training", "--config_file", f"{BUNDLE}/configs/train.json"]
    options = ["--output_dir", str(tmp_path), "--network_def#channels", "[8,16,16]"]
    options += ["--val_interval", "1", "--save_interval", "1", "--learning_rate", "0.001"]
    options += ["--validate#inferer#num_inference_steps", "2"]
    printed = run_bundle(*train, *options, "--max_epochs", "1")
    assert "running on the embedded phantom data" in printed
    assert "histogram_jsd" in printed
    checkpoint = tmp_path / "models" / "checkpoint_epoch=1.pt"
    saved = torch.load(checkpoint, weights_only=True)
    assert set(saved) == {"network", "ema", "optimizer", "lr_scheduler", "trainer"}
    assert (tmp_path / "models" / "model.pt").is_file()
    assert list(tmp_path.glob("events.out.tfevents*"))
    printed = run_bundle(*train, *options, "--max_epochs", "2", "--resume_from", str(checkpoint))
    assert "epoch 1 until 2 epochs" in printed
    assert (tmp_path / "models" / "checkpoint_epoch=2.pt").is_file()


@pytest.mark.slow
def test_inference_command_writes_hounsfield_units_and_keeps_the_background(tmp_path: Path) -> None:
    steps = ["--displayable_configs#num_inference_steps", "2"]
    config = f"{BUNDLE}/configs/inference.json"
    run_bundle("inference", "--config_file", config, "--output_dir", str(tmp_path), *steps)
    written = sorted(tmp_path.glob("*_synthetic.nii.gz"))
    assert len(written) == 8
    from tools.phantoms.datasets import lesion_datalist

    for entry in lesion_datalist("", "validation"):
        name = Path(entry["image"]).name.removesuffix(".nii.gz")
        output = nib.load(tmp_path / f"{name}_synthetic.nii.gz").get_fdata()
        before = nib.load(entry["image"]).get_fdata()
        inside = nib.load(entry["label"]).get_fdata() > 0
        assert np.array_equal(output[~inside], before[~inside])
        assert (output[inside] != before[inside]).mean() > 0.9
        assert output[inside].min() >= -1000
        assert output[inside].max() <= 400


@pytest.mark.slow
def test_evaluation_overlay_reports_the_figures_of_the_main_table(tmp_path: Path) -> None:
    configs = f"['{BUNDLE}/configs/train.json','{BUNDLE}/configs/evaluate.json']"
    # with the estimate matched to the request, what is measured must be what was asked for
    steps = ["--num_inference_steps", "2", "--histogram_strength", "1.0"]
    steps += ["--val_every_nth_case", "2"]
    run_bundle("evaluating", "--config_file", configs, "--output_dir", str(tmp_path), *steps)

    def values(name: str) -> np.ndarray:
        path = tmp_path / f"{name}_raw.csv"
        return np.genfromtxt(path, delimiter=",", skip_header=1, usecols=1)

    for name in ("jsd_own", "jsd_other"):
        assert len(values(name)) == 4
        # a lesion of few voxels cannot hold every fraction of a histogram
        assert values(name).max() < 0.02
        assert np.median(values(f"jsd_none_{name[4:]}")) > 5 * np.median(values(name))
    assert values("presets_in_order").tolist() == [1, 1, 1, 1]
    for name, expected in {"ground_glass": -648, "part_solid": -394, "solid": -223}.items():
        assert values(f"mean_hu_{name}") == pytest.approx([expected] * 4, abs=40)


@pytest.mark.slow
def test_published_overlay_trains_one_iteration(tmp_path: Path) -> None:
    configs = f"['{BUNDLE}/configs/train.json','{BUNDLE}/configs/published.json']"
    options = ["--network_def#base_channels", "8", "--batch_size", "2", "--max_epochs", "1"]
    options += ["--window_size", "[32,32,8]", "--train#trainer#epoch_length", "1"]
    options += ["--val_every_nth_case", "100", "--validate#inferer#num_inference_steps", "2"]
    run_bundle("training", "--config_file", configs, "--output_dir", str(tmp_path), *options)


def test_a_dataset_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file"]
    command += [f"{BUNDLE}/configs/train.json", "--dataset_dir", str(tmp_path / "nothing")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "dataset_dir must be an existing folder" in result.stderr
