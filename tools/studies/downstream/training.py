"""The network of a run: built of a preset or a bundle, trained for a number of steps.

``training`` of a preset, whatever the task:

* ``steps`` and ``batch_size``: as many for each arm; the weights after the last step are measured,
  so no case chooses them;
* ``window``: intensities that become 0 and 1, or ``percentiles`` of each image;
* ``bundle``, ``overlays``: network and loss are those of a bundle and its configs on top of
  ``train.json``, such as lesion_segmentation with dynunet.json; left out: ``network`` and ``loss``;
* ``network``, ``loss``, ``optimizer``, ``lr_scheduler``, ``transforms``: ``_target_`` entries of
  MONAI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.transforms import Compose
from monai.utils import set_determinism
from torch import Tensor, nn
from torch.utils.data import RandomSampler, Sampler, WeightedRandomSampler

from tools.bundle import find_bundle, read_configs, resolved

__all__ = ["fit", "network_and_loss", "scaled"]

Sample = dict[str, Tensor]


def scaled(image: np.ndarray, settings: Mapping[str, Any]) -> Tensor:
    """Return an image as the network sees it, ``(1, H, W, D)``, from 0 to 1."""
    image = np.asarray(image, np.float32)
    if "percentiles" in settings:
        low, high = np.percentile(image, settings["percentiles"])
    else:
        low, high = settings["window"]
    return torch.from_numpy(np.clip((image - low) / max(high - low, 1e-6), 0, 1)[None])


def network_and_loss(
    settings: Mapping[str, Any], changes: Mapping[str, Any]
) -> tuple[nn.Module, Any]:
    """Return network and loss, of a bundle with keys changed, or as the preset has them."""
    if "bundle" not in settings:
        parser = ConfigParser({key: settings[key] for key in ("network", "loss")})
        return parser.get_parsed_content("network"), parser.get_parsed_content("loss")
    configs = find_bundle(settings["bundle"]) / "configs"
    parser = read_configs(configs, ["train.json", *settings.get("overlays", [])])
    for key, value in changes.items():
        parser[key] = value
    return resolved(parser, "network_def"), resolved(parser, "loss")


def fit(
    samples: Sequence[Sample],
    first: Sequence[Any],
    settings: Mapping[str, Any],
    seed: int,
    device: torch.device,
    changes: Mapping[str, Any],
    weights: Sequence[float] | None = None,
) -> tuple[nn.Module, list[float]]:
    """Return a network trained on samples, and its losses.

    Args:
        samples: ``image`` and ``label`` of each, in memory.
        first: transforms before those of the settings.
        settings: ``training`` of the preset.
        seed: of weights, batches and transforms; equal seeds give equal networks on one device.
        device: to train on.
        changes: keys of the bundle, where the network is one's.
        weights: how often each sample is drawn, relative to others; None: equally often.
    """
    set_determinism(seed)
    network, loss = network_and_loss(settings, changes)
    network = network.to(device)
    transforms = ConfigParser({"transforms": settings["transforms"]})
    chain = [*first, *transforms.get_parsed_content("transforms")]
    dataset = Dataset(samples, Compose(chain).set_random_state(seed))
    steps, batch = settings["steps"], settings["batch_size"]
    drawn = _sampler(samples, weights, steps * batch, seed)
    loader = DataLoader(dataset, batch_size=batch, sampler=drawn, num_workers=0)
    optimizer = _built(settings["optimizer"], params=network.parameters())
    scheduler = _built(settings["lr_scheduler"], optimizer=optimizer)
    losses: list[float] = []
    trainer = SupervisedTrainer(
        device,
        max_epochs=1,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=loss,
        epoch_length=steps,
        decollate=False,
        train_handlers=[LrScheduleHandler(scheduler, print_lr=False, epoch_level=False)],
        amp=device.type == "cuda",
    )
    trainer.logger.setLevel("WARNING")
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output["loss"]))
    )
    trainer.run()
    set_determinism(None)
    return network.eval(), losses


def _sampler(
    samples: Sequence[Sample], weights: Sequence[float] | None, count: int, seed: int
) -> Sampler:
    order = torch.Generator().manual_seed(seed)
    if weights is None:
        return RandomSampler(samples, replacement=True, num_samples=count, generator=order)
    return WeightedRandomSampler(weights, count, generator=order)


def _built(entry: Mapping[str, Any], **given: Any) -> Any:
    """Return the object of a ``_target_`` entry, with arguments that no JSON holds."""
    parser = ConfigParser({"entry": dict(entry)})
    return parser.get_parsed_content("entry", instantiate=False).instantiate(**given)
