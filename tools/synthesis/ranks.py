"""One run in several processes: who does which scans, on which device, who writes the summary."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

__all__ = ["LOCKS", "Rank", "SharedFolder"]

LOCKS = ".synthetic-lesions.locks"


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


class SharedFolder:
    """An output folder that several processes may fill at once, each case by one of them.

    Processes with the same request share the work; one with another request is refused as long as
    the first is at work. Locks end with their process, however it ends. They lie in a hidden folder
    that goes when nobody needs it.

    Args:
        out: the folder.
        names: cases that this process is to see done.
        request: what tells one request from another.

    Raises:
        ValueError: on entering, if another request is at work on one of the cases.

    Example:
        >>> with SharedFolder(Path(getfixture("tmp_path")), ["a"], "request") as shared:
        ...     with shared.case("a") as mine:
        ...         print(mine, shared.others())
        True []
    """

    def __init__(self, out: Path, names: Sequence[str], request: str) -> None:
        self._out, self._names, self._request = out, list(names), request
        self._folder = out / LOCKS
        self._own = f"{os.getpid()}-{uuid.uuid4().hex[:8]}.run"
        self._run: FileLock | None = None

    def __enter__(self) -> SharedFolder:
        try:
            self._enter()
        except OSError as error:
            self.__exit__()
            raise OSError(
                f"out must be a place that can be written and has room, got {self._out} ({error})"
            ) from error
        return self

    def _enter(self) -> None:
        with self.summary():
            for name, running in self.others():
                both = sorted(set(running["names"]) & set(self._names))
                if both and running["request"] != self._request:
                    raise ValueError(
                        "out must be given to one request at a time, got one at work on "
                        f"{self._out / both[0]} ({name}); wait for it, or name another folder"
                    )
            self._run = self._take(self._own)
            assert self._run is not None  # its name is new
            content = {"request": self._request, "names": self._names}
            (self._folder / f"{self._own}.json").write_text(json.dumps(content), encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        (self._folder / f"{self._own}.json").unlink(missing_ok=True)
        if self._run is not None:
            self._give_back(self._run, self._own)
        with contextlib.suppress(OSError):  # others are at work
            self._folder.rmdir()

    def others(self) -> list[tuple[str, dict[str, Any]]]:
        """Return name and content of the other processes at work; dead ones are forgotten."""
        found = []
        for path in sorted(self._folder.glob("*.run.json")):
            name = path.name.removesuffix(".json")
            if name == self._own:
                continue
            lock = self._take(name)
            if lock is not None:  # its process is gone
                path.unlink(missing_ok=True)
                self._give_back(lock, name)
                continue
            with contextlib.suppress(OSError, ValueError):  # it ends at this moment
                found.append((name, json.loads(path.read_text(encoding="utf-8"))))
        return found

    @contextlib.contextmanager
    def case(self, name: str, wait: bool = False) -> Iterator[bool]:
        """Take a case; yields whether it is ours until the end of the block.

        Args:
            name: of the case.
            wait: until another process leaves it; else False is yielded where one has it.
        """
        lock = self._take(f"{name}.case", wait)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                self._give_back(lock, f"{name}.case")

    @contextlib.contextmanager
    def summary(self) -> Iterator[None]:
        """Let one process at a time see to what belongs to all."""
        lock = self._take("all", wait=True)
        assert lock is not None
        try:
            yield
        finally:
            self._give_back(lock, "all")

    def _take(self, name: str, wait: bool = False) -> FileLock | None:
        self._folder.mkdir(exist_ok=True)
        lock = FileLock(self._folder / f"{name}.lock")
        try:
            lock.acquire(timeout=-1 if wait else 0, poll_interval=0.1)
        except Timeout:
            return None
        return lock

    def _give_back(self, lock: FileLock, name: str) -> None:
        with contextlib.suppress(OSError):  # Windows removes it on release
            (self._folder / f"{name}.lock").unlink()
        lock.release()
