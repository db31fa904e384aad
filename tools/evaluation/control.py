"""Does the histogram control the lesion? What was asked, what was got, what changed around it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from torch import Tensor, nn
from tqdm import tqdm

from tools.evaluation.lesions import ValidationLesion, mean_hu
from tools.histograms import intensity_histogram, jensen_shannon_divergence
from tools.transforms.conditions import derangement

__all__ = [
    "InfererFactory",
    "SamplingOptions",
    "background_difference",
    "derangement",
    "divergences",
    "measure_control",
    "measure_order",
    "noise_floor",
    "ordered_fraction",
    "summarize",
    "synthesize_lesions",
]


@dataclass(frozen=True)
class SamplingOptions:
    """How lesions are sampled.

    Attributes:
        steps: timesteps of the chain.
        guidance_scale: classifier-free guidance; 1 means none; None leaves it to the bundle.
        histogram_strength: 0 (off) to 1, rank matching of each estimate; None leaves it to the
            bundle.
        batch_size: lesions of equal window size per batch; changes no result.
        amp_dtype: ``"bfloat16"``, ``"float16"`` or ``"float32"``; None leaves it to the bundle.
        device: where the network runs.
        seed: lesion i is sampled with ``seed + i``.
    """

    steps: int = 50
    guidance_scale: float | None = None
    histogram_strength: float | None = None
    batch_size: int = 8
    amp_dtype: str | None = None
    device: str = "cpu"
    seed: int = 0


InfererFactory = Callable[[SamplingOptions], Inferer]


def synthesize_lesions(
    network: nn.Module,
    make_inferer: InfererFactory,
    lesions: Sequence[ValidationLesion],
    histograms: Sequence[Tensor] | None,
    options: SamplingOptions,
    description: str = "sampling",
) -> list[Tensor]:
    """Return one synthetic window per lesion, in the mask of the real one.

    Args:
        network: called ``network(x, timesteps, condition)``.
        make_inferer: returns the sampler for the options; it is called as
            ``inferer(inputs, network, condition=..., seeds=...)``.
        lesions: real lesions; windows of equal size share a batch.
        histograms: one request per lesion, each ``(bins,)``; None samples without control.
        options: of the sampling.
        description: in front of the progress bar.

    Returns:
        Tensors ``(1, H, W, D)`` in [-1, 1] on the CPU, in the order of ``lesions``.
    """
    inferer = make_inferer(options)
    network = network.to(options.device).eval()
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, lesion in enumerate(lesions):
        groups[tuple(lesion.image.shape)].append(i)
    results: list[Tensor] = [torch.empty(0)] * len(lesions)
    with tqdm(total=len(lesions), desc=description) as bar, torch.no_grad():
        for members in groups.values():
            for start in range(0, len(members), options.batch_size):
                batch = members[start : start + options.batch_size]
                windows = [torch.cat([lesions[i].image, lesions[i].lesion_mask]) for i in batch]
                condition = None
                if histograms is not None:
                    condition = torch.stack([histograms[i] for i in batch]).to(options.device)
                inputs = torch.stack(windows).to(options.device)
                seeds = [options.seed + i for i in batch]
                outputs = inferer(inputs, network, condition=condition, seeds=seeds).cpu()
                for i, output in zip(batch, outputs, strict=True):
                    results[i] = output
                bar.update(len(batch))
    return results


def divergences(
    images: Sequence[Tensor], lesions: Sequence[ValidationLesion], histograms: Sequence[Tensor]
) -> list[float]:
    """Return the Jensen-Shannon divergence (nats) of each image's lesion from a histogram."""
    values = []
    for image, lesion, histogram in zip(images, lesions, histograms, strict=True):
        achieved = intensity_histogram(image, lesion.lesion_mask, len(histogram))[0]
        values.append(float(jensen_shannon_divergence(achieved, histogram)))
    return values


def noise_floor(
    lesions: Sequence[ValidationLesion], histograms: Sequence[Tensor], seed: int = 0
) -> list[float]:
    """Return the divergence that chance alone leaves: one draw from the histogram per lesion voxel.

    A network that draws voxels independently from the requested histogram would reach this; one
    that arranges them can be better.
    """
    rng = np.random.default_rng(seed)
    values = []
    for lesion, histogram in zip(lesions, histograms, strict=True):
        weights = histogram.double().numpy()
        counts = rng.multinomial(int(lesion.lesion_mask.sum()), weights / weights.sum())
        values.append(float(jensen_shannon_divergence(torch.from_numpy(counts), histogram)))
    return values


def background_difference(images: Sequence[Tensor], lesions: Sequence[ValidationLesion]) -> float:
    """Return the largest absolute change outside the masks; it must be exactly 0."""
    worst = 0.0
    for image, lesion in zip(images, lesions, strict=True):
        change = (image - lesion.image).abs() * (lesion.lesion_mask == 0)
        worst = max(worst, float(change.max()))
    return worst


