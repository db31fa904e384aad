"""The writer of tiny datasets."""

from pathlib import Path

import pytest

from tests.export.tiny import Tiny


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path)
