"""Peak memory of a block: its own rise, also where freed memory could hide it."""

import numpy as np
import pytest

from tools.benchmark.memory import PeakMemory


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
    from pathlib import Path

    monkeypatch.setattr("tools.benchmark.memory.CLEAR_REFS", Path("/nowhere/clear_refs"))
    with PeakMemory() as peak:
        pass
    assert peak.mb is None
