"""How fast the factorised U-Net is, against the same network computed the plain way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from tools.benchmark.plain_factorised_unet import PlainFactorisedUNet
from tools.networks.factorised_unet import FactorisedUNet

VARIANTS = ("plain float32", "fast float32", "fast bfloat16")

Run = Callable[[], Tensor]
Times = list[tuple[float, float]]  # elapsed and processor seconds


def benchmark_network(
    threads: int = 2,
    repeats: int = 3,
    warmup: int = 1,
    base_channels: int = 64,
    spatial_size: Sequence[int] = (64, 64, 32),
    seed: int = 0,
) -> dict[str, Any]:
    """Time one forward pass on the processor at the published size, plain against fast.

    The variants take turns within one process, so that other load meets them alike. Processor
    seconds are robust against other jobs, elapsed seconds are not; ratios of the medians are given
    for both. Random weights: the arithmetic does not depend on them. ``warmup`` runs per variant go
    untimed before the ``repeats``.

    Returns:
        The settings and ``variants``: of each ``wall_s`` and ``cpu_s`` (min, median, max),
        ``wall_ratio``, ``cpu_ratio`` (plain / variant) and ``difference``, the largest deviation
        from the plain output over its largest value.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runs = _runs(base_channels, spatial_size, seed)
        times, outputs = _measure(runs, repeats, warmup)
    finally:
        torch.set_num_threads(before)
    report = {
        "threads": threads,
        "repeats": repeats,
        "base_channels": base_channels,
        "spatial_size": list(spatial_size),
        "variants": _summary(times, outputs),
    }
    _print_table(report)
    return report


def _runs(base_channels: int, spatial_size: Sequence[int], seed: int) -> list[Run]:
    """Return one call per variant; all share weights and input."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fast = FactorisedUNet(1, 1, base_channels, condition_size=16).eval()
        x = torch.randn(1, 1, *spatial_size)
    timesteps, condition = torch.tensor([150]), torch.full((1, 16), 1 / 16)
    plain = PlainFactorisedUNet(1, 1, base_channels, condition_size=16).eval()
    half = FactorisedUNet(1, 1, base_channels, condition_size=16).eval()
    for network in (plain, half):
        network.load_state_dict(fast.state_dict())
    networks = (plain, fast, half.bfloat16())
    return [partial(network, x, timesteps, condition) for network in networks]


def _measure(runs: list[Run], repeats: int, warmup: int) -> tuple[list[Times], list[Tensor]]:
    """Return (elapsed, processor) seconds of every run, and the output, of each variant."""
    times: list[Times] = [[] for _ in runs]
    outputs: list[Tensor] = []
    with torch.inference_mode():
        for turn in range(warmup + repeats):
            outputs.clear()
            for run, rows in zip(runs, times, strict=True):
                wall, cpu = time.perf_counter(), time.process_time()
                outputs.append(run())
                if turn >= warmup:
                    rows.append((time.perf_counter() - wall, time.process_time() - cpu))
    return times, outputs


def _summary(times: list[Times], outputs: list[Tensor]) -> dict[str, dict[str, Any]]:
    """Return spread, ratio to the first variant and deviation from it, by variant."""
    summary: dict[str, dict[str, Any]] = {}
    for name, rows, output in zip(VARIANTS, times, outputs, strict=True):
        entry: dict[str, Any] = {}
        for key, values in zip(("wall", "cpu"), zip(*rows, strict=True), strict=True):
            entry[f"{key}_s"] = [min(values), median(values), max(values)]
            plain = summary.get(VARIANTS[0], entry)
            entry[f"{key}_ratio"] = plain[f"{key}_s"][1] / entry[f"{key}_s"][1]
        deviation = (output - outputs[0]).abs().max() / outputs[0].abs().max()
        summary[name] = {**entry, "difference": float(deviation)}
    return summary


def _print_table(report: dict[str, Any]) -> None:
    size = " x ".join(str(each) for each in report["spatial_size"])
    print(f"forward, 1 x {size}, base {report['base_channels']}, {report['threads']} thread(s)")
    runs = report["repeats"]
    print(f"{runs} runs: min / median / max; ratio of the medians of processor seconds")
    print(f"{'variant':<15}{'elapsed s':>23}{'processor s':>23}{'ratio':>7}{'difference':>12}")
    for name, entry in report["variants"].items():
        wall, cpu = (" / ".join(f"{v:.2f}" for v in entry[key]) for key in ("wall_s", "cpu_s"))
        ratio, difference = entry["cpu_ratio"], entry["difference"]
        print(f"{name:<15}{wall:>23}{cpu:>23}{ratio:>7.2f}{difference:>12.1e}")
