"""Command lines as people type them, in a process of their own; sizes that take seconds."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["SMALL_AUTOENCODER", "SMALL_LATENT", "SMALL_UNET", "run_module"]

SMALL_UNET = ["--network_def#channels", "[8,16,16]"]
SMALL_UNET += ["--validate#inferer#num_inference_steps", "2"]
SMALL_LATENT = ["--network_def#network#num_channels", "[8,16,16]", "--autoencoder_path", ""]
SMALL_LATENT += ["--network_def#network#norm_num_groups", "8", "--variants", "1"]
SMALL_LATENT += ["--network_def#network#num_head_channels", "[0,8,8]"]
SMALL_LATENT += ["--autoencoder_def#num_channels", "[8,8,16]", "--window_size", "[48,48,48]"]
SMALL_LATENT += ["--validate#inferer#sampler#num_inference_steps", "2"]
SMALL_LATENT += ["--validate#inferer#fewest_steps", "2"]
SMALL_AUTOENCODER = ["--window_size", "[16,16,16]", "--autoencoder_def#num_channels", "[8,8,16]"]
SMALL_AUTOENCODER += ["--adversarial_from_epoch", "2"]


def run_module(repository: Path, *words: str) -> str:
    """Run ``python -m`` at the root of the repository, on CPUs, and return what it printed."""
    given = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    environment = {**given, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr
