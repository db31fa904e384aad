"""Stage I of hr_ldm through the command line: one process, two, and resumed."""

from pathlib import Path

import pytest
import torch

from tests.bundles.command_line import run_module

CONFIGS = "bundles/hr_ldm/configs"
SMALL = ["--batch_size", "2", "--window_size", "[16,16,16]", "--val_interval", "1"]
SMALL += ["--autoencoder_def#num_channels", "[8,8,16]", "--train#trainer#epoch_length", "2"]
SMALL += ["--adversarial_from_epoch", "2", "--val_every_nth_case", "4"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_training_saves_validates_and_resumes(
    processes: int, repository: Path, tmp_path: Path
) -> None:
    train = ["training", "--output_dir", str(tmp_path), *SMALL]
    configs = [f"{CONFIGS}/train_autoencoder.json"]
    start = ["monai.bundle"]
    if processes > 1:
        configs.append(f"{CONFIGS}/multi_gpu_autoencoder.json")
        start = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        start += ["-m", "monai.bundle"]
    printed = run_module(
        repository, *start, "run", *train, "--config_file", str(configs), "--max_epochs", "1"
    )
    assert printed.count("Key metric: psnr") == 1
    assert "ssim" in printed
    checkpoint = tmp_path / "models" / "checkpoint_epoch=1.pt"
    saved = torch.load(checkpoint, weights_only=True)
    best = torch.load(tmp_path / "models" / "autoencoder.pt", weights_only=True)
    assert saved["network"].keys() == best.keys()
    assert any(not torch.equal(saved["network"][key], best[key]) for key in best)
    printed = run_module(
        repository,
        *["monai.bundle", "run", *train, "--config_file", configs[0]],
        *["--max_epochs", "2", "--resume_from", str(checkpoint)],
    )
    assert "epoch 1 until 2 epochs" in printed
    again = torch.load(tmp_path / "models" / "checkpoint_epoch=2.pt", weights_only=True)
    moved = [k for k, v in again["discriminator"].items() if not v.equal(saved["discriminator"][k])]
    assert moved  # it is trained too
