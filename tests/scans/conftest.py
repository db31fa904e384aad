"""The writer of a small DICOM series of a chest."""

from tests.synthesis.conftest import write_series

__all__ = ["write_series"]
