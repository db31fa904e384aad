"""Each training on the phantom, an epoch or two: weights, curves, processes, resuming."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.bundles.runs import FEW_STEPS, SHORT, TRAININGS, run_configs, run_module, words
from tools.files import MARK

AUTOENCODER = "hr_ldm/configs/train_autoencoder.json"
TUMOUR_AUTOENCODER = "difftumor/configs/train_autoencoder.json"
TRACKED = ["--tracking", "mlflow", "--experiment_name", "nodules", "--run_name", "short"]


@pytest.mark.parametrize("config", TRAININGS)
def test_loss_is_shown_and_the_last_line_names_the_weights(
    config: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO)
    few = SHORT | {"val_every_nth_case": 8, "output_dir": str(tmp_path)}
    options = TRAININGS[config] | few
    run("training", config_file=f"bundles/{config}", logging_file=False, **options)
    loss, name = "loss=", "model.pt"
    if config.endswith("train_autoencoder.json"):
        loss, name = "discriminator=", "autoencoder.pt"
    assert loss in capfd.readouterr().err
    assert f"weights: {tmp_path / 'models' / name}; " in caplog.messages[-1]
    assert f"curves: tensorboard --logdir {tmp_path}" in caplog.messages[-1]
    assert torch.load(tmp_path / "models" / name, weights_only=True)


@pytest.mark.parametrize("key", ["max_epochs", "train#trainer#max_epochs"])  # ours, and MONAI's
@pytest.mark.parametrize("config", TRAININGS)
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


@pytest.mark.parametrize(
    ("bundle", "window", "condition_size"),
    [
        ("lefusion_lidc", {"window_size": [32, 32, 8]}, 16),
        ("diffmask", {"window_size": [16, 16, 8]}, 0),
        ("lefusion_emidec", {"crop_size": [16, 16, 10]}, 32),  # ten slices, as published
    ],
)
def test_published_overlay_trains_one_iteration(
    bundle: str, window: dict, condition_size: int, tmp_path: Path
) -> None:
    small = {"network_def#base_channels": 8, "network_def#channel_multipliers": [1, 2]}
    small |= SHORT | FEW_STEPS | {"val_interval": 2, "val_every_nth_case": 100, "save_interval": 1}
    small |= {"train#trainer#epoch_length": 1, "batch_size": 1} | window
    run_configs(bundle, "training", "train published", tmp_path, **small)
    saved = torch.load(tmp_path / "models" / "checkpoint_epoch=1.pt", weights_only=True)["network"]
    assert saved.get("null_cond_emb", torch.empty(1, 0)).shape == (1, condition_size)


def test_a_dataset_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    missing = {"dataset_dir": str(tmp_path / "nothing")}
    with pytest.raises(RuntimeError) as caught:  # MONAI's, with the reason above it
        run_configs("lefusion_lidc", "training", "train", tmp_path, **missing)
    assert "dataset_dir must be an existing folder" in str(caught.value.__cause__)


def charts(folder: Path) -> dict[str, list[float]]:
    """What TensorBoard shows of a folder."""
    curves: dict[str, list[float]] = {}
    for path in folder.glob("events.out.tfevents.*"):
        found = EventAccumulator(str(path)).Reload()
        for tag in found.Tags()["scalars"]:
            curves.setdefault(tag, []).extend(event.value for event in found.Scalars(tag))
    return curves


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(name, marks=[] if name.startswith("lefusion_lidc") else pytest.mark.slow)
        for name in TRAININGS
    ],
)
def test_a_training_that_goes_on_is_one_that_never_stopped(config: str, tmp_path: Path) -> None:
    few = {"max_epochs": 4, "val_interval": 4, "val_every_nth_case": 8, "save_interval": 2}
    options = TRAININGS[config] | SHORT | few | {"config_file": f"bundles/{config}"}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run("training", logging_file=False, output_dir=str(whole), **options)
    (killed / "models").mkdir(parents=True)
    for name in (MARK, "checkpoint_epoch=2.pt"):  # all that a kill after the second epoch leaves
        shutil.copy(whole / "models" / name, killed / "models")
    goes_on = options | {"resume_from": "auto"}
    run("training", logging_file=False, output_dir=str(killed), **goes_on)
    losses, rest = (charts(folder)["train_loss"] for folder in (whole, killed))
    assert len(rest) == 4
    assert rest == losses[4:]
    best = "autoencoder.pt" if config.endswith("train_autoencoder.json") else "model.pt"
    for name in ("checkpoint_epoch=4.pt", best):
        before, after = (
            torch.load(folder / "models" / name, weights_only=True) for folder in (whole, killed)
        )
        torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "metric"),
    [
        ("lefusion_lidc/configs/train.json", "histogram_jsd"),
        ("hr_ldm/configs/train.json", "histogram_jsd"),
        (AUTOENCODER, "psnr"),
    ],
)
def test_training_is_tracked(config: str, metric: str, repository: Path, tmp_path: Path) -> None:
    """TensorBoard by default, MLflow where asked for: the same curves."""
    mlflow = pytest.importorskip("mlflow")
    options = TRAININGS[config] | SHORT | {"val_every_nth_case": 4, "output_dir": tmp_path}
    if config == AUTOENCODER:
        options |= {"adversarial_from_epoch": 2}
    train = ["monai.bundle", "run", "training", "--config_file", f"bundles/{config}"]
    run_module(repository, *train, *words(options), *TRACKED)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlruns.db")
    experiment = client.get_experiment_by_name("nodules")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.run_name == "short"
    history = client.get_metric_history(tracked.info.run_id, "train_loss")
    losses = [point.value for point in history]
    assert len(losses) == 2
    assert tracked.data.params["max_epochs"] == "1"
    assert list(tmp_path.glob("config_*.json"))  # what was run, as it was run
    curves = charts(tmp_path)
    assert curves[metric] == [pytest.approx(tracked.data.metrics[metric], rel=1e-5)]
    if config == AUTOENCODER:  # the discriminator counts from a later epoch on
        assert curves["discriminator_loss"][0] > 0
    assert curves["train_loss"] == [pytest.approx(value, rel=1e-5) for value in losses]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "overlay", "key_metric"),
    [
        ("lefusion_lidc/configs/train.json", None, "histogram_jsd"),
        ("lefusion_lidc/configs/train.json", "multi_gpu_train.json", "histogram_jsd"),
        ("diffmask/configs/train.json", "multi_gpu_train.json", "shape_distance"),
        ("lefusion_emidec/configs/train.json", "multi_gpu_train.json", "histogram_jsd"),
        ("hr_ldm/configs/train.json", "multi_gpu_train.json", "histogram_jsd"),
        ("lesion_segmentation/configs/train.json", "multi_gpu_train.json", "dice"),
        ("difftumor/configs/train.json", "multi_gpu_train.json", "histogram_jsd"),
        ("nodule_classification/configs/train.json", "multi_gpu_train.json", "auroc"),
        (AUTOENCODER, "multi_gpu_autoencoder.json", "psnr"),
        (TUMOUR_AUTOENCODER, "multi_gpu_autoencoder.json", "psnr"),
    ],
)
def test_one_process_or_two_train_and_one_resumes(
    config: str, overlay: str | None, key_metric: str, repository: Path, tmp_path: Path
) -> None:
    """Two processes on the CPU here are one per GPU in earnest."""
    options = TRAININGS[config] | SHORT | {"val_every_nth_case": 4, "save_interval": 1}
    alone, path = ["monai.bundle", "run", "training"], f"bundles/{config}"
    adversarial = config.endswith("train_autoencoder.json")
    if config == AUTOENCODER:
        options |= {"adversarial_from_epoch": 2}
    start, configs = alone, path
    if overlay is not None:
        start = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", *alone]
        configs = f"['{path}','{Path(path).with_name(overlay)}']"
    options |= {"output_dir": tmp_path, "config_file": configs}
    printed = run_module(repository, *start, *words(options))
    assert "running on the embedded phantom data" in printed
    assert printed.count(f"Key metric: {key_metric}") == 1  # the first process alone reports
    assert charts(tmp_path)[key_metric]
    models = tmp_path / "models"
    saved = torch.load(models / "checkpoint_epoch=1.pt", weights_only=True)
    name = "autoencoder.pt" if adversarial else "model.pt"
    best = torch.load(models / name, weights_only=True)
    parts = {"network", "ema", "optimizer", "lr_scheduler", "trainer"}
    if adversarial:
        parts |= {"discriminator", "discriminator_optimizer"}
        assert charts(tmp_path)["ssim"]
    assert set(saved) == parts
    assert saved["network"].keys() == saved["ema"].keys() == best.keys()
    assert not any(key.startswith("module.") for key in best)
    assert saved["trainer"]["iteration"] == 2
    for average in (saved["ema"], best):  # it follows the weights, it is not the weights
        assert any(not torch.equal(saved["network"][key], average[key]) for key in best)
    options |= {"config_file": path, "max_epochs": 2}
    options |= {"resume_from": models / "checkpoint_epoch=1.pt"}
    printed = run_module(repository, *alone, *words(options))
    assert "epoch 1 until 2 epochs" in printed
    again = torch.load(models / "checkpoint_epoch=2.pt", weights_only=True)
    if adversarial:  # its discriminator is trained too
        before = saved["discriminator"]
        assert any(not v.equal(before[k]) for k, v in again["discriminator"].items())
