"""What a person sees of a training: mean losses on the bar, and at its end where its files lie."""

import io
import logging
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from tools.handlers import LossBar, say_where_files_are


def outputs(names: list[str]) -> Engine:
    """A trainer that loses 1, 2, 3, ... under each name, as MONAI's give it: a list of samples."""
    return Engine(lambda _, loss: [dict.fromkeys(names, torch.tensor(float(loss)))] * 2)


def test_bar_shows_the_mean_of_the_epoch_so_far_and_others_can_read_it() -> None:
    screen, trainer = io.StringIO(), outputs(["loss"])
    LossBar(desc="training", file=screen, mininterval=0).attach(trainer)
    trainer.run([1, 2, 6], max_epochs=2)
    assert all(screen.getvalue().count(f"loss={mean}") >= 2 for mean in ("1 ", "1.5", "3 "))
    assert trainer.state.metrics == {"loss": 3.0}  # not 6: an epoch begins anew


def test_each_loss_of_an_adversarial_trainer_is_shown() -> None:
    screen, names = io.StringIO(), ["generator_loss", "discriminator_loss"]
    trainer = outputs(names)
    LossBar(names, file=screen, mininterval=0).attach(trainer)
    trainer.run([4], max_epochs=1)
    assert "generator=4, discriminator=4" in screen.getvalue()


def test_files_are_named_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    weights, logs = tmp_path / "model.pt", tmp_path / "logs"
    say_where_files_are(weights, logs)
    for name in ("model.pt", "checkpoint_epoch=9.pt", "checkpoint_epoch=10.pt"):
        (tmp_path / name).touch()
    say_where_files_are(weights, logs)
    without, said = caplog.messages
    assert without.startswith("training done; no weights, since nothing was validated; curves: ")
    assert f"weights: {weights}; last checkpoint: {tmp_path}/checkpoint_epoch=10.pt; " in said
    assert said.endswith(f"curves: tensorboard --logdir {logs}")
