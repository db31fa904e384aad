"""A bundle trained on some cases, by its own ``train.json``, in a process of its own."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import tools
from tools.bundle import find_bundle, read_weights
from tools.checkpoints import saved_checkpoints
from tools.files import new_file

__all__ = ["train_bundle"]

WEIGHTS = "model.pt"

logger = logging.getLogger(__name__)


def train_bundle(
    bundle: str,
    dataset_dir: Path,
    out: Path,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Train a bundle as ``python -m monai.bundle run training`` does, and return its weights.

    The weights are the last ones: none are chosen by a case. What was trained before is kept, and
    a training that was interrupted goes on.

    Args:
        bundle: name or folder.
        dataset_dir: folder with ``datalist.json``, prepared for the bundle.
        out: folder to write: ``model.pt``, ``train.log`` and checkpoints.
        changes: keys of ``train.json`` to set.

    Raises:
        ValueError: with the last line of the log, if the training fails.
    """
    target = out / WEIGHTS
    if target.is_file():
        return target
    out.mkdir(parents=True, exist_ok=True)
    folder = find_bundle(bundle)
    options = {
        "bundle_root": str(folder),
        "dataset_dir": str(dataset_dir),
        "output_dir": str(out),
        "ckpt_dir": str(out / "checkpoints"),
        "resume_from": "auto",
        **(changes or {}),
    }
    command = [sys.executable, "-m", "monai.bundle", "run", "training"]
    command += ["--config_file", str(folder / "configs" / "train.json")]
    for key, value in options.items():
        text = value if isinstance(value, str) else json.dumps(value)
        command += [f"--{key}", text]
    logger.info("training %s on %s", folder.name, dataset_dir)
    log = out / "train.log"
    # found there, too, where this package is not installed and the command runs elsewhere
    paths = [str(Path(tools.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    known = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with log.open("a") as stream:
        done = subprocess.run(command, stdout=stream, stderr=stream, check=False, env=known)
    if done.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise ValueError(f"bundle must train, got {bundle}: {lines[-1] if lines else 'no word'}")
    found = saved_checkpoints(out / "checkpoints")
    if not found:
        raise ValueError(f"training must leave a checkpoint, got none in {out / 'checkpoints'}")
    with new_file(target) as partial:
        torch.save(read_weights(found[-1][1]), partial)
    return target
