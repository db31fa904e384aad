"""The benchmark of the published network, at a tiny size."""

import pytest
import torch

from tools.benchmark.network import benchmark_network


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    report = benchmark_network(1, repeats=2, warmup=0, base_channels=8, spatial_size=(8, 8, 3))
    assert torch.get_num_threads() == threads
    plain, fast, half = report["variants"].values()
    assert plain["cpu_ratio"] == 1
    assert plain["difference"] == 0
    assert fast["difference"] < 1e-5
    assert 1e-5 < half["difference"] < 0.05
    assert fast["wall_ratio"] == pytest.approx(plain["wall_s"][1] / fast["wall_s"][1])
    assert all(v["cpu_s"] == sorted(v["cpu_s"]) for v in report["variants"].values())
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_repeats_must_be_positive() -> None:
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        benchmark_network(repeats=0)
