"""Measure a bundle on real validation lesions and write the figures down (``evaluate``)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tools.evaluation.control import (
    SamplingOptions,
    divergences,
    measure_control,
    measure_order,
    summarize,
    synthesize_lesions,
)
from tools.evaluation.discriminator import constant_fill, discriminate, lesion_crops
from tools.evaluation.figure import write_figure
from tools.evaluation.lesions import ValidationLesion, load_lesions
from tools.evaluation.loading import BundleUnderTest, load_bundle
from tools.evaluation.results import write_results
from tools.evaluation.tables import results_page
from tools.phantoms.datasets import lesion_datalist
from tools.synthesis.bundles import choose_device, find_bundle
from tools.synthesis.records import sha256_file

__all__ = ["evaluate_bundle"]

REPAINT_FILES = ("train.json", "repaint.json")


def evaluate_bundle(
    bundle: str = "bundles/lefusion_lidc",
    dataset_dir: str = "",
    out: str = "out/evaluate",
    steps: int = 50,
    limit: int | None = None,
    discriminator: bool = False,
    weights: str | None = None,
    repaint_weights: str | None = None,
    guidance_scale: float | None = None,
    histogram_strength: float | None = None,
    amp_dtype: str | None = None,
    batch_size: int = 8,
    device: str = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """Measure control, order of textures, background and, if asked, how real the lesions look.

    Writes ``results.json`` (every lesion), ``results.md`` (tables) and ``results.png`` (violins and
    examples) into ``out``.

    Args:
        bundle: folder of the bundle, or its name; its ``inference.json`` names network and sampler.
        dataset_dir: folder with ``datalist.json`` (section ``validation``); "" is the
            embedded phantom.
        out: folder for the results.
        steps: timesteps of the sampling chain.
        limit: number of lesions, evenly spread over the list; None takes all.
        discriminator: also train discriminators on real against synthetic crops.
        weights: other weights than the bundle's ``models/model.pt``.
        repaint_weights: weights trained with the overlay ``repaint.json``; the baseline is sampled
            as that overlay says, with the same requests.
        guidance_scale: 1 means none; None leaves it to the bundle.
        histogram_strength: 0 to 1; None leaves it to the bundle.
        amp_dtype: ``bfloat16``, ``float16`` or ``float32``; None leaves it to the bundle.
        batch_size: windows of equal size per batch.
        device: ``auto``, ``cpu``, ``cuda``.
        seed: of sampling, of the choice of other lesions and of the discriminator.

    Returns:
        The content of ``results.json``.

    Raises:
        FileNotFoundError: if the dataset, a config or weights do not exist.
    """
    device, folder = str(choose_device(device)), find_bundle(bundle)
    options = SamplingOptions(
        steps, guidance_scale, histogram_strength, batch_size, amp_dtype, device, seed
    )
    tested = load_bundle(folder, weights)
    baseline = load_bundle(folder, repaint_weights, REPAINT_FILES) if repaint_weights else None
    lesions = _load(dataset_dir, tested, limit)
    results, images = _measure(tested, lesions, options)
    results["settings"] = {
        "dataset": dataset_dir or "embedded phantom",
        "weights_sha256": sha256_file(tested.weights)[:16],
        **asdict(options),
        **{name: getattr(tested.make_inferer(options), name) for name in _SETTINGS},
    }
    sources = {"ours": images["own"], "constant": [constant_fill(lesion) for lesion in lesions]}
    if baseline is not None:
        sources["repaint"], results["repaint"] = _repaint(baseline, tested, lesions, options)
    if discriminator:
        results["discriminator"] = _discriminate(lesions, sources, tested, options)
    _write(Path(out), results, lesions, images, tested)
    return results


_SETTINGS = ("sampler", "background", "guidance_scale", "histogram_strength")


def _load(dataset_dir: str, tested: BundleUnderTest, limit: int | None) -> list[ValidationLesion]:
    files = lesion_datalist(dataset_dir, "validation")
    bins = len(next(iter(tested.presets.values())))
    return load_lesions(files, tested.window_hu, bins, limit)


def _measure(
    tested: BundleUnderTest, lesions: Sequence[ValidationLesion], options: SamplingOptions
) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """Return the results of control and order, and the images of both by request."""
    network, make_inferer = tested.network, tested.make_inferer
    start = time.perf_counter()
    control, images = measure_control(network, make_inferer, lesions, options)
    order, preset_images = measure_order(
        network, make_inferer, lesions, tested.presets, options, tested.window_hu
    )
    count = len(lesions) * (len(images) + len(preset_images))
    seconds = (time.perf_counter() - start) / count
    results = {"control": control, "order": order, "seconds_per_lesion": seconds}
    return results, images | preset_images


def _repaint(
    baseline: BundleUnderTest,
    tested: BundleUnderTest,
    lesions: Sequence[ValidationLesion],
    options: SamplingOptions,
) -> tuple[list[Tensor], dict[str, Any]]:
    """Return the images of the baseline for each lesion's own histogram, and their divergence."""
    own = [lesion.histogram for lesion in lesions]
    ours = tested.make_inferer(options)
    # the same guidance and strength, so that training and background are all that differs
    options = replace(
        options,
        guidance_scale=ours.guidance_scale,
        histogram_strength=ours.histogram_strength,
    )
    images = synthesize_lesions(
        baseline.network, baseline.make_inferer, lesions, own, options, "repaint"
    )
    return images, {"own": summarize(divergences(images, lesions, own))}


def _discriminate(
    lesions: Sequence[ValidationLesion],
    sources: Mapping[str, Sequence[Tensor]],
    tested: BundleUnderTest,
    options: SamplingOptions,
) -> dict[str, Any]:
    real = lesion_crops(lesions, window_hu=tested.window_hu)
    patients = [lesion.patient for lesion in lesions]
    found = {}
    for name, images in sources.items():
        crops = lesion_crops(lesions, images, window_hu=tested.window_hu)
        found[name] = discriminate(real, crops, patients, seed=options.seed, device=options.device)
    return found


def _write(
    out: Path,
    results: Mapping[str, Any],
    lesions: Sequence[ValidationLesion],
    images: Mapping[str, Sequence[Tensor]],
    tested: BundleUnderTest,
) -> None:
    """Write results, tables and picture."""
    write_results(out, results, results_page(results))
    shown = {name: images[name] for name in ("own", *tested.presets)}
    write_figure(out / "results.png", results["control"], lesions, shown, tested.window_hu)
