"""``--tracking mlflow``: losses and metrics of a run in a local MLflow database."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = "bundles/lefusion_lidc/configs/train.json"


@pytest.mark.slow
def test_training_is_tracked(repository: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", CONFIG]
    command += ["--tracking", "mlflow", "--experiment_name", "nodules", "--run_name", "short"]
    command += ["--output_dir", str(tmp_path), "--max_epochs", "1", "--batch_size", "2"]
    command += ["--network_def#channels", "[8,16,16]", "--train#trainer#epoch_length", "2"]
    command += ["--val_interval", "1", "--val_every_nth_case", "8"]
    command += ["--validate#inferer#num_inference_steps", "2"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")}
    environment |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlruns.db")
    experiment = client.get_experiment_by_name("nodules")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "short"
    assert len(client.get_metric_history(run.info.run_id, "train_loss")) == 2
    assert 0 <= run.data.metrics["histogram_jsd"] < 1
    assert run.data.params["max_epochs"] == "1"
    assert list(tmp_path.glob("config_*.json"))  # what was run, as it was run
