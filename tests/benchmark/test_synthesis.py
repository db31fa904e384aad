"""The benchmark of ``synthesize`` on a bundle in latent space without weights, at a tiny size."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tools.benchmark import synthesis
from tools.benchmark.synthesis import PeakMemory, benchmark_synthesis, with_weights
from tools.cli import main
from tools.phantoms.chest_ct import chest_ct


@pytest.fixture
def bundle(repository: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "tiny_latent"
    shutil.copytree(repository / "bundles" / "hr_ldm" / "configs", folder / "configs")
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["latent_window"]["smallest"] = 32
    config["inferer"]["inferer"]["fewest_steps"] = 1
    config["autoencoder_def"] |= {"num_channels": [4, 4, 4], "num_res_blocks": [1, 1, 1]}
    config["network_def"]["network"] |= {
        "num_channels": [8, 16, 16],
        "num_head_channels": [0, 8, 8],
        "norm_num_groups": 4,
    }
    path.write_text(json.dumps(config))
    return folder


def test_missing_weights_become_random_ones_in_a_copy(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = with_weights(bundle, tmp_path / "work")
    assert copy == tmp_path / "work" / "tiny_latent"
    assert not (bundle / "models").exists()
    names = sorted(path.name for path in (copy / "models").iterdir())
    assert names == ["autoencoder.pt", "model.pt"]
    assert "model.pt is not there: random weights are measured" in caplog.text
    # what is there is kept
    assert with_weights(copy, tmp_path / "other") == copy
    state = torch.load(copy / "models" / "model.pt", weights_only=True)
    (copy / "models" / "autoencoder.pt").unlink()
    again = with_weights(copy, tmp_path / "other")
    kept = torch.load(again / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(kept[name], value) for name, value in state.items())


def test_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"bundle must have configs/inference\.json"):
        with_weights(tmp_path, tmp_path)


def test_time_and_memory_by_size(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    coarse = partial(chest_ct, shape=(96, 80, 72), spacing_mm=4.0)
    monkeypatch.setattr(synthesis, "chest_ct", coarse)
    threads = torch.get_num_threads()
    shapes = ((96, 80, 72), (128, 100, 96))
    rows = benchmark_synthesis(str(bundle), shapes, count=2, threads=threads, repeats=1, steps=2)
    assert [entry["shape"] for entry in rows] == [list(shape) for shape in shapes]
    for entry in rows:
        assert all(entry[stage] > 0 for stage in synthesis.STAGES)
        assert entry["seconds_per_lesion"] == pytest.approx(entry["synthesis"] / 2)
        assert entry["cpu_seconds_per_lesion"] > 0
        assert entry["synthesis_mb"] is None or entry["synthesis_mb"] < entry["peak_mb"]
        assert "gpu_mb" not in entry
    assert rows[1]["peak_mb"] >= rows[0]["peak_mb"]
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["shape"] for line in lines] == [list(shape) for shape in shapes]


@pytest.mark.parametrize("option", ["count", "repeats"])
def test_bad_input_is_one_sentence(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert main(["benchmark", "synthesis", f"--{option}", "0"]) == 1
    assert (
        f"error: {option} must be a whole number from 1 to 1000, got '0'" in capsys.readouterr().err
    )


def test_rise_is_that_of_the_block() -> None:
    held = np.ones(100 * 2**17)  # 100 MiB before the block do not count
    for size in (100, 20):  # a peak of before does not count either
        with PeakMemory() as peak:
            block = np.ones(size * 2**17)
            del block  # freed before the block ends, and still its peak
        if peak.mb is None:
            pytest.skip("the system does not tell the peak of a process")
        assert peak.mb == pytest.approx(size, abs=5)
    assert held.sum() == held.size


def test_a_system_that_does_not_tell_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.benchmark.synthesis.CLEAR_REFS", Path("/nowhere/clear_refs"))
    with PeakMemory() as peak:
        pass
    assert peak.mb is None
