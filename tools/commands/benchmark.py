"""Commands that measure speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tools.commands.arguments import Number
from tools.commands.result import Result

__all__ = ["benchmark_network", "benchmark_synthesis", "benchmark_training"]


def benchmark_network(threads: Number = 2, repeats: Number = 3) -> Result:
    """Time the published network against a plain implementation of it, in alternating runs.

    Args:
        threads: processor threads.
        repeats: rounds.
    """
    from tools.benchmark.network import benchmark_network as run

    return Result("", run(threads=threads, repeats=repeats))


def benchmark_synthesis(
    bundle: str = "lefusion_lidc",
    count: Number = 3,
    threads: Number = 2,
    repeats: Number = 3,
    steps: Number | None = None,
    device: str = "cpu",
) -> Result:
    """Time every stage of synthesize on scans from 128x128x128 to 512x512x300 voxels.

    Example: python -m tools benchmark synthesis --bundle hr_ldm --repeats 1

    Args:
        bundle: name or folder; weights that are not there are random, at the same cost.
        count: lesions per scan.
        threads: processor threads.
        repeats: runs per size; medians are printed.
        steps: of the sampler; default: the bundle's own number.
        device: auto, cpu or cuda.
    """
    from tools.benchmark.synthesis import benchmark_synthesis as run

    rows = run(bundle, count=count, threads=threads, repeats=repeats, steps=steps, device=device)
    return Result("", {"bundle": bundle, "sizes": rows})


def benchmark_training(
    bundle: str = "lesion_segmentation",
    textures: Sequence[str] = ("lefusion_lidc:hand_crafted", "lefusion_lidc"),
    overlays: Sequence[str] = (),
    synthetic: str = "synthetic",
    patch_size: Number | None = None,
    spacing_mm: Number | None = None,
    steps: Number = 10,
    sampler_steps: Number = 10,
    share: float = 0.25,
    threads: Number = 1,
    device: str = "cpu",
) -> Result:
    """Time training steps of a segmentation without and with lesions made on the fly.

    Example: python -m tools benchmark training --patch_size 96 --steps 5

    On the phantom, with batches of two healthy scans.

    Args:
        bundle: name or folder of the segmentation.
        textures: bundles that draw the lesions, NAME or NAME:METHOD.
        overlays: configs of the segmentation on top of train.json, e.g. dynunet.
        synthetic: the config that makes lesions.
        patch_size: voxels along each axis; default: the bundle's.
        spacing_mm: of the scans; default: the bundle's. Larger voxels cost less memory.
        steps: that are timed, after one that is not.
        sampler_steps: of textures with a network.
        share: of the samples that get a lesion; 0.25 as in DiffTumor's batches, half of which are
            healthy scans, and half of those get a tumour.
        threads: processor threads.
        device: cpu or cuda.
    """
    from tools.benchmark.training import benchmark_training as run
    from tools.benchmark.training import report

    options: dict[str, Any] = {"patch_size": patch_size, "spacing_mm": spacing_mm}
    options |= {"steps": steps, "share": share}
    options |= {"sampler_steps": sampler_steps, "threads": threads, "device": device}
    rows = run(bundle, list(textures), list(overlays), synthetic, **options)
    return Result(report(rows), {"bundle": bundle, "variants": rows})
