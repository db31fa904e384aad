"""Measure a model that draws nodules by subtype, and variants of it (``evaluate``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tools.evaluation.control import summarize
from tools.evaluation.heart_models import parse_variants
from tools.evaluation.results import write_results
from tools.evaluation.subtype_cases import SubtypeCase, histogram_hu, load_subtype_cases
from tools.evaluation.subtype_classifier import SubtypeClassifier
from tools.evaluation.subtype_figure import write_subtype_figure
from tools.evaluation.subtype_models import (
    Drawn,
    Request,
    SubtypeModel,
    library_requests,
    load_model,
    own_requests,
)
from tools.evaluation.subtype_tables import subtype_page
from tools.histograms import jensen_shannon_divergence
from tools.metrics.lesion_edit import wasserstein_distance_hu
from tools.phantoms.datasets import lesion_datalist
from tools.synthesis.bundles import choose_device, find_bundle
from tools.synthesis.subtypes import SubtypeLibrary
from tools.transforms.conditions import SUBTYPES

__all__ = ["evaluate_subtypes", "measure_drawn"]

PARTS = {"subtype only": (False, True), "histogram only": (True, False), "nothing": (False, False)}


def evaluate_subtypes(
    bundle: str = "bundles/hr_ldm",
    dataset_dir: str = "",
    out: str = "out/evaluate",
    steps: int | None = None,
    limit: int | None = None,
    weights: str | None = None,
    variants: str | Sequence[str] = "",
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Draw validation lesions anew at their own masks, and measure what was asked against drawn.

    Each lesion is asked for as what it is (histogram and subtype, each alone, neither), and as each
    of the subtypes with histograms of training lesions. Writes ``results.json``, ``results.md`` and
    ``results.png`` into ``out``.

    Args:
        bundle: folder of the bundle, or its name.
        dataset_dir: folder with ``datalist.json``, entries with ``texture``; "" is the phantom.
        out: folder for the results.
        steps: of the sampler; None leaves it to the bundle.
        limit: validation lesions, at most, shared equally by the subtypes; None takes all.
        weights: others than the bundle's ``models/model.pt``.
        variants: ``NAME:OVERLAY:WEIGHTS`` separated by commas, OVERLAY a config on top of
            ``inference.json`` or empty, WEIGHTS a file, or the folder of another bundle.
        device: ``auto``, ``cpu``, ``cuda``.
        seed: of sampling and of histograms drawn.

    Returns:
        The content of ``results.json``.

    Raises:
        FileNotFoundError: if the dataset, a config or weights do not exist.
        ValueError: if an argument breaks its rule.
    """
    folder, device = find_bundle(bundle), str(choose_device(device))
    main = load_model(folder.resolve().name, str(folder), weights, "", steps, device)
    others = [
        load_model(v.name, str(folder), v.weights, v.overlay, steps, device)
        for v in parse_variants(variants)
    ]
    settings, window = main.generator.latent, main.generator.window
    if settings is None or window is None:
        raise ValueError(f"bundle must have latent_window in inference.json, got none in {bundle}")
    bins = len(next(iter(main.generator.presets.values()))["histogram"])
    train, cases = (
        load_subtype_cases(lesion_datalist(dataset_dir, part), settings, window, bins, most)
        for part, most in (("training", None), ("validation", limit))
    )
    study = _Study(cases, SubtypeClassifier(train), window, seed)
    results, images = study.measure(main, others)
    results["settings"] = {
        "dataset": dataset_dir or "embedded phantom",
        "training_lesions": len(train),
        "lesions": len(cases),
        "steps": main.generator.settings.get("num_inference_steps"),
        "device": device,
        "threads": torch.get_num_threads(),
        "seed": seed,
    }
    write_results(Path(out), results, subtype_page(results))
    write_subtype_figure(Path(out) / "results.png", cases, images)
    return results


