"""A small DICOM series of a chest."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.dicom_series import write_dicom_series

SPACING = (0.8, 0.7)  # between rows, between columns


def write_chest_series(
    folder: Path, stored: np.ndarray, names: str = "{}.dcm", tag: str = ""
) -> None:
    """Write axial slices 2.5 mm apart, unsigned with an offset of 1024, named from the top down."""

    def edit(k: int, header: Dataset) -> None:
        header.PixelRepresentation, header.SeriesDescription = 0, tag

    count = len(stored)
    write_dicom_series(
        folder,
        stored,
        positions=[(-10.0, 20.0, 2.5 * k) for k in range(count)],
        spacing=SPACING,
        intercept=-1024.0,
        names=[names.format(count - k) for k in range(count)],
        edit=edit,
    )


@pytest.fixture
def write_series() -> Callable[..., None]:
    """The writer, for tests that take it by name."""
    return write_chest_series
