"""What a person sees of a training: mean losses on the bar, and at its end where its files lie."""

import io
import logging
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from tools.handlers import Average, LossBar, say_where_files_are
from tools.networks.codebook import Codebook


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


def test_average_takes_a_codebook_as_it_is() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), Codebook(4, 2))
    optimizer = torch.optim.SGD(network[0].parameters(), 1.0)

    def step(_: Engine, batch: torch.Tensor) -> None:
        optimizer.zero_grad()
        network(batch)[0].square().mean().backward()
        optimizer.step()

    trainer = Engine(step)
    average = Average(network, momentum=0.5)
    average.attach(trainer)
    before = [parameter.clone() for parameter in network.parameters()]
    trainer.run([torch.randn(1, 1, 4, 4, 4)], max_epochs=1)
    weight, bias, codes = average.ema_model.parameters()
    now = list(network.parameters())
    assert torch.equal(codes, now[2])
    assert not torch.equal(codes, before[2])
    torch.testing.assert_close(weight, (before[0] + now[0]) / 2)
    torch.testing.assert_close(bias, (before[1] + now[1]) / 2)
