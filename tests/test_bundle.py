"""Bundles are read once, and their weights whoever wrote them: shipped, training, converted."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from tools.bundle import (
    Bundle,
    choose_device,
    find_bundle,
    load_weights,
    read_weights,
    sha256_file,
)
from tools.checkpoints import WholeCheckpointSaver

CONFIG: dict[str, Any] = {
    "bundle_root": ".",
    "ckpt_path": "$@bundle_root + '/models/model.pt'",
    "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
    "window_size": 8,
    "displayable_configs": {"steps": 3, "seed": 0},
    "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2}
    | {"kernel_size": 1},
    "network": "$@network_def.to(@device)",
}


def make_network(value: float = 0.0, out_channels: int = 2) -> nn.Module:
    network = nn.Conv3d(1, out_channels, 1)
    for parameter in network.parameters():
        nn.init.constant_(parameter, value)
    return network


def values(state: dict[str, Tensor]) -> set[float]:
    return {value for tensor in state.values() for value in tensor.flatten().tolist()}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of one convolution, all its weights 1."""
    folder = tmp_path / "tiny"
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    for name, content in (("inference", CONFIG), ("metadata", {"version": "0.3.1"})):
        (folder / "configs" / f"{name}.json").write_text(json.dumps(content))
    torch.save(make_network(1.0).state_dict(), folder / "models" / "model.pt")
    return folder


def shipped(folder: Path) -> Path:
    torch.save(make_network(5.0).state_dict(), folder / "model.pt")
    return folder / "model.pt"


def converted(folder: Path) -> Path:
    content = {"network_def": {"channels": [8], "name": "x"}}
    torch.save({**content, "model": make_network(5.0).state_dict()}, folder / "converted.pt")
    return folder / "converted.pt"


def of_several_processes(folder: Path) -> Path:
    wrapped = nn.ModuleDict({"module": make_network(5.0)})
    torch.save({"network": wrapped.state_dict(), "ema": None}, folder / "parallel.pt")
    return folder / "parallel.pt"


def run_training(folder: Path, save_dict: dict[str, Any], **options: Any) -> None:
    trainer = Engine(lambda engine, batch: None)
    saver = WholeCheckpointSaver(str(folder), {**save_dict, "trainer": trainer}, **options)
    saver.attach(trainer)
    trainer.run([0], max_epochs=2)


def trained(folder: Path, averaged: bool = False) -> Path:
    """A checkpoint as ``train.json`` has it, after a step of the optimizer."""
    network = make_network(3.0 if averaged else 5.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.0)
    network(torch.ones(1, 1, 2, 2, 2)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    parts = {"network": network, "optimizer": optimizer, "lr_scheduler": scheduler}
    if averaged:
        parts["ema"] = make_network(5.0)
    run_training(folder, parts, save_interval=1)
    return folder / "checkpoint_epoch=2.pt"


def trained_and_averaged(folder: Path) -> Path:
    return trained(folder, averaged=True)


@pytest.mark.parametrize(
    "write", [shipped, converted, of_several_processes, trained, trained_and_averaged]
)
def test_weights_are_read_whoever_wrote_them(
    tmp_path: Path, bundle: Path, write: Callable[[Path], Path]
) -> None:
    path = write(tmp_path)
    assert sorted(read_weights(path)) == ["bias", "weight"]
    assert values(read_weights(path)) == {5.0}
    network = make_network().train()
    assert load_weights(network, str(path)) is network
    assert values(network.state_dict()) == {5.0}
    assert not network.training
    # the same file in place of a bundle's own
    opened = Bundle(bundle, "cpu", weights=path)
    assert values(opened.network().state_dict()) == {5.0}
    assert opened.record["weights_sha256"] == sha256_file(path)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"network_def": {"channels": [8]}},
        {"model": {}},
        {"optimizer": {"state": {}}, "trainer": {"epoch": 3}},
        {"weight": torch.zeros(2), "epoch": 3},
        [torch.zeros(2)],
        torch.zeros(2),
    ],
    ids=str,
)
def test_files_without_weights_are_one_sentence(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"weights must hold the tensors .*, got .* in .*a\.pt$"):
        load_weights(make_network(), tmp_path / "a.pt")


