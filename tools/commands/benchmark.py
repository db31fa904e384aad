"""Commands that measure speed."""

from __future__ import annotations

from tools.commands.arguments import Number
from tools.commands.result import Result

__all__ = ["benchmark_network", "benchmark_synthesis"]


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
