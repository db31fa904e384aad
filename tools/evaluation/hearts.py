"""Measure a heart bundle, and variants of it, on real validation hearts (``evaluate``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tools.evaluation.control import summarize
from tools.evaluation.heart_cases import CLASS_NAMES, HeartCase, load_hearts, other_hearts
from tools.evaluation.heart_control import (
    HeartSamples,
    background_changes,
    divergence_summary,
    measure_samples,
    real_measures,
    sample_hearts,
)
from tools.evaluation.heart_figure import write_heart_figure
from tools.evaluation.heart_models import (
    HeartBundle,
    HeartModel,
    load_heart_bundle,
    load_heart_model,
    parse_variants,
)
from tools.evaluation.heart_realism import mean_fill, tell_apart
from tools.evaluation.heart_tables import heart_page
from tools.evaluation.results import write_results
from tools.phantoms.heart_datasets import heart_datalist
from tools.synthesis.bundles import choose_device, find_bundle
from tools.synthesis.records import sha256_file

__all__ = ["evaluate_hearts"]


def evaluate_hearts(
    bundle: str = "bundles/lefusion_emidec",
    dataset_dir: str = "",
    out: str = "out/evaluate",
    steps: int | None = None,
    limit: int | None = None,
    samples: int = 2,
    weights: str | None = None,
    variants: str | Sequence[str] = "",
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Replace the lesions of validation hearts by synthetic ones and measure these.

    Writes ``results.json`` (every heart), ``results.md`` (tables) and ``results.png`` (slices and
    contrasts) into ``out``.

    Args:
        bundle: folder of the bundle; ``train.json`` names window and network.
        dataset_dir: folder with ``datalist.json`` (section ``validation``); "" is the embedded
            phantom.
        out: folder for the results.
        steps: timesteps of the sampling chain; None leaves it to the bundle.
        limit: number of hearts, at least 2, evenly spread over the list; None takes all.
        samples: synthetic versions of each heart.
        weights: other weights than the bundle's ``models/model.pt``.
        variants: networks to compare with, ``NAME:OVERLAY:WEIGHTS`` separated by commas; OVERLAY
            is a file in the bundle's ``configs`` or empty.
        device: ``auto``, ``cpu``, ``cuda``.
        seed: of sampling, of the choice of other hearts and of the tests.

    Returns:
        The content of ``results.json``.

    Raises:
        FileNotFoundError: if the dataset, a config or weights do not exist.
        ValueError: if ``samples`` is below 1, or another argument breaks its rule.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    # all that can be wrong is found out before the first hour of sampling
    folder = find_bundle(bundle)
    tested = load_heart_bundle(folder)
    model = load_heart_model(folder, folder.resolve().name, weights=weights)
    others = [
        load_heart_model(folder, v.name, v.overlay, v.weights) for v in parse_variants(variants)
    ]
    cases = load_hearts(heart_datalist(dataset_dir, "validation"), tested.window, limit)
    study = _Study(tested, cases, steps, samples, str(choose_device(device)), seed)
    results, images = study.measure(model, others)
    results["settings"] = {"dataset": dataset_dir or "embedded phantom", **results["settings"]}
    target = Path(out)
    write_results(target, results, heart_page(results))
    write_heart_figure(target / "results.png", cases, images, results["hearts"])
    return results


class _Study:
    """The same hearts, requests and seeds for every model.

    Args:
        tested: window and sampler.
        cases: real hearts.
        steps: of the sampler; None leaves it to the bundle.
        samples: per heart.
        device: where networks run.
        seed: of all chance.
    """

    def __init__(
        self,
        tested: HeartBundle,
        cases: Sequence[HeartCase],
        steps: int | None,
        samples: int,
        device: str,
        seed: int,
    ) -> None:
        self.tested, self.cases, self.steps = tested, cases, steps
        self.samples, self.device, self.seed = samples, device, seed
        self.own: list[Tensor] = [case.histograms for case in cases]
        self.order = other_hearts(cases, seed)

    def sample(
        self, model: HeartModel, name: str, requests: Sequence[Tensor] | None, combine: str | None
    ) -> HeartSamples:
        inferer = self.tested.make_inferer(self.steps, combine)
        return sample_hearts(
            model, inferer, self.cases, requests, self.samples, self.seed, name, self.device
        )

    def measure(
        self, model: HeartModel, others: Sequence[HeartModel]
    ) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
        """Return the results, and one image per heart by kind of request."""
        combine = self.tested.make_inferer(self.steps).combine
        other = [self.own[i] for i in self.order]
        runs = {
            "own": self.sample(model, "own", self.own, None),
            "other": self.sample(model, "other", other, None),
            "none": self.sample(model, "none", None, None),
        }
        for how in {"step", "end"} - {combine}:
            runs[how] = self.sample(model, f"combine {how}", self.own, how)
        compared = {v.name: self.sample(v, v.name, self.own, None) for v in others}
        results = {
            "settings": self._settings(model),
            **self._control(runs),
            "combine": {
                how: self._row(runs["own" if how == combine else how]) for how in ("step", "end")
            },
            "background": background_changes(runs | compared, self.cases),
            "seconds_per_heart": summarize(runs["own"].seconds),
            "variants": self._variants(model, others, runs, compared),
        }
        first = {name: [images[0] for images in run.images] for name, run in runs.items()}
        filled = {"constant": [mean_fill(case) for case in self.cases]}
        drawn = {name: [images[0] for images in run.images] for name, run in compared.items()}
        sources = {name: first[name] for name in ("own", "none")} | drawn | filled
        results["discriminator"] = tell_apart(self.cases, sources, self.seed)
        return results, {name: first[name] for name in ("own", "other", "none")}

    def _settings(self, model: HeartModel) -> dict[str, Any]:
        inferer = self.tested.make_inferer(self.steps)
        return {
            "weights_sha256": sha256_file(model.weights)[:16],
            "hearts": len(self.cases),
            "samples": self.samples,
            "steps": len(inferer.transitions),
            "sampler": inferer.sampler,
            "combine": inferer.combine,
            "histogram_strength": inferer.histogram_strength,
            "guidance_scale": inferer.guidance_scale,
            "device": self.device,
            "threads": torch.get_num_threads(),
            "seed": self.seed,
        }

    def _control(self, runs: Mapping[str, HeartSamples]) -> dict[str, Any]:
        """Return divergences and contrasts by request, and every heart."""
        # a heart that is alone with its classes has no other to take a request from
        other = [self.own[j] if j != i else None for i, j in enumerate(self.order)]
        asked: dict[str, tuple[str, Sequence[Tensor | None]]] = {
            "own": ("own", self.own),
            "other": ("other", other),
            "none_own": ("none", self.own),
            "none_other": ("none", other),
        }
        found = {
            name: divergence_summary(runs[run], self.cases, target)
            for name, (run, target) in asked.items()
        }
        measured = {name: measure_samples(runs[name], self.cases) for name in ("own", "none")}
        rows = [
            {
                "name": case.name,
                "patient": case.patient,
                "slices": int(case.label.shape[2]),
                "voxels": dict(zip(CLASS_NAMES, _counts(case), strict=True)),
                "other": self.cases[self.order[i]].name,
                "jsd": {name: by_heart[i] for name, (_, by_heart) in found.items()},
                "real": real,
                "synthetic": {name: values[i] for name, (_, values) in measured.items()},
                "seconds": runs["own"].seconds[i],
            }
            for i, (case, real) in enumerate(
                zip(self.cases, real_measures(self.cases), strict=True)
            )
        ]
        return {
            "control": {name: summary for name, (summary, _) in found.items()},
            "contrast": {name: summary for name, (summary, _) in measured.items()},
            "hearts": rows,
        }

    def _row(self, run: HeartSamples) -> dict[str, Any]:
        """Return what the tables of models and of ways to combine say of one run."""
        return {
            "jsd": divergence_summary(run, self.cases, self.own)[0],
            "contrast": measure_samples(run, self.cases)[0],
            "seconds_per_heart": summarize(run.seconds),
        }

    def _variants(
        self,
        model: HeartModel,
        others: Sequence[HeartModel],
        runs: Mapping[str, HeartSamples],
        compared: Mapping[str, HeartSamples],
    ) -> dict[str, Any]:
        found = {model.name: self._row(runs["own"])}
        if model.controlled:
            found[f"{model.name}, no control"] = self._row(runs["none"])
        for variant in others:
            digest = sha256_file(variant.weights)[:16]
            row = {"weights_sha256": digest, "controlled": variant.controlled}
            found[variant.name] = self._row(compared[variant.name]) | row
        return found


def _counts(case: HeartCase) -> list[int]:
    return [int(count) for count in case.lesion_masks.sum((1, 2, 3))]
