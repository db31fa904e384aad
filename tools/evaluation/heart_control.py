"""Synthetic lesions in real hearts: what was asked, what was got, what changed around it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from torch import Tensor
from tqdm import tqdm

from tools.evaluation.control import summarize
from tools.evaluation.heart_cases import CLASS_NAMES, HeartCase, class_histograms, paste_lesion
from tools.evaluation.heart_contrast import border_jump, compare_values, heart_contrasts
from tools.evaluation.heart_models import HeartModel
from tools.histograms import jensen_shannon_divergence

__all__ = [
    "CONTRASTS",
    "HeartSamples",
    "background_changes",
    "case_divergences",
    "divergence_summary",
    "measure_samples",
    "real_measures",
    "sample_hearts",
]

CONTRASTS = ("infarct", "no_reflow", "ratio")
SEED_STEP = 1009  # from sample to sample: more than there are hearts


@dataclass(frozen=True)
class HeartSamples:
    """Synthetic windows of one model with one kind of request.

    Attributes:
        images: per heart, per sample, ``(1, H, W, D)`` in [-1, 1].
        seconds: per heart, of one sample on average.
    """

    images: list[list[Tensor]]
    seconds: list[float]


def sample_hearts(
    model: HeartModel,
    inferer: Inferer,
    cases: Sequence[HeartCase],
    requests: Sequence[Tensor] | None,
    samples: int = 2,
    seed: int = 0,
    description: str = "sampling",
    device: str = "cpu",
) -> HeartSamples:
    """Return synthetic lesions in the masks of the real ones.

    Args:
        model: the network; one that takes no histograms is given none.
        inferer: called ``inferer(inputs, network, condition=..., seeds=...)``.
        cases: real hearts.
        requests: per heart the histograms of the classes, ``(K, bins)``; None: no control.
        samples: per heart; sample s of heart i has the seed ``seed + 1009 s + i``, whatever the
            model and the request.
        seed: the first one.
        description: in front of the progress bar.
        device: where the network runs.
    """
    network = model.network.to(device)
    images: list[list[Tensor]] = []
    seconds: list[float] = []
    with tqdm(total=len(cases) * samples, desc=description) as bar, torch.inference_mode():
        for i, case in enumerate(cases):
            scan = case.image.expand(case.lesion_masks.shape)
            inputs = torch.cat([scan, case.lesion_masks])[None].to(device)
            condition = None
            if requests is not None and model.controlled:
                condition = requests[i].flatten()[None].to(device)
            start, drawn = time.perf_counter(), []
            # one by one: no result may hang on what else was in a batch
            for number in range(samples):
                seeds = [seed + SEED_STEP * number + i]
                output = inferer(inputs, network, condition=condition, seeds=seeds)
                drawn.append(output[0, :1].cpu())
                bar.update()
            seconds.append((time.perf_counter() - start) / samples)
            images.append(drawn)
    return HeartSamples(images, seconds)


def case_divergences(image: Tensor, case: HeartCase, histograms: Tensor) -> dict[str, float | None]:
    """Return the Jensen-Shannon divergence (nats) of each class; None where it is absent.

    Args:
        image: synthetic window, ``(1, H, W, D)``.
        case: whose masks count.
        histograms: requested ones, ``(K, bins)``.
    """
    achieved = class_histograms(image, case.lesion_masks, histograms.shape[1])
    values = jensen_shannon_divergence(achieved, histograms)
    known = (achieved.sum(1) > 0) & (histograms.sum(1) > 0)
    return {
        name: float(value) if there else None
        for name, value, there in zip(CLASS_NAMES, values, known, strict=True)
    }


def divergence_summary(
    samples: HeartSamples,
    cases: Sequence[HeartCase],
    histograms: Sequence[Tensor | None],
) -> tuple[dict[str, Any], list[dict[str, float | None]]]:
    """Return quartiles of the divergences by class, and the means over samples of each heart.

    Args:
        samples: synthetic windows.
        cases: their hearts.
        histograms: what they are compared with; None leaves the heart out.

    Returns:
        ``{class: quartiles, or None where no heart has it}``, one value per heart, and
        ``[{class: nats or None}]`` by heart.
    """
    rows: list[dict[str, float | None]] = []
    for images, case, histogram in zip(samples.images, cases, histograms, strict=True):
        row: dict[str, float | None] = dict.fromkeys(CLASS_NAMES)
        if histogram is not None:
            found = [case_divergences(image, case, histogram) for image in images]
            row = {name: _mean([values[name] for values in found]) for name in CLASS_NAMES}
        rows.append(row)
    summary = {}
    for name in CLASS_NAMES:
        known = [value for row in rows if (value := row[name]) is not None]
        summary[name] = summarize(known) if known else None
    return summary, rows


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _measures(image: Tensor, case: HeartCase) -> dict[str, float | None]:
    """Return contrasts and border jump of a window."""
    values, tissue = image[0].double().numpy(), case.tissue.numpy()
    found, jump = heart_contrasts(values, tissue), border_jump(values, tissue)
    for name in ("fall", "step"):
        found[name] = None if jump is None else jump[name]
    return found


def real_measures(cases: Sequence[HeartCase]) -> list[dict[str, float | None]]:
    """Return contrasts (``infarct``, ``no_reflow``, ``ratio``) and jump (``fall``, ``step``)."""
    return [_measures(case.image, case) for case in cases]


def measure_samples(
    samples: HeartSamples, cases: Sequence[HeartCase]
) -> tuple[dict[str, Any], list[list[dict[str, float | None]]]]:
    """Compare contrasts and border jump of synthetic lesions with the real ones in their place.

    Returns:
        ``{measure: comparison or None}``, see
        :func:`tools.evaluation.heart_contrast.compare_values`, and the values by heart and sample.
    """
    real = real_measures(cases)
    drawn = [
        [_measures(image, case) for image in images]
        for images, case in zip(samples.images, cases, strict=True)
    ]
    compared = {
        name: compare_values(
            [row[name] for row in real], [[row[name] for row in rows] for rows in drawn]
        )
        for name in (*CONTRASTS, "fall", "step")
    }
    return compared, drawn


def background_changes(
    runs: Mapping[str, HeartSamples], cases: Sequence[HeartCase]
) -> dict[str, int]:
    """Return how many voxels outside the lesions changed; both must be 0.

    Returns:
        ``scan``: on the scans' own grids, after pasting back; ``window``: in the model's windows;
        ``changed_inside``: voxels of the scans' lesions that differ from the real ones.
    """
    found = {"scan": 0, "window": 0, "changed_inside": 0}
    for run in runs.values():
        for images, case in zip(run.images, cases, strict=True):
            lesion, free = case.label >= 3, case.lesion_masks.amax(0, keepdim=True) == 0
            for image in images:
                changed = paste_lesion(case, image) != case.scan
                found["scan"] += int((changed & ~lesion).sum())
                found["changed_inside"] += int((changed & lesion).sum())
                found["window"] += int(((image != case.image) & free).sum())
    return found
