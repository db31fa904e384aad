"""The benchmark of lesions made on the fly, at a tiny size."""

import pytest

from tools.benchmark.training import benchmark_training, report

TINY = {"network_def#channels": [4, 8], "network_def#strides": [2], "cache_rate": 0.0}


def test_report() -> None:
    textures = ["lefusion_lidc:hand_crafted"]
    rows = benchmark_training(textures=textures, steps=2, share=1.0, patch_size=16, options=TINY)
    assert [row["texture"] for row in rows] == ["plain", *textures]
    assert rows[0]["ratio"] == 1
    assert rows[1]["ratio"] == pytest.approx(rows[1]["mean_s"] / rows[0]["mean_s"])
    assert rows[1]["ratio"] > 1  # drawing cannot cost nothing
    assert all(low <= middle <= high for middle, low, high in (row["cpu_s"] for row in rows))
    assert len(report(rows).splitlines()) == 3


def test_steps_must_be_positive() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        benchmark_training(steps=0)
