"""Training by several processes: two of them on the CPU here, one per GPU in earnest."""

from pathlib import Path

import pytest
import torch

from tests.bundles.command_line import SMALL_LATENT, SMALL_UNET, run_module

SMALL = ["--batch_size", "2", "--train#trainer#epoch_length", "2", "--val_interval", "1"]
SMALL += ["--val_every_nth_case", "4", "--save_interval", "1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bundle", "key_metric", "network"),
    [
        ("lefusion_lidc", "histogram_jsd", SMALL_UNET),
        ("diffmask", "shape_distance", SMALL_UNET),
        ("lefusion_emidec", "histogram_jsd", SMALL_UNET),
        ("hr_ldm", "histogram_jsd", SMALL_LATENT),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_two_processes_train_and_one_resumes(
    bundle: str, key_metric: str, network: list[str], repository: Path, tmp_path: Path
) -> None:
    configs = f"bundles/{bundle}/configs"
    train = ["training", "--output_dir", str(tmp_path), *SMALL, *network]
    together = f"['{configs}/train.json','{configs}/multi_gpu_train.json']"
    printed = run_module(
        repository,
        *["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle"],
        *["run", *train, "--config_file", together, "--max_epochs", "1"],
    )
    assert printed.count(f"Key metric: {key_metric}") == 1  # the first process alone reports
    checkpoint = tmp_path / "models" / "checkpoint_epoch=1.pt"
    saved = torch.load(checkpoint, weights_only=True)
    best = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert saved["network"].keys() == saved["ema"].keys() == best.keys()
    assert not any(key.startswith("module.") for key in best)
    assert saved["trainer"]["iteration"] == 2
    changed = [not torch.equal(saved["network"][key], saved["ema"][key]) for key in best]
    assert any(changed)  # the average follows the weights, it is not the weights
    printed = run_module(
        repository,
        *["monai.bundle", "run", *train, "--config_file", f"{configs}/train.json"],
        *["--max_epochs", "2", "--resume_from", str(checkpoint)],
    )
    assert "epoch 1 until 2 epochs" in printed
    assert (tmp_path / "models" / "checkpoint_epoch=2.pt").is_file()