def summarize(values: Sequence[float]) -> dict[str, float | int]:
    """Return median, quartiles, mean and number of the values."""
    q1, middle, q3 = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": middle, "q1": q1, "q3": q3, "mean": float(np.mean(values)), "n": len(values)}


def measure_control(
    network: nn.Module,
    make_inferer: InfererFactory,
    lesions: Sequence[ValidationLesion],
    options: SamplingOptions,
) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """Compare requested and achieved histograms: the lesion's own, another's, and none.

    ``own`` asks for the lesion's own histogram, ``other`` for that of another lesion drawn at
    random (control, not inference from context), ``none`` for nothing; the last is compared
    with both.

    Args:
        network: called ``network(x, timesteps, condition)``.
        make_inferer: returns the sampler for the options.
        lesions: at least 2.
        options: of the sampling; its seed also draws the other lesions.

    Returns:
        ``{"lesions": [per lesion], "summary": {measure: quartiles}, "background_difference":
        0.0}``, which serialises to JSON, and the images of ``own``, ``other`` and ``none``.
    """
    order = derangement(len(lesions), options.seed)
    own = [lesion.histogram for lesion in lesions]
    other = [own[i] for i in order]
    images = {
        name: synthesize_lesions(network, make_inferer, lesions, requests, options, name)
        for name, requests in (("own", own), ("other", other), ("none", None))
    }
    measures = {
        "own": divergences(images["own"], lesions, own),
        "other": divergences(images["other"], lesions, other),
        "none_own": divergences(images["none"], lesions, own),
        "none_other": divergences(images["none"], lesions, other),
        "floor_own": noise_floor(lesions, own, options.seed),
        "floor_other": noise_floor(lesions, other, options.seed),
    }
    rows = [
        {
            "name": lesion.name,
            "patient": lesion.patient,
            "voxels": int(lesion.lesion_mask.sum()),
            "window": lesion.image.shape[-1],
            "other": lesions[order[i]].name,
            "jsd": {name: values[i] for name, values in measures.items()},
        }
        for i, lesion in enumerate(lesions)
    ]
    result = {
        "lesions": rows,
        "summary": {name: summarize(values) for name, values in measures.items()},
        "background_difference": max(background_difference(v, lesions) for v in images.values()),
    }
    return result, images


def ordered_fraction(values: Sequence[Sequence[float]]) -> float:
    """Return the fraction of rows whose entries rise strictly from first to last.

    Example:
        >>> ordered_fraction([(-600, -200, 20), (-600, 30, 20)])
        0.5
    """
    return float(np.mean([(np.diff(row) > 0).all() for row in values]))


def _expected_hu(histogram: Sequence[float], window_hu: Sequence[float]) -> float:
    """Return the mean of a histogram whose bins span the window."""
    low, high = window_hu
    centres = (np.arange(len(histogram)) + 0.5) * ((high - low) / len(histogram)) + low
    return float(np.average(centres, weights=histogram))


def measure_order(
    network: nn.Module,
    make_inferer: InfererFactory,
    lesions: Sequence[ValidationLesion],
    presets: Mapping[str, Sequence[float]],
    options: SamplingOptions,
    window_hu: Sequence[float] = (-1000.0, 400.0),
) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """Ask for each preset on the same scan, mask and noise, and compare the mean HU.

    Args:
        network: called ``network(x, timesteps, condition)``.
        make_inferer: returns the sampler for the options.
        lesions: scans and masks.
        presets: histograms by name, **in rising order of density** (ground-glass, part-solid,
            solid).
        options: of the sampling.
        window_hu: intensities that -1 and 1 stand for.

    Returns:
        ``{"order", "requested_hu": {preset: HU}, "ordered_fraction", "mean_hu": {preset:
        quartiles}, "jsd": {preset: quartiles}, "lesions": [{"name", "mean_hu": {preset: HU}}],
        "background_difference"}``, and the images by preset.
    """
    images, means, jsd = {}, {}, {}
    for name, histogram in presets.items():
        requests = [torch.tensor(list(histogram), dtype=torch.float32)] * len(lesions)
        made = synthesize_lesions(network, make_inferer, lesions, requests, options, name)
        pairs = zip(made, lesions, strict=True)
        means[name] = [mean_hu(image, lesion.lesion_mask, window_hu) for image, lesion in pairs]
        jsd[name] = summarize(divergences(made, lesions, requests))
        images[name] = made
    triples = list(zip(*means.values(), strict=True))
    rows = [
        {"name": lesion.name, "mean_hu": dict(zip(presets, triple, strict=True))}
        for lesion, triple in zip(lesions, triples, strict=True)
    ]
    result = {
        "order": list(presets),
        "requested_hu": {name: _expected_hu(h, window_hu) for name, h in presets.items()},
        "ordered_fraction": ordered_fraction(triples),
        "mean_hu": {name: summarize(values) for name, values in means.items()},
        "jsd": jsd,
        "lesions": rows,
        "background_difference": max(background_difference(v, lesions) for v in images.values()),
    }
    return result, images
