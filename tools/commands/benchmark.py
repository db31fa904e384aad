"""Commands that measure speed."""

from __future__ import annotations

__all__ = ["benchmark_network", "benchmark_synthesis"]


def benchmark_network(threads: int = 2, repeats: int = 3) -> None:
    """Time the published network against a plain implementation of it, in alternating runs.

    Args:
        threads: processor threads.
        repeats: rounds.
    """
    from tools.benchmark.network import benchmark_network as run

    run(threads=threads, repeats=repeats)


def benchmark_synthesis(count: int = 3, threads: int = 2, repeats: int = 3) -> None:
    """Time every stage of synthesize on scans from 128x128x128 to 512x512x300 voxels.

    Args:
        count: lesions per scan.
        threads: processor threads.
        repeats: runs per size; medians are printed.
    """
    from tools.benchmark.synthesis import benchmark_synthesis as run

    run(count=count, threads=threads, repeats=repeats)
