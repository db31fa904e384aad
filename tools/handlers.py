"""What a person sees of a training: losses on the bar, and at its end where its files lie."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.handlers import from_engine

from tools.checkpoints import saved_checkpoints

__all__ = ["LossBar", "say_where_files_are"]

logger = logging.getLogger(__name__)


class LossBar(ProgressBar):
    """Ignite's progress bar with the losses of the trainer, each the mean of the epoch so far.

    The means are metrics of the trainer as well, so that the handlers beside this one log and draw
    them once an epoch. They are those of this process: no other need have a bar. Options are those
    of :class:`ignite.handlers.ProgressBar`; names are shown without ``_loss`` at the end.
    """

    def __init__(self, losses: Sequence[str] = ("loss",), **options: Any) -> None:
        super().__init__(**options)
        self._losses = {
            name.removesuffix("_loss"): from_engine(name, first=True) for name in losses
        }
        self._sums = dict.fromkeys(self._losses, 0.0)
        self._count = 0

    def attach(self, engine: Engine) -> None:  # type: ignore[override]
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        super().attach(engine, list(self._losses))

    def _start(self, engine: Engine) -> None:
        self._sums, self._count = dict.fromkeys(self._losses, 0.0), 0

    def _add(self, engine: Engine) -> None:
        self._count += 1
        for name, read in self._losses.items():
            self._sums[name] += float(read(engine.state.output))
            engine.state.metrics[name] = self._sums[name] / self._count


def say_where_files_are(weights: str | os.PathLike[str], log_dir: str | os.PathLike[str]) -> None:
    """Log in one line where best weights, last checkpoint and curves of a training lie.

    Checkpoints lie beside the best weights, which a training without validation does not have.
    """
    best = Path(weights)
    found = [f"weights: {best}"] if best.is_file() else ["no weights, since nothing was validated"]
    found += [f"last checkpoint: {path}" for _, path in saved_checkpoints(best.parent)[-1:]]
    logger.info("training done; %s; curves: tensorboard --logdir %s", "; ".join(found), log_dir)
