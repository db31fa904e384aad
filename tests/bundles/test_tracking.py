"""Curves of each kind of training: TensorBoard by default, MLflow by ``--tracking mlflow``."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.bundles.command_line import SMALL_AUTOENCODER, SMALL_LATENT, SMALL_UNET, run_module

SMALL = ["--batch_size", "2", "--train#trainer#epoch_length", "2", "--val_interval", "1"]
SMALL += ["--val_every_nth_case", "4", "--max_epochs", "1"]
TRACKED = ["--tracking", "mlflow", "--experiment_name", "nodules", "--run_name", "short"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "metric", "network"),
    [
        ("lefusion_lidc/configs/train.json", "histogram_jsd", SMALL_UNET),
        ("hr_ldm/configs/train.json", "histogram_jsd", SMALL_LATENT),
        ("hr_ldm/configs/train_autoencoder.json", "psnr", SMALL_AUTOENCODER),
    ],
)
def test_training_is_tracked(
    config: str, metric: str, network: list[str], repository: Path, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow")
    train = ["monai.bundle", "run", "training", "--config_file", f"bundles/{config}"]
    run_module(repository, *train, "--output_dir", str(tmp_path), *SMALL, *network, *TRACKED)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlruns.db")
    experiment = client.get_experiment_by_name("nodules")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "short"
    losses = [point.value for point in client.get_metric_history(run.info.run_id, "train_loss")]
    assert len(losses) == 2
    assert run.data.params["max_epochs"] == "1"
    assert list(tmp_path.glob("config_*.json"))  # what was run, as it was run
    curves = charts(tmp_path)
    assert curves[metric] == [pytest.approx(run.data.metrics[metric], rel=1e-5)]
    assert len(curves["train_loss"]) == 2
    if "autoencoder" in config:  # the discriminator counts from a later epoch on
        assert curves["discriminator_loss"][0] > 0
    assert curves["train_loss"] == [pytest.approx(value, rel=1e-5) for value in losses]


def charts(folder: Path) -> dict[str, list[float]]:
    """What TensorBoard shows of a folder."""
    curves: dict[str, list[float]] = {}
    for path in folder.glob("events.out.tfevents.*"):
        found = EventAccumulator(str(path)).Reload()
        for tag in found.Tags()["scalars"]:
            curves.setdefault(tag, []).extend(event.value for event in found.Scalars(tag))
    return curves
