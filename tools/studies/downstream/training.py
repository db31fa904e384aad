"""The network of a run: trained, and read, as a bundle's own configs say.

``training`` of a preset, whatever the task:

* ``bundle``, ``overlays``: a bundle with ``train.json`` and ``evaluate.json``, and configs of it on
  top, such as lesion_segmentation with heart.json and dynunet.json;
* ``changes``: keys of these configs; null: as they have it;
* ``steps``: as many for each arm; the weights after the last step are measured, so no case chooses
  them;
* ``real_share``: real cases are repeated until about this share of what is drawn is real; left
  out: each case, real or synthetic, is drawn equally often.

Cases are in memory, so the transforms of the configs that read files are left out, as are the
handlers that validate and write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose
from monai.utils import set_determinism
from torch import nn

from tools.bundle import find_bundle, read_configs, resolved
from tools.studies.downstream.cases import Case

__all__ = ["fit", "open_training", "prepares", "sample"]

READING = ("LoadScansd", "EnsureChannelFirstd")  # transforms of what is in memory already
KEPT = ("EpochChance", "LrScheduleHandler")  # handlers without which no weights would be the same


def open_training(
    settings: Mapping[str, Any],
    device: torch.device,
    seed: int = 0,
    overlays: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> ConfigParser:
    """Return the configs of a bundle as a study wants them.

    Args:
        settings: ``training`` of the preset.
        device: of the network.
        seed: of weights, order and transforms.
        overlays: further configs on top.
        changes: further keys.
    """
    folder = find_bundle(settings["bundle"])
    names = ["train.json", *settings.get("overlays", []), *overlays]
    parser = read_configs(folder / "configs", names)
    steps = int(settings["steps"])
    longest = min(int(parser["epoch_length"]), steps)
    # whole epochs make just so many steps
    parser["epoch_length"] = next(n for n in range(longest, 0, -1) if steps % n == 0)
    fixed = {"bundle_root": str(folder), "device": device, "seed": seed, "max_steps": steps}
    for key, value in {**settings.get("changes", {}), **(changes or {}), **fixed}.items():
        if value is not None:
            parser[key] = value
    return parser


def sample(case: Case) -> dict[str, MetaTensor]:
    """Return a case as the transforms of the bundle take it."""
    arrays = {"image": np.asarray(case.image, np.float32), "label": case.label}
    return {
        key: MetaTensor(torch.from_numpy(array[None]), affine=torch.from_numpy(case.affine))
        for key, array in arrays.items()
    }


def prepares(parser: ConfigParser, part: str) -> Compose:
    """Return the preprocessing of ``train`` or ``validate`` for cases in memory."""
    key = f"{part}#preprocessing#transforms"
    parser[key] = [each for each in parser[key] if _name(each) not in READING]
    return resolved(parser, f"{part}#preprocessing")


def fit(
    parser: ConfigParser,
    samples: Sequence[Mapping[str, Any]],
    weights: Sequence[float] | None = None,
) -> tuple[nn.Module, list[float]]:
    """Return the averaged weights after the last step of a training, and the loss of each step.

    Args:
        parser: see :func:`open_training`; equal ones give equal weights on one device.
        samples: cases with the keys of the bundle's dataset.
        weights: how often each is drawn, where the bundle has a sampler; None: equally often.
    """
    chain = prepares(parser, "train")
    parser["train#dataset"] = CacheDataset(list(samples), chain, progress=False)
    if "weights" in parser["train"]:
        parser["train#weights"] = list(weights or [1.0] * len(samples))
    parser["train#handlers"] = [h for h in parser["train#handlers"] if _name(h) in KEPT]
    set_determinism(parser["seed"])
    trainer, average = (resolved(parser, key) for key in ("train#trainer", "ema"))
    average.attach(trainer)
    losses: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: losses.append(float(engine.state.output[0]["loss"])),
    )
    trainer.logger.setLevel("WARNING")
    trainer.run()
    set_determinism(None)
    return average.ema_model.eval(), losses


def _name(entry: Any) -> str:
    return str(entry["_target_"]).rpartition(".")[2] if isinstance(entry, Mapping) else ""
