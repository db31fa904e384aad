"""Windows: what is cut is where it should be, and what comes back lands on the same voxels."""

import numpy as np
import pytest
from nibabel.affines import apply_affine

from tests.transforms.oblique import turned
from tools.windows import (
    BlendZone,
    Window,
    WindowGrid,
    blend_weight,
    compose_rim,
    cut_window,
    paste_window,
    window_size,
)

AFFINES = [
    np.diag([0.7, 0.7, 2.5, 1]),
    np.diag([-0.7, -0.7, 1.25, 1]),
    np.diag([1, 1, 1, 1])[[2, 0, 1, 3]].astype(float),
    turned((0.8, 0.9, 1.5)),
]


def ramp(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """An image whose value is a linear function of the position in mm."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return apply_affine(affine, index) @ np.array([1.0, 2.0, -3.0])


@pytest.mark.parametrize("affine", AFFINES)
def test_a_linear_image_survives_the_round_trip(affine: np.ndarray) -> None:
    image = ramp(affine, (50, 48, 40))
    centre = (25, 24, 20)
    grid = WindowGrid.around(apply_affine(affine, centre), (16, 16, 16))
    window = cut_window(image, affine, grid)
    assert np.allclose(window, ramp(grid.affine, grid.size), atol=1e-3)
    box = tuple(slice(c - 2, c + 3) for c in centre)
    back = paste_window(image, affine, window, grid, np.ones((5, 5, 5), bool), box)
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


def test_windows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="window must overlap the scan"):
        cut_window(np.zeros((10,) * 3), np.eye(4), WindowGrid.around((500, 0, 0), (8, 8, 8)))
    grid = WindowGrid.around((15, 15, 15), (8, 8, 8))
    scan, label, box = np.zeros((30,) * 3), np.ones((30,) * 3, bool), (slice(0, 30),) * 3
    with pytest.raises(ValueError, match="lesion must fit the window"):
        paste_window(scan, np.eye(4), np.zeros((8,) * 3), grid, label, box)
    with pytest.raises(ValueError, match="lesion must fit a window inside the volume"):
        Window((8, 8, 8)).in_volume((slice(0, 20),) * 3, (40, 32, 20))


def test_sizes_grow_in_steps_and_boxes_are_kept_inside() -> None:
    assert [window_size(d) for d in (4, 14, 15, 22, 23)] == [24, 24, 32, 32, 40]
    assert Window((24, 32, 16), spacing_mm=2.0, margin=3).sides(40.0) == [32, 32, 32]
    rule = Window((16, 16, 16), margin=2)
    box = rule.in_volume((slice(30, 36), slice(0, 2), slice(9, 12)), (40, 40, 20))
    assert box == (slice(24, 40), slice(0, 16), slice(2, 18))
    grid = rule.round_box(box, AFFINES[3])
    middle = apply_affine(AFFINES[3], [(part.start + part.stop - 1) / 2 for part in box])
    assert np.allclose(apply_affine(grid.affine, (np.array(grid.size) - 1) / 2), middle)


def test_slices_stay_slices_and_the_organ_lies_in_the_middle() -> None:
    affine = turned((1.2, 1.2, 9.0))
    organ = np.zeros((60, 50, 7))
    organ[10:31, 5:26, 1:6] = 1
    rule = Window((32, 24), 1.6, multiple=4)
    grid = rule.on_slices(organ, affine)
    assert grid.size == (32, 24, 8)
    to_scan = np.linalg.inv(affine) @ grid.affine
    for index in [(0, 0, 0), (31, 23, 6)]:
        assert apply_affine(to_scan, index)[2] == pytest.approx(index[2])
    assert np.allclose(apply_affine(to_scan, (15.5, 11.5, 0)), (20, 15, 0))
    assert np.allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), (1.6, 1.6, 9.0))
    assert rule.on_slices(organ[..., :4], affine).size[2] == 4
    with pytest.raises(ValueError, match="organ_mask must hold an organ"):
        rule.on_slices(np.zeros((4, 4, 4)), affine)


def test_a_rim_keeps_the_grain_of_the_scan_and_drops_edges_that_are_gone() -> None:
    """Shown and drawn are levels of 0 and 100: the scan's own fine structure comes back on top."""
    rng = np.random.default_rng(0)
    image = rng.normal(0, 5, (24, 24, 24))
    image[12, 12, 12] = 400  # a vessel where the lesion comes
    image[12, 12, 16] = 400  # and one in the rim
    label = np.zeros(image.shape, bool)
    label[10:15, 10:15, 10:15] = True
    box = (slice(0, 24),) * 3
    zone = BlendZone.around(label, box, np.eye(4), image.shape, 3.0, fades=False)
    grid = WindowGrid(np.eye(4), image.shape)
    levels = [np.full(image.shape, float(level), np.float32) for level in (0, 100)]
    after = np.array(image)
    after[zone.inside] = compose_rim(image, np.eye(4), *levels, grid, zone, (-1000, 1000))
    assert after[12, 12, 12] < 120
    assert after[12, 12, 16] == pytest.approx(500)
    quiet = label & (image < 10) & (image > -10)
    np.testing.assert_allclose(after[quiet], image[quiet] + 100, atol=1e-4)


@pytest.mark.parametrize("margin_mm", [0.0, 3.0])
def test_a_lesion_fades_over_its_margin_in_millimetres(margin_mm: float) -> None:
    spacing, box = (0.7, 0.7, 1.25), (slice(0, 5), slice(10, 14), slice(8, 10))
    label = np.ones((5, 4, 2), bool)
    whole = np.zeros((20, 20, 16), bool)
    whole[box] = label
    weight = blend_weight(whole, margin_mm, spacing)
    assert (weight[whole] == 1).all()
    zone = BlendZone.around(label, box, np.diag([*spacing, 1.0]), whole.shape, margin_mm)
    assert np.array_equal(weight[zone.box][zone.inside], zone.weight)
    assert (weight > 0).sum() == zone.inside.sum()
    assert np.array_equal(whole[zone.box][zone.inside], zone.lesion)
    assert (len(np.unique(weight)) > 5) == (margin_mm > 0)
    assert not blend_weight(np.zeros((4, 4, 4), bool), 3.0).any()


def test_a_gaussian_softens_the_mask_and_ends_at_the_margin() -> None:
    mask = np.zeros((41, 41, 41), bool)
    mask[10:31, 10:31, 10:31] = True
    soft = blend_weight(mask, 8.0, (1, 1, 1), sigma_mm=2.0)
    # the edge lies between two voxels: Phi(1 / 4) inside, its complement outside
    assert soft[20, 20, 20] == pytest.approx(1.0, abs=1e-4)
    assert soft[20, 20, 30] == pytest.approx(0.5987, abs=2e-3)
    assert soft[20, 20, 31] == pytest.approx(1 - 0.5987, abs=2e-3)
    assert soft[20, 20, 37] > 0
    assert not soft[20, 20, 38:].any()
    assert np.array_equal(blend_weight(mask, 8.0, sigma_mm=0.0), mask)
    stretched = blend_weight(mask, 8.0, (1, 1, 2), sigma_mm=2.0)
    assert stretched[20, 20, 30] > soft[20, 20, 30]
