"""What a person sees of a training: mean losses on the bar, and at its end where its files lie."""

import io
import logging
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.transforms import RandFlipd

from tools.handlers import Average, EpochChance, LossBar, say_where_files_are
from tools.networks.codebook import Codebook
from tools.synthesis.on_the_fly import LesionCollate


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


def test_chance_of_an_epoch_reaches_what_makes_batches() -> None:
    """Transforms of the collate function are as repeatable as those of the dataset."""
    collate = LesionCollate(None, RandFlipd("x", prob=0.5, spatial_axis=0))
    loader = DataLoader(
        [{"x": torch.arange(3.0).reshape(1, 3)}] * 16, batch_size=4, collate_fn=collate
    )

    def epochs(first: int) -> list[list[float]]:
        engine, seen = Engine(lambda _, batch: seen[-1].extend(batch["x"].flatten().tolist())), []
        engine.state.epoch = first
        engine.data_loader = loader
        chance = EpochChance(seed=3)
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: seen.append([]))
        chance.attach(engine)
        engine.run(loader, max_epochs=2, epoch_length=4)
        return seen

    one, two = epochs(0)
    assert one != two
    assert epochs(0) == [one, two]


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
