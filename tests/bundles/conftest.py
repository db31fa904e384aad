"""Paths in configs start from the root of the repository."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def at_repository_root(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
