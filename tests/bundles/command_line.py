"""Command lines as people type them, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["run_module"]


def run_module(repository: Path, *words: str) -> str:
    """Run ``python -m`` at the root of the repository, on CPUs, and return what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr
