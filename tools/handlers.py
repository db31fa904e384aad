"""Handlers of a training: what a person sees of it, and what lets it go on as if never stopped."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler, ProgressBar
from ignite.handlers.state_param_scheduler import LambdaStateScheduler
from monai.data.utils import set_rnd
from monai.handlers import from_engine
from monai.utils.misc import MAX_SEED, set_determinism

from tools.checkpoints import saved_checkpoints

__all__ = ["Average", "EpochChance", "LossBar", "say_where_files_are"]

logger = logging.getLogger(__name__)


class EpochChance:
    """Makes chance and order of data of an epoch depend on seed, process and epoch alone.

    A training that is gone on with then sees the samples, crops and noise that it would have seen,
    however many processes it has, and a checkpoint needs no states of generators. Attach it first.
    """

    def __init__(self, seed: int, rank: int = 0) -> None:
        self._seed, self._rank = seed, rank

    def attach(self, engine: Any) -> None:
        """Attach to a trainer of MONAI."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Seed all generators, those of transforms too, and begin the data anew."""
        parts = (self._seed % MAX_SEED, self._rank, engine.state.epoch)
        seed = int(np.random.SeedSequence(parts).generate_state(1)[0])
        set_determinism(seed)
        set_rnd(engine.data_loader.dataset, seed)
        set_rnd(getattr(engine.data_loader, "collate_fn", None), seed)
        engine.set_data(engine.data_loader)


class Average(EMAHandler):
    """Ignite's averaged weights; when a training goes on, so does the warm-up of its momentum.

    What no gradient reaches is taken as it is: a codebook follows its vectors by itself, and the
    mean of a code and of what took its place is neither. Options are those of
    :class:`ignite.handlers.EMAHandler`.
    """

    def attach(self, engine: Engine, *options: Any, **more: Any) -> None:
        """Attach to a trainer."""
        super().attach(engine, *options, **more)
        engine.add_event_handler(Events.EPOCH_STARTED, self._go_on)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._copy_frozen)

    @torch.no_grad()
    def _copy_frozen(self) -> None:
        pairs = zip(self.ema_model.parameters(), self.model.parameters(), strict=True)
        for averaged, now in pairs:
            if not now.requires_grad:
                averaged.copy_(now)

    def _go_on(self, engine: Engine) -> None:
        warm_up = getattr(self, "momentum_scheduler", None)  # there is none without a warm-up
        if isinstance(warm_up, LambdaStateScheduler):
            warm_up.event_index = engine.state.iteration


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
