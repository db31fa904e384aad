"""A training may be killed at any moment: the newest checkpoint and the best model stay."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from tools import checkpoints
from tools.checkpoints import WholeCheckpointLoader, WholeCheckpointSaver, start_point


def train(folder: Path, epochs: int, values: list[float], resume: str | None = None) -> None:
    """A training whose key metric, where less is better, takes the values epoch by epoch."""
    point = start_point(folder, epochs, resume)
    network = torch.nn.Linear(2, 1)
    trainer, evaluator = Engine(lambda *_: None), Engine(lambda *_: None)
    evaluator.state.key_metric_name = "jsd"

    def validate() -> None:
        torch.nn.init.constant_(network.weight, trainer.state.epoch)
        evaluator.state.metrics["jsd"] = values[trainer.state.epoch - 1]
        evaluator.state.key_metric_name = "jsd"
        evaluator.run([0], max_epochs=1)

    evaluator.add_event_handler(
        Events.STARTED, lambda: evaluator.state.metrics.update(jsd=values[trainer.state.epoch - 1])
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    best: dict[str, Any] = {"save_key_metric": True, "key_metric_name": "jsd"}
    best |= {"key_metric_negative_sign": True, "key_metric_filename": "model.pt"}
    WholeCheckpointSaver(str(folder), {"model": network}, **best).attach(evaluator)
    saved = {"network": network, "trainer": trainer}
    WholeCheckpointSaver(str(folder), saved, save_interval=2).attach(trainer)
    trainer.run([0], max_epochs=epochs) if point is None else resumed(trainer, point, epochs)


def resumed(trainer: Engine, point: str, epochs: int) -> None:
    trainer.load_state_dict(torch.load(point, weights_only=True)["trainer"])
    trainer.state.max_epochs = epochs
    trainer.run([0], max_epochs=epochs)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def best_epoch(folder: Path) -> float:
    return float(torch.load(folder / "model.pt", weights_only=True)["weight"][0, 0])


def test_two_checkpoints_stay_and_the_last_epoch_is_saved(tmp_path: Path) -> None:
    train(tmp_path, 7, [7, 6, 5, 4, 3, 2, 1])
    assert names(tmp_path) == ["checkpoint_epoch=6.pt", "checkpoint_epoch=7.pt", "model.pt"]
    assert best_epoch(tmp_path) == 7
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    torch.nn.Linear(2, 1).load_state_dict(state)  # the value kept with it is in nobody's way


def test_a_worse_model_does_not_replace_a_better_one_after_resuming(tmp_path: Path) -> None:
    train(tmp_path, 4, [5, 1, 5, 5])
    assert best_epoch(tmp_path) == 2
    train(tmp_path, 8, [0, 0, 0, 0, 3, 2, 4, 4], resume="auto")
    assert best_epoch(tmp_path) == 2
    assert names(tmp_path) == ["checkpoint_epoch=6.pt", "checkpoint_epoch=8.pt", "model.pt"]
    train(tmp_path, 10, [0] * 8 + [0.5, 0.7], resume=str(tmp_path / "checkpoint_epoch=8.pt"))
    assert best_epoch(tmp_path) == 9


def test_a_training_under_way_is_not_started_over(tmp_path: Path) -> None:
    train(tmp_path, 4, [4, 3, 2, 1])
    before = {path: path.read_bytes() for path in tmp_path.glob("*.pt")}
    with pytest.raises(ValueError, match=r"no training that is under way, .* of 8 epochs; .*auto"):
        train(tmp_path, 8, [1] * 8)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.pt")} == before


def test_a_training_at_its_end_is_kept_beside_the_next(tmp_path: Path) -> None:
    for _ in range(3):
        train(tmp_path, 2, [2, 1])
    assert names(tmp_path) == ["checkpoint_epoch=2.pt", "earlier_1", "earlier_2", "model.pt"]
    assert names(tmp_path / "earlier_2") == ["checkpoint_epoch=2.pt", "model.pt"]


def test_weights_of_others_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"output_dir must not hold model\.pt of others"):
        train(tmp_path, 2, [2, 1])
    assert (tmp_path / "model.pt").read_bytes() == b"precious"
    with pytest.raises(FileNotFoundError, match="resume_from must be a checkpoint or auto"):
        start_point(tmp_path, 2, tmp_path / "none.pt")
    with pytest.raises(ValueError, match="n_saved must be 2 or more, got 1"):
        WholeCheckpointSaver(str(tmp_path), {"a": torch.nn.Linear(1, 1)}, n_saved=1)


def test_only_the_first_process_looks_after_files(tmp_path: Path) -> None:
    train(tmp_path, 2, [2, 1])
    assert start_point(tmp_path, 4, rank=1) is None
    assert start_point(tmp_path, 2, rank=1) is None
    assert "earlier_1" not in names(tmp_path)
    assert start_point(tmp_path, 4, "auto", rank=1) == str(tmp_path / "checkpoint_epoch=2.pt")


def resume(path: Path, epochs: int = 4) -> None:
    trainer, network = Engine(lambda *_: None), torch.nn.Linear(2, 1)
    parts = {"network": network, "trainer": trainer}
    WholeCheckpointLoader(str(path), parts).attach(trainer)
    trainer.run([0], max_epochs=epochs)


def edited(name: str, value: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        if value is None:
            del content["network"][name]
        else:
            content["network"][name] = value
        torch.save(content, path)

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:900]), "must be whole files that torch"),
        (lambda path: path.write_bytes(b""), "must be whole files that torch"),
        (lambda path: torch.save([1], path), "must hold states by name"),
        (lambda path: torch.save({"network": {}}, path), "got bias of shape none"),
        (lambda path: torch.save({"network": {"bias": 1}}, path), "got bias of shape none"),
        (lambda path: torch.save({"network": 1}, path), "which holds no network"),
        (lambda path: torch.save({"model": {}}, path), "which holds no network"),
        (edited("weight", torch.zeros(3, 1)), r"got weight of shape \(3, 1\) where \(1, 2\)"),
        (edited("bias", None), r"got bias of shape none where \(1,\)"),
        (edited("other", torch.zeros(1)), r"got other of shape \(1,\) where none"),
        (edited("bias", torch.tensor([torch.nan])), "must be finite, got NaN or infinity in bias"),
    ],
)
def test_checkpoint_that_does_not_fit_is_named(
    edit: Callable[[Path], Any], said: str, tmp_path: Path
) -> None:
    train(tmp_path, 2, [2, 1])
    path = tmp_path / "checkpoint_epoch=2.pt"
    resume(path)
    with pytest.raises(ValueError, match=r"max_epochs must be at least the 2 epochs of .*, got 1"):
        resume(path, 1)
    edit(path)
    with pytest.raises(ValueError, match=said) as caught:
        resume(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("[pos 3")])
def test_full_disk_is_one_sentence_and_the_earlier_checkpoint_stays(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, 2, [2, 1])
    before = {path: path.read_bytes() for path in tmp_path.glob("*.pt")}

    def full(content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"ckpt_dir must be writable and have room, .*resume_from"):
        train(tmp_path, 4, [2, 1, 0, 0], "auto")
    assert {path: path.read_bytes() for path in tmp_path.glob("*.pt")} == before
    assert not list(tmp_path.glob(".*.partial"))


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"ckpt_dir must be writable, got .*Not a directory"):
        start_point(tmp_path / "file" / "models", 2)


@pytest.mark.parametrize("moment", ["writing", "written"])
def test_killed_while_saving_the_earlier_checkpoints_are_there(tmp_path: Path, moment: str) -> None:
    train(tmp_path, 4, [4, 3, 2, 1])
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")}
    code = f"""
import os, signal, sys, torch
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from pathlib import Path
from test_checkpoints import train
save = torch.save
def dying(content, path, *rest, **more):
    if {moment!r} == "writing":
        Path(path).write_bytes(b"half")
    else:
        save(content, path, *rest, **more)
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = dying
train(Path({str(tmp_path)!r}), 8, [0] * 8, "auto")
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, env=dict(os.environ))
    assert done.returncode == -9
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")} == before
    train(tmp_path, 8, [9] * 8, "auto")
    assert names(tmp_path) == ["checkpoint_epoch=6.pt", "checkpoint_epoch=8.pt", "model.pt"]
    assert not list(tmp_path.glob(".*.partial"))
    assert checkpoints._best_value(tmp_path / "model.pt") == -1
