"""A writer of small DICOM series."""

from collections.abc import Callable

import pytest

from tests.dicom_series import write_dicom_series


@pytest.fixture
def write_series() -> Callable[..., list[str]]:
    """The writer, for tests that take it by name."""
    return write_dicom_series
