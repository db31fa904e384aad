"""The tasks that a study can train for, by the name that presets have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from tools.studies.downstream import classification, detection, segmentation
from tools.studies.downstream.cases import Case
from tools.studies.downstream.effects import Report

__all__ = ["TASKS", "Task"]


class Task(Protocol):
    """What a module of a task has."""

    REPORT: Report
    HEALTHY: bool  # whether all arms are trained on sites without lesion, too

    def train(
        self,
        cases: Sequence[Case],
        classes: Mapping[str, Any],
        settings: Mapping[str, Any],
        seed: int,
        device: torch.device,
    ) -> tuple[nn.Module, list[float]]:
        """Return a network trained on cases, and its losses.

        Args:
            cases: real and synthetic ones together.
            classes: of the preset.
            settings: ``training`` of the preset, with what the arm changes.
            seed: of weights, batches and transforms.
            device: to train on.
        """

    def measure(
        self,
        network: nn.Module,
        cases: Sequence[Case],
        classes: Mapping[str, Any],
        settings: Mapping[str, Any],
        device: torch.device,
    ) -> Iterator[dict[str, Any]]:
        """Yield a row of each test case: ``name``, ``patient``, and what the report is made of."""

    def kept(
        self,
        cases: Sequence[Case],
        classes: Mapping[str, Any],
        settings: Mapping[str, Any],
        seed: int,
    ) -> list[Case]:
        """Return the real cases of a run that are trained on."""

    def group(
        self, case: Case, classes: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> int | None:
        """Return the group of a case; ``real_share`` holds within each."""

    def synthetic_cases(
        self,
        rule: Mapping[str, Any],
        ratio: float,
        real: Sequence[Case],
        taken: Sequence[Case],
        classes: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> int:
        """Return how many cases of a pool an arm takes, by its ratio and the real cases."""


TASKS: Mapping[str, Task] = {
    "classification": classification,
    "detection": detection,
    "segmentation": segmentation,
}
