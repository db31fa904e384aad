"""Checkpoints of a training that may be killed at any moment, and where the next run goes on."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers.checkpoint import Checkpoint, DiskSaver
from monai.handlers import CheckpointLoader, CheckpointSaver
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tools.bundle import require_weights_of
from tools.files import claim, new_file

__all__ = ["WholeCheckpointLoader", "WholeCheckpointSaver", "saved_checkpoints", "start_point"]

CHECKPOINT = re.compile(r"checkpoint_epoch=(\d+)\.pt")
PATTERN = "checkpoint_epoch=*.pt"
# in the metadata that torch keeps beside the tensors of a state dict; modules ignore it
BEST = "key_metric"

logger = logging.getLogger(__name__)


class WholeCheckpointSaver(CheckpointSaver):
    """MONAI's saver, but a file is whole or not there, and a better model is never replaced.

    * A checkpoint is written under a hidden name and renamed; older ones are removed afterwards
      (MONAI's saver removes first and writes in place, so that a kill leaves none).
    * At least two checkpoints are kept, those of a run that is gone on with included, and the state
      at the end is always saved.
    * The value of the key metric is kept in the file of the best model; a run that goes on compares
      with it.

    Options are those of :class:`monai.handlers.CheckpointSaver`; ``n_saved`` is 2 or more.
    """

    def __init__(
        self, save_dir: str, save_dict: dict[str, Any], n_saved: int = 2, **options: Any
    ) -> None:
        if n_saved < 2:
            raise ValueError(f"n_saved must be 2 or more, got {n_saved}")
        super().__init__(save_dir, save_dict, n_saved=n_saved, **options)
        self._folder = Path(self.save_dir)
        self._best_file = options.get("key_metric_filename")
        if self._interval_checkpoint is not None:
            self._interval_checkpoint.save_handler = _WholeFiles(self._folder)
        if self._key_metric_checkpoint is not None:
            self._key_metric_checkpoint.save_handler = _WholeFiles(self._folder, self._best_file)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer or evaluator; when it starts, files of an earlier run are read."""
        engine.add_event_handler(Events.STARTED, self._recall)
        super().attach(engine)
        if self._interval_checkpoint is not None:
            engine.add_event_handler(Events.COMPLETED, self._save_last)

    def _recall(self) -> None:
        regular = self._interval_checkpoint
        if regular is not None and not regular._saved:
            found, handler = saved_checkpoints(self._folder), regular.save_handler
            assert isinstance(handler, _WholeFiles)
            regular._saved = [Checkpoint.Item(epoch, path.name) for epoch, path in found]
            while not regular._check_lt_n_saved(or_equal=True):  # killed before it was removed
                handler.remove_now(regular._saved.pop(0).filename)
        best = self._key_metric_checkpoint
        if best is not None and not best._saved and self._best_file:
            priority = _best_value(self._folder / self._best_file)
            if priority is not None:
                best._saved = [Checkpoint.Item(priority, self._best_file)]

    def _save_last(self, engine: Engine) -> None:
        saved = self._interval_checkpoint._saved  # type: ignore[union-attr]
        if not saved or saved[-1].priority < engine.state.epoch:
            self.interval_completed(engine)


class _WholeFiles(DiskSaver):
    """Writes a checkpoint whole, then removes those that it makes superfluous."""

    def __init__(self, folder: Path, filename: str | None = None) -> None:
        super().__init__(str(folder), require_empty=False)
        self._filename = filename
        self._outdated: list[str] = []

    def __call__(self, checkpoint: Mapping, filename: str, metadata: Mapping | None = None) -> None:
        if self._filename is not None and hasattr(checkpoint, "_metadata"):
            checkpoint._metadata[BEST] = {"priority": float((metadata or {})["priority"])}
        super().__call__(checkpoint, self._filename or filename, metadata)
        while self._outdated:
            name = self._outdated.pop()
            if name != filename:
                self.remove_now(name)

    def _save_func(self, checkpoint: Mapping, path: Path, func: Any) -> None:
        try:
            with new_file(path) as partial:
                func(checkpoint, partial, **self.kwargs)
        except (OSError, RuntimeError) as error:  # torch's own error, where a disk is full
            raise OSError(
                f"ckpt_dir must be writable and have room, got {path.parent} ({_reason(error)}); "
                "go on with --resume_from auto when it has"
            ) from error

    def remove(self, filename: str) -> None:
        """Note a file to be removed once the next one is written."""
        if self._filename is None:  # else the next one takes its place
            self._outdated.append(filename)

    def remove_now(self, filename: str) -> None:
        """Remove a file that two newer ones stand beside."""
        super().remove(filename)


class WholeCheckpointLoader(CheckpointLoader):
    """MONAI's loader, which refuses in one sentence what is no checkpoint of this training.

    Options are those of :class:`monai.handlers.CheckpointLoader`.

    Raises:
        ValueError: on start, naming the file and the first part or tensor that does not fit.
    """

    def __call__(self, engine: Engine) -> None:
        """Load all parts of the checkpoint, each of which must be there."""
        content, path = _read(self.load_path), self.load_path
        for name, part in self.load_dict.items():
            if not isinstance(content.get(name), Mapping):
                raise ValueError(
                    f"resume_from must be a checkpoint of this training, got {path}, which holds "
                    f"no {name}"
                )
            if isinstance(part, DistributedDataParallel):
                part = part.module
            if isinstance(part, nn.Module):
                require_weights_of(part, content[name], path)
        trainer = content.get("trainer", {})
        reached = trainer.get("iteration", 0) // (trainer.get("epoch_length") or 1)
        if reached > engine.state.max_epochs:
            raise ValueError(
                f"max_epochs must be at least the {reached} epochs of {path}, got "
                f"{engine.state.max_epochs}"
            )
        super().__call__(engine)


def start_point(
    ckpt_dir: str | os.PathLike[str],
    max_epochs: int,
    resume_from: str | os.PathLike[str] | None = None,
    best_file: str = "model.pt",
    rank: int = 0,
) -> str | None:
    """Return the checkpoint that a training goes on from, None for a new one.

    A training that was interrupted is never written over by the same command. What one that is at
    its end left is moved to ``earlier_1``, ``earlier_2``, ... before the next one begins. Only the
    first process (``rank``) looks after files.

    ``resume_from`` is a checkpoint; ``auto``: the newest in ``ckpt_dir``, if there is one; None:
    the training must be a new one.

    Raises:
        FileNotFoundError: if there is no checkpoint ``resume_from``.
        ValueError: if ``ckpt_dir`` holds a training that is not at its end, or files of others.
    """
    folder = Path(ckpt_dir)
    found = saved_checkpoints(folder)
    if resume_from not in (None, "auto"):
        if not Path(str(resume_from)).is_file():
            raise FileNotFoundError(
                f"resume_from must be a checkpoint or auto, got {resume_from}, which does not exist"
            )
        point: str | None = str(resume_from)
    elif resume_from == "auto" and found:
        point = str(found[-1][1])
        logger.info("going on from %s", point)
    else:
        point = None
    if rank > 0:
        return point
    if resume_from is None and found:
        epoch, path = found[-1]
        if epoch < max_epochs:
            raise ValueError(
                f"output_dir must hold no training that is under way, got {path} of {max_epochs} "
                "epochs; go on with --resume_from auto, or name another output_dir"
            )
        _move_aside(folder, best_file)
    try:
        claim(folder, (best_file, PATTERN, "earlier_*"), "output_dir")
    except OSError as error:
        raise OSError(f"ckpt_dir must be writable, got {folder} ({_reason(error)})") from error
    return point


def saved_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return the epoch and file of each checkpoint in a folder, the newest last."""
    found = ((CHECKPOINT.fullmatch(path.name), path) for path in folder.glob(PATTERN))
    return sorted((int(match[1]), path) for match, path in found if match)


def _best_value(path: Path) -> float | None:
    """Return the value that a best model was kept for; None if there is none, or it is unknown."""
    if not path.is_file():
        return None
    kept = getattr(_read(path), "_metadata", {}).get(BEST, {}).get("priority")
    return None if kept is None else float(kept)


def _read(path: str | os.PathLike[str]) -> Any:
    """Return the content of a file of a training; ValueError where that cannot be read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch fail in many ways
        raise ValueError(
            f"checkpoints must be whole files that torch.save wrote, got {path} "
            f"({type(error).__name__}); move it away, or name another with --resume_from"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"checkpoints must hold states by name, got {path}")
    return content


def _reason(error: Exception) -> str:
    for each in (error, error.__cause__):
        if getattr(each, "strerror", None):
            return str(each.strerror)  # type: ignore[union-attr]
    return "torch could not write it"


def _move_aside(folder: Path, best_file: str) -> None:
    number = 1 + sum(1 for _ in folder.glob("earlier_*"))
    aside = folder / f"earlier_{number}"
    aside.mkdir()
    for path in [*(path for _, path in saved_checkpoints(folder)), folder / best_file]:
        if path.is_file():
            os.replace(path, aside / path.name)
    logger.warning("the training before is kept in %s", aside)
