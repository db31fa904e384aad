"""One run in several processes: who does which scans, on which device, who writes the summary."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Rank", "folder_lock"]


class Rank(NamedTuple):
    """This process among those that ``torchrun`` started; a plain start is rank 0 of 1.

    The processes share files only: no connection between them can time out, and each can be
    started again alone.

    Attributes:
        rank: 0 to ``world_size`` - 1.
        world_size: number of processes.
        local_rank: number of the process on its machine.

    Example:
        >>> Rank(1, 2).share(["a", "b", "c", "d"])
        ['b', 'd']
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> Rank:
        """Return the rank that ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK`` state.

        Raises:
            ValueError: if they contradict each other.
        """
        values = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
        try:
            rank, world_size, local_rank = (
                int(value) if value else default
                for value, default in zip(values, (0, 1, 0), strict=True)
            )
        except ValueError as error:
            raise ValueError(
                f"RANK, WORLD_SIZE, LOCAL_RANK must be whole numbers, got {values}"
            ) from error
        if not (0 <= rank < world_size and local_rank >= 0):
            raise ValueError(f"RANK must lie from 0 to WORLD_SIZE - 1, got {rank} of {world_size}")
        return cls(rank, world_size, local_rank)

    def share(self, items: list) -> list:
        """Return every ``world_size``-th item, beginning with the item number ``rank``."""
        return items[self.rank :: self.world_size]

    def device(self, name: str) -> str:
        """Return the device for this process: ``auto`` and ``cuda`` become its own GPU.

        Args:
            name: as the user gives it; a numbered device stays.
        """
        if self.world_size == 1 or name not in ("auto", "cuda"):
            return name
        import torch  # slow to import, and only needed here

        count = torch.cuda.device_count()
        return f"cuda:{self.local_rank % count}" if count else name


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Let one process at a time work on a folder; the lock ends with its process, however it ends.

    Where the file system knows no locks, nothing is locked; whatever is done inside must then be
    safe to be done twice.

    Example:
        >>> with folder_lock(Path(getfixture("tmp_path"))):
        ...     pass
    """
    descriptor = os.open(folder, os.O_RDONLY) if fcntl is not None else -1
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)