class Dangerous:
    """What a pickle can do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was run",))


def test_files_that_are_not_safe_to_read_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for content in (b"", b"no weights", pickle.dumps(Dangerous())):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="weights must be a file of tensors"):
            read_weights(path)
    for unsafe in (Dangerous(), {"model": {"weight": Dangerous()}}):
        torch.save(unsafe, path)
        with pytest.raises(ValueError, match=r"whole, got .*a\.pt"):
            read_weights(path)
    for missing in (tmp_path / "b.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match="weights must be an existing file, got"):
            read_weights(missing)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"bias": None}, r"got bias of shape none where \(2,\) is expected"),
        ({"scale": torch.ones(3)}, r"got scale of shape \(3,\) where none is expected"),
        ({"weight": torch.ones(2, 1, 3, 3, 3)}, r"got weight of shape \(2, 1, 3, 3, 3\) where"),
    ],
)
def test_every_tensor_must_fit(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    state = {**make_network(5.0).state_dict(), **other}
    torch.save({k: v for k, v in state.items() if v is not None}, tmp_path / "a.pt")
    network = make_network(1.0)
    with pytest.raises(ValueError, match=f"weights must be those of this network, {message}"):
        load_weights(network, tmp_path / "a.pt")
    assert values(network.state_dict()) == {1.0}


def test_a_bundle_is_a_folder_or_a_name(
    bundle: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_bundle(bundle) == bundle
    assert find_bundle("diffmask").samefile(repository / "bundles" / "diffmask")
    for wrong in ("nowhere", bundle / "configs"):
        with pytest.raises(
            FileNotFoundError,
            match=r"bundle must be a bundle folder or one of \[.*'diffmask'.* got",
        ):
            find_bundle(wrong)
    (tmp_path / "bundles").mkdir()
    bundle.rename(tmp_path / "bundles" / "mine")
    monkeypatch.chdir(tmp_path)
    assert find_bundle("mine").samefile(tmp_path / "bundles" / "mine")


def test_later_configs_change_earlier_ones(bundle: Path, tmp_path: Path) -> None:
    first = Bundle(bundle, "cpu")
    assert (first.get("window_size"), first.get("displayable_configs#steps")) == (8, 3)
    for name, content in (
        ("synthesize", {"window_size": 16, "displayable_configs#steps": 4}),
        ("other", {"window_size": 32, "ckpt_path": "$@bundle_root + '/models/model_other.pt'"}),
    ):
        (bundle / "configs" / f"{name}.json").write_text(json.dumps(content))
    assert Bundle(bundle, "cpu").get("window_size") == 16
    torch.save(make_network(7.0).state_dict(), bundle / "models" / "model_other.pt")
    changes = {"displayable_configs#seed": 9}
    opened = Bundle(bundle, "cpu", ("other.json",), changes=changes)
    assert opened.get("window_size") == 32
    assert opened.get("displayable_configs") == {"steps": 4, "seed": 9}
    assert values(opened.network().state_dict()) == {7.0}
    # what is asked for by the caller comes last
    weights = shipped(tmp_path)
    opened = Bundle(bundle, "cpu", ("other.json",), weights, changes={"window_size": 64})
    assert (opened.get("window_size"), opened.weights) == (64, weights)


def test_a_bundle_says_what_it_is(bundle: Path) -> None:
    opened = Bundle(bundle, "cpu")
    assert opened.record == {
        "name": "tiny",
        "version": "0.3.1",
        "weights_sha256": sha256_file(bundle / "models" / "model.pt"),
    }
    network = opened.network()
    assert values(network.state_dict()) == {1.0}
    assert not network.training
    assert next(network.parameters()).device == opened.device == torch.device("cpu")


def test_what_a_bundle_lacks_is_named(bundle: Path) -> None:
    assert Bundle(bundle, "cpu", required=("window_size", "nothing")).folder == bundle
    with pytest.raises(ValueError, match=r"bundle must have cubes or walls in .* got none in .*ti"):
        Bundle(bundle, "cpu", required=("cubes", "walls"))
    with pytest.raises(FileNotFoundError, match=r"bundle must have more\.json, got none in"):
        Bundle(bundle, "cpu", ("more.json",))
    with pytest.raises(FileNotFoundError, match=r"weights must be an existing file, got .*no\.pt"):
        Bundle(bundle, "cpu", weights=bundle / "no.pt")
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"trained weights, got none at .*models/model\.pt"):
        Bundle(bundle, "cpu")


def test_errors_of_what_a_config_builds_keep_their_sentence(bundle: Path) -> None:
    part = {"_target_": "tools.shapes.EllipsoidShapes", "deformation": -1}
    changes = {"shapes": part, "nested": {"parts": ["@shapes"]}, "broken": "$1 / 0"}
    opened = Bundle(bundle, "cpu", changes=changes)
    for key in ("shapes", "nested"):
        with pytest.raises(ValueError, match=r"^deformation must be >= 0, got -1$"):
            opened.get(key)
    with pytest.raises(RuntimeError):
        opened.get("broken")


def test_devices_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    for name in ("abacus", "cuda", "cuda:1", "mps", "meta", ""):
        with pytest.raises(ValueError, match=rf"auto or one of \['cpu'\] .*, got '{name}'"):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"one of \['cpu', 'cuda', 'cuda:0'\] .*, got 'cuda:1'"):
        choose_device("cuda:1")
    assert choose_device("auto") == torch.device("cuda")


def test_the_hash_of_a_folder_is_that_of_its_files_and_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    (folder / "below").mkdir(parents=True)
    (folder / "a").write_bytes(b"one")
    (folder / "b").write_bytes(b"two")
    before = sha256_file(folder)
    assert len(before) == 64
    assert before != sha256_file(folder / "a") != sha256_file(folder / "b")
    (folder / "below" / "c").write_bytes(b"three")
    assert sha256_file(folder) == before
    (folder / "b").rename(folder / "d")
    assert sha256_file(folder) != before
