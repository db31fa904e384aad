"""One run of a study of segmentation: a network trained on some cases, and measured on others.

``training`` of a preset:

* ``steps`` and ``batch_size``: as many for each arm; the weights after the last step are measured,
  so no case chooses them;
* ``size``: voxels of a sample; images are padded or cut to it at random places;
* ``crop``: voxels of the first axes that are kept round all that is labelled, for scans of which
  the place of the organ is known; left out: all;
* ``window``: intensities that become 0 and 1, or ``percentiles`` of each image;
* ``bundle``, ``overlays``: network and loss are those of a bundle and its configs on top of
  ``train.json``, such as lesion_segmentation with dynunet.json; left out: ``network`` and ``loss``;
* ``network``, ``loss``, ``optimizer``, ``lr_scheduler``, ``transforms``: ``_target_`` entries of
  MONAI; ``tolerance_mm`` of the surface Dice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, RandSpatialCropd, SpatialPadd
from monai.utils import set_determinism
from scipy import ndimage
from torch import Tensor, nn
from torch.utils.data import RandomSampler

from tools.bundle import find_bundle, read_configs, resolved
from tools.metrics.segmentation import Dice, SurfaceDice, match_lesions
from tools.studies.downstream.cases import Case

__all__ = ["measure", "scaled", "train"]

OVERLAP = 0.25  # of sliding windows


def cropped(case: Case, settings: Mapping[str, Any]) -> Case:
    """Return the part of a case round what is labelled, of the size ``crop`` along its axes."""
    if "crop" not in settings:
        return case
    box = []
    for axis, size in enumerate(settings["crop"]):
        other = tuple(k for k in range(case.label.ndim) if k != axis)
        ends = np.flatnonzero((case.label > 0).any(other))
        middle = (ends[0] + ends[-1] + 1) // 2 if len(ends) else case.label.shape[axis] // 2
        start = int(np.clip(middle - size // 2, 0, max(0, case.label.shape[axis] - size)))
        box.append(slice(start, start + size))
    part = tuple(box)
    arrays = {key: getattr(case, key)[part] for key in ("image", "label", "known")}
    return case._replace(**arrays)


def scaled(case: Case, settings: Mapping[str, Any]) -> Tensor:
    """Return an image as the network sees it, ``(1, H, W, D)``, from 0 to 1."""
    image = np.asarray(case.image, np.float32)
    if "percentiles" in settings:
        low, high = np.percentile(image, settings["percentiles"])
    else:
        low, high = settings["window"]
    return torch.from_numpy(np.clip((image - low) / max(high - low, 1e-6), 0, 1)[None])


def numbered(label: np.ndarray, classes: Mapping[str, int]) -> Tensor:
    """Return a label map whose lesion classes are 1, 2, ..., ``(1, H, W, D)``."""
    found = np.zeros(label.shape, np.uint8)
    for number, value in enumerate(classes.values(), 1):
        found[label == value] = number
    return torch.from_numpy(found[None])


def train(
    cases: Sequence[Case],
    classes: Mapping[str, int],
    settings: Mapping[str, Any],
    seed: int,
    device: torch.device,
) -> tuple[nn.Module, list[float]]:
    """Return a network trained on cases, all of which are drawn equally often, and its losses.

    Args:
        cases: real and synthetic ones together.
        classes: name and value of each.
        settings: ``training`` of the preset.
        seed: of weights, batches and transforms.
        device: to train on.
    """
    set_determinism(seed)
    samples = [
        {"image": scaled(case, settings), "label": numbered(case.label, classes)}
        for case in (cropped(each, settings) for each in cases)
    ]
    both = ["image", "label"]
    network, loss = _parts(settings, classes)
    network = network.to(device)
    transforms = ConfigParser({"transforms": settings["transforms"]})
    chain = [
        SpatialPadd(both, settings["size"], mode="minimum"),
        RandSpatialCropd(both, settings["size"], random_size=False),
        *transforms.get_parsed_content("transforms"),
    ]
    steps, batch = settings["steps"], settings["batch_size"]
    dataset = Dataset(samples, Compose(chain).set_random_state(seed))
    order = torch.Generator().manual_seed(seed)
    drawn = RandomSampler(samples, replacement=True, num_samples=steps * batch, generator=order)
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


def _parts(settings: Mapping[str, Any], classes: Mapping[str, int]) -> tuple[nn.Module, Any]:
    """Return network and loss, of a bundle or as the preset has them."""
    if "bundle" not in settings:
        parser = ConfigParser({key: settings[key] for key in ("network", "loss")})
        return parser.get_parsed_content("network"), parser.get_parsed_content("loss")
    configs = find_bundle(settings["bundle"]) / "configs"
    parser = read_configs(configs, ["train.json", *settings.get("overlays", [])])
    parser["class_names"], parser["patch_size"] = list(classes), settings["size"]
    return resolved(parser, "network_def"), resolved(parser, "loss")


def _built(entry: Mapping[str, Any], **given: Any) -> Any:
    """Return the object of a ``_target_`` entry, with arguments that no JSON holds."""
    parser = ConfigParser({"entry": dict(entry)})
    return parser.get_parsed_content("entry", instantiate=False).instantiate(**given)


def measure(
    network: nn.Module,
    cases: Sequence[Case],
    classes: Mapping[str, int],
    settings: Mapping[str, Any],
    device: torch.device,
) -> Iterator[dict[str, Any]]:
    """Yield what a network makes of each case: per class Dice, surface Dice, and lesions found.

    Only what was scanned counts. ``lesions`` lists the diameter of each lesion, the sphere's of its
    volume, and whether it was found: a connected part of the prediction has an intersection over
    union with it of a tenth or more (:func:`tools.metrics.segmentation.match_lesions`). ``false``
    is the number of parts that hit none. A class that is neither there nor predicted has no Dice.
    """
    inferer = SlidingWindowInferer(settings["size"], sw_batch_size=4, overlap=OVERLAP)
    for case in (cropped(each, settings) for each in cases):
        start = time.perf_counter()
        with torch.inference_mode():
            logits = inferer(scaled(case, settings)[None].to(device), network)
        predicted = logits.argmax(1)[0].cpu().numpy()  # type: ignore[union-attr]
        label = numbered(case.label, classes)[0].numpy()
        row: dict[str, Any] = {"name": case.name, "patient": case.patient, "classes": {}}
        for number, name in enumerate(classes, 1):
            got, wanted = ((part == number) & case.known for part in (predicted, label))
            tolerance = settings["tolerance_mm"]
            row["classes"][name] = _compared(got, wanted, case.spacing_mm, tolerance)
        row["seconds"] = round(time.perf_counter() - start, 3)
        yield row


def _compared(
    predicted: np.ndarray, wanted: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float
) -> dict[str, Any]:
    masks = [torch.from_numpy(part.astype(np.float32))[None, None] for part in (predicted, wanted)]
    found: dict[str, Any] = {}
    for key, metric in (
        ("dice", Dice(spacing_mm=spacing_mm)),
        ("nsd", SurfaceDice(tolerance_mm, spacing_mm=spacing_mm)),
    ):
        metric(*masks)
        value = float(metric.aggregate())
        found[key] = value if np.isfinite(value) else None
    matches = match_lesions(predicted.astype(float), wanted, spacing_mm)
    parts, number = ndimage.label(wanted, np.ones((3, 3, 3)))
    voxels = np.bincount(parts.ravel(), minlength=number + 1)[1:]
    diameters = (6 / np.pi * voxels * float(np.prod(spacing_mm))) ** (1 / 3)
    found["lesions"] = [
        [round(float(d), 2), bool(score > 0)]
        for d, score in zip(diameters, matches.scores, strict=True)
    ]
    found["false"] = len(matches.false)
    return found
