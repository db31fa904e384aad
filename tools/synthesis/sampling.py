"""Planned lesions of any number of scans, sampled together; the best attempt at each is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tools.synthesis.generator import SEED_STEP, LesionGenerator, WindowJob
from tools.synthesis.records import LesionRecord

__all__ = ["SampledLesion", "ScanWork", "SynthesisResult", "sample_scans"]

TOLERANCE = 0.25  # largest accepted Jensen-Shannon divergence, in nats


@dataclass(frozen=True)
class SynthesisResult:
    """A scan with lesions.

    Args:
        stored: the scan's stored values, changed inside the label only.
        label: uint8, 0 background, 1 lesion (of a heart: its label map with the lesions in it).
        records: one per lesion, in the order of the plans.
    """

    stored: np.ndarray
    label: np.ndarray
    records: list[LesionRecord]


class SampledLesion(Protocol):
    """What is sampled in one window.

    Attributes:
        job: what the generator is asked for.
        jsd: divergence of the best attempt from the histogram requested, infinite before any.
        attempts: samples so far.
        seconds: they took.
    """

    job: WindowJob
    jsd: float
    attempts: int
    seconds: float

    def offer(self, window: np.ndarray) -> None:
        """Keep what a window became if it is the best attempt so far.

        Args:
            window: sampled, in the scan's units.
        """
        ...


@dataclass(frozen=True)
class ScanWork:
    """One scan whose lesions are planned and not yet sampled.

    Args:
        lesions: windows to sample.
        finish: puts the best attempts into the scan.
    """

    lesions: Sequence[SampledLesion]
    finish: Callable[[], SynthesisResult]


def sample_scans(
    works: Sequence[ScanWork],
    generator: LesionGenerator,
    max_attempts: int = 3,
    tolerance: float = TOLERANCE,
) -> list[SynthesisResult]:
    """Sample all lesions of all scans together, again those that miss their histogram.

    What becomes of a lesion depends on its own seed, not on what is sampled beside it.

    Args:
        works: the scans; their lesions are changed in place.
        generator: the bundle.
        max_attempts: at least 1.
        tolerance: largest accepted Jensen-Shannon divergence, in nats.

    Returns:
        One result per scan.

    Raises:
        ValueError: if ``max_attempts`` is below 1.
    """
    if max_attempts < 1:
        raise ValueError(f"max_attempts must be at least 1, got {max_attempts}")
    pending = [lesion for work in works for lesion in work.lesions]
    for attempt in range(max_attempts):
        if not pending:
            break
        start = time.perf_counter()
        for lesion in pending:
            step = SEED_STEP if attempt else 0
            lesion.job = lesion.job._replace(seed=lesion.job.seed + step)
        windows = generator.sample([lesion.job for lesion in pending])
        seconds = (time.perf_counter() - start) / len(pending)
        for lesion, window in zip(pending, windows, strict=True):
            lesion.attempts += 1
            lesion.seconds += seconds
            lesion.offer(window)
        pending = [lesion for lesion in pending if lesion.jsd > tolerance]
    return [work.finish() for work in works]
