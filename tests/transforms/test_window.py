"""Windows: what is cut is where it should be, and what comes back lands on the same voxels."""

import numpy as np
import pytest
from nibabel.affines import apply_affine

from tools.transforms.window import WindowGrid, cut_window, paste_window, window_size


def oblique(spacing: tuple[float, float, float], degrees: float = 20.0) -> np.ndarray:
    angle = np.deg2rad(degrees)
    rotation = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(spacing)
    affine[:3, 3] = (10, -20, 5)
    return affine


def ramp(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """An image whose value is a linear function of the position in mm."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return apply_affine(affine, index) @ np.array([1.0, 2.0, -3.0])


AFFINES = [
    np.diag([0.7, 0.7, 2.5, 1]),
    np.diag([-0.7, -0.7, 1.25, 1]),
    np.diag([1, 1, 1, 1])[[2, 0, 1, 3]].astype(float),
    oblique((0.8, 0.9, 1.5)),
]


@pytest.mark.parametrize("affine", AFFINES)
def test_a_linear_image_survives_the_round_trip(affine: np.ndarray) -> None:
    image = ramp(affine, (50, 48, 40))
    centre = (25, 24, 20)
    grid = WindowGrid.around(apply_affine(affine, centre), (16, 16, 16))
    window = cut_window(image, affine, grid)
    index = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), -1)
    expected = apply_affine(grid.affine, index) @ np.array([1.0, 2.0, -3.0])
    assert np.allclose(window, expected, atol=1e-3)
    box = tuple(slice(c - 2, c + 3) for c in centre)
    label = np.ones((5, 5, 5), bool)
    back = paste_window(image, affine, window, grid, label, box)
    assert np.allclose(back, image[box].ravel(), atol=1e-3)


def test_only_the_block_under_the_window_is_read() -> None:
    reads = []

    class Proxy:
        shape = (500, 500, 300)
        ndim = 3

        def __getitem__(self, part: tuple[slice, ...]) -> np.ndarray:
            reads.append([s.stop - s.start for s in part])
            return np.zeros(reads[-1])

    cut_window(Proxy(), np.eye(4), WindowGrid.around((250, 250, 150), (32, 32, 32)))
    assert len(reads) == 1
    assert max(reads[0]) <= 36


def test_beyond_the_border_the_scan_is_mirrored() -> None:
    image = ramp(np.eye(4), (20, 20, 20)) + 1000
    window = cut_window(image, np.eye(4), WindowGrid.around((0, 10, 10), (8, 8, 8)))
    assert window.min() >= image.min() - 1e-3
    assert np.allclose(window[3], window[4], atol=1)  # x = -0.5 and 0.5


def test_a_window_far_outside_is_refused() -> None:
    grid = WindowGrid.around((500, 0, 0), (8, 8, 8))
    with pytest.raises(ValueError, match="window must overlap the scan"):
        cut_window(np.zeros((10, 10, 10)), np.eye(4), grid)


def test_a_lesion_larger_than_the_window_is_refused() -> None:
    grid = WindowGrid.around((15, 15, 15), (8, 8, 8))
    scan, label, box = np.zeros((30,) * 3), np.ones((30,) * 3, bool), (slice(0, 30),) * 3
    with pytest.raises(ValueError, match="lesion must fit the window"):
        paste_window(scan, np.eye(4), np.zeros((8,) * 3), grid, label, box)


def test_window_size_grows_in_steps() -> None:
    assert [window_size(d) for d in (4, 14, 15, 22, 23)] == [24, 24, 32, 32, 40]
