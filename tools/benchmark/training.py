"""What lesions made on the fly cost a training step (``benchmark training``)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser

from tools.bundle import find_bundle

__all__ = ["benchmark_training", "report"]

PLAIN = "plain"
# a step is timed where its batch is asked for, so that what makes the batch counts
QUIET: dict[str, Any] = {"train#handlers": [], "batch_size": 2, "num_workers": 0}


def benchmark_training(
    bundle: str = "lesion_segmentation",
    textures: Sequence[str] = ("lefusion_lidc:hand_crafted", "lefusion_lidc"),
    overlays: Sequence[str] = (),
    synthetic: str = "synthetic",
    patch_size: int | None = None,
    spacing_mm: float | None = None,
    steps: int = 10,
    sampler_steps: int = 10,
    share: float = 0.25,
    threads: int = 1,
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Time training steps on the phantom, without and with lesions that are made on the fly.

    All batches are of healthy scans, of which ``share`` get one lesion each: 0.25 is DiffTumor's,
    where half of a batch is healthy and half of that gets a tumour. The first step, which loads and
    caches, does not count.

    Options are those of the command; ``options`` are more keys of the configs.

    Returns:
        A dictionary for each variant: ``texture``, median and quartiles of processor and wall
        seconds of a step, ``mean_s`` of the processor and its ratio to the plain one.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    shared: dict[str, Any] = {"max_steps": steps + 1, "epoch_length": steps + 1, **QUIET}
    shared |= {"synthetic_count": 1, "synthetic_prob": share, "train#files": []}
    shared |= {"device": f"$torch.device('{device}')", **(options or {})}
    sizes = {"patch_size": patch_size, "spacing_mm": spacing_mm}
    shared |= {name: [size] * 3 for name, size in sizes.items() if size is not None}
    configs = find_bundle(bundle) / "configs"
    files = [str(configs / f"{name}.json") for name in ("train", *overlays, synthetic)]
    for texture in (PLAIN, *textures):
        name, _, method = texture.partition(":")
        change: dict[str, Any] = {"synthesize": None}
        if texture != PLAIN:
            change = {"texture_bundle": name, "texture_method": method or None}
            change["synthetic_steps"] = None if method else sampler_steps
        row = {"texture": texture, **_timed(files, shared | change, str(configs.parent))}
        rows.append(row | {"ratio": row["mean_s"] / (rows or [row])[0]["mean_s"]})
    return rows


def _timed(files: list[str], changes: Mapping[str, Any], root: str) -> dict[str, Any]:
    """Return the times of a short training."""
    parser = ConfigParser()
    parser.read_config(files)
    with TemporaryDirectory() as folder:
        for key, value in {**changes, "bundle_root": root, "output_dir": folder}.items():
            parser[key] = value
        trainer = parser.get_parsed_content("train#trainer")
        marks: list[tuple[float, float]] = []
        trainer.add_event_handler(
            Events.GET_BATCH_STARTED | Events.COMPLETED,
            lambda: marks.append((time.process_time(), time.perf_counter())),
        )
        trainer.run()
    times = np.diff(np.array(marks), axis=0)[1:]
    quartiles = np.percentile(times, [50, 25, 75], axis=0)
    cpu, wall = (quartiles[:, column].round(4).tolist() for column in (0, 1))
    return {"cpu_s": cpu, "wall_s": wall, "mean_s": float(times[:, 0].mean())}


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a table."""
    lines = ["texture, processor s per step: median (quartiles), mean, ratio of means"]
    for row in rows:
        middle, low, high = row["cpu_s"]
        figures = f"{middle:.3f} ({low:.3f} to {high:.3f}), {row['mean_s']:.3f}"
        lines.append(f"{row['texture']}: {figures}, {row['ratio']:.2f}")
    return "\n".join(lines)
