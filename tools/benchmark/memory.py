"""Peak memory of a piece of work, apart from what the process held before."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path
from types import TracebackType

__all__ = ["PeakMemory"]

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # see proc(5)


class PeakMemory:
    """Measure by how much the memory of this process rises at most inside a ``with`` block.

    The kernel keeps the highest resident memory of a process and lets it be reset, so nothing is
    missed between samples. Memory that was freed but not given back is returned first, or the work
    would fill it without any rise. Linux only.

    Attributes:
        mb: rise in MiB, known after the block; None where the system does not tell.

    Example:
        >>> with PeakMemory() as peak:
        ...     block = bytes(64 * 2**20)
        >>> peak.mb is None or peak.mb > 60
        True
    """

    mb: float | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        _give_back()
        self._before: float | None = None
        try:
            CLEAR_REFS.write_text(RESET_PEAK)
            self._before = _status_mb("VmRSS")
        except OSError:
            pass
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before is not None:
            self.mb = max(0.0, _status_mb("VmHWM") - self._before)


def _give_back() -> None:
    """Return freed memory to the system, where the C library can."""
    if os.name == "posix":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _status_mb(name: str) -> float:
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) / 1024
    raise OSError(f"{STATUS} must have {name}, got none")