class _Study:
    """The same lesions, requests and seeds for every model.

    Args:
        cases: real lesions.
        classifier: names subtypes.
        window: of the histograms, HU.
        seed: of all chance.
    """

    def __init__(
        self,
        cases: Sequence[SubtypeCase],
        classifier: SubtypeClassifier,
        window: Sequence[float],
        seed: int,
    ) -> None:
        self.cases, self.classifier, self.window, self.seed = cases, classifier, window, seed

    def measure(
        self, main: SubtypeModel, others: Sequence[SubtypeModel]
    ) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
        """Return the results, and the images of the first model by request."""
        images: dict[str, list[np.ndarray]] = {}
        models = {}
        for model in (main, *others):
            # all are asked for the same, of the first one's library
            requests = {"own": own_requests(self.cases)}
            if model is main:
                requests |= {name: own_requests(self.cases, *what) for name, what in PARTS.items()}
            library = main.generator.library or SubtypeLibrary()
            requests |= {n: library_requests(self.cases, library, n, self.seed) for n in library}
            models[model.name], drawn = self._model(model, requests)
            if model is main:
                images = {name: list(run.images) for name, run in drawn.items()}
        real = [case.image for case in self.cases]
        masks = [case.lesion_mask for case in self.cases]
        found = self.classifier.measure(real, masks, [case.subtype for case in self.cases])
        return {"models": models, "real": found}, images

    def _model(
        self, model: SubtypeModel, requests: Mapping[str, Sequence[Request]]
    ) -> tuple[dict[str, Any], dict[str, Drawn]]:
        drawn = {
            name: model.draw(self.cases, asked, self.seed, name) for name, asked in requests.items()
        }
        own = requests["own"]
        rows = {}
        for name, run in drawn.items():
            # asked for less, a lesion is still compared with all that it is
            asked = own if name in PARTS else requests[name]
            rows[name] = measure_drawn(self.cases, run, asked, self.window)
        asked_for = [name for name in drawn if name in SUBTYPES]
        flat = [image for name in asked_for for image in drawn[name].images]
        numbers = [SUBTYPES.index(name) for name in asked_for for _ in self.cases]
        masks = [case.lesion_mask for _ in asked_for for case in self.cases]
        consistency = {"asked": self.classifier.measure(flat, masks, numbers)}
        for name in (name for name in drawn if name not in SUBTYPES):
            truth = [case.subtype for case in self.cases]
            consistency[name] = self.classifier.measure(
                drawn[name].images, masks[: len(truth)], truth
            )
        result = {
            "weights_sha256": model.weights_sha256,
            "margin_mm": model.margin_mm,
            "changed_beyond_margin": sum(run.beyond for run in drawn.values()),
            "seconds_per_lesion": float(np.mean([run.seconds for run in drawn.values()])),
            "requests": rows,
            "consistency": consistency,
        }
        return result, drawn


def measure_drawn(
    cases: Sequence[SubtypeCase], drawn: Drawn, asked: Sequence[Request], window: Sequence[float]
) -> dict[str, Any]:
    """Compare what was asked with what was drawn, over all lesions and by subtype asked.

    Args:
        cases: real lesions.
        drawn: images in the same order.
        asked: histogram and subtype of each, all given.
        window: of the histograms, HU.

    Returns:
        ``{"all" or subtype: {"jsd", "w1_hu", "mean_hu_asked", "mean_hu_drawn": quartiles}}``.
    """
    wanted = torch.tensor([request.histogram for request in asked])
    bins = wanted.shape[1]
    got = torch.tensor(
        [
            histogram_hu(image, case.lesion_mask, bins, window)
            for image, case in zip(drawn.images, cases, strict=True)
        ]
    )
    measures = {
        "jsd": jensen_shannon_divergence(got, wanted),
        "w1_hu": wasserstein_distance_hu(got, wanted, window),
        "mean_hu_asked": _mean_hu(wanted, window),
        "mean_hu_drawn": _mean_hu(got, window),
    }
    numbers = np.array([request.subtype for request in asked])
    groups = {"all": np.ones(len(numbers), bool)}
    groups |= {name: numbers == i for i, name in enumerate(SUBTYPES)}
    return {
        name: {key: summarize(values.numpy()[chosen].tolist()) for key, values in measures.items()}
        for name, chosen in groups.items()
        if chosen.any()
    }


def _mean_hu(histograms: Tensor, window: Sequence[float]) -> Tensor:
    low, high = window
    width = (high - low) / histograms.shape[1]
    centres = low + width * (torch.arange(histograms.shape[1]) + 0.5)
    return (histograms * centres).sum(1) / histograms.sum(1)
