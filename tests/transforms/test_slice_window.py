"""Windows of thick slices: nothing crosses from slice to slice; scaling without units."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.affines import apply_affine

from tests.transforms.oblique import turned
from tools.transforms.slice_window import PercentileScaled, SliceWindowd, slice_grid

SHAPE = (44, 40, 7)


def heart(affine: np.ndarray) -> dict:
    """Slice k of the image is k + 1 everywhere; the organ is 20 x 18 voxels in every slice."""
    label = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    label[:, 12:32, 11:29] = 2
    label[:, 18:26, 16:24] = 1
    image = torch.arange(1.0, 8).expand(1, *SHAPE).clone()
    return {name: MetaTensor(t, affine=affine) for name, t in (("image", image), ("label", label))}


def test_slices_stay_slices_and_the_organ_lies_in_the_middle() -> None:
    affine = turned((1.2, 1.2, 9.0))
    organ = np.zeros((60, 50, 7))
    organ[10:31, 5:26, 1:6] = 1
    grid = slice_grid(organ, affine, (32, 24), 1.6)
    assert grid.size == (32, 24, 8)
    to_scan = np.linalg.inv(affine) @ grid.affine
    for index in [(0, 0, 0), (31, 23, 6)]:
        assert apply_affine(to_scan, index)[2] == pytest.approx(index[2])
    assert np.allclose(apply_affine(to_scan, (15.5, 11.5, 0)), (20, 15, 0))
    assert np.allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), (1.6, 1.6, 9.0))
    assert slice_grid(organ[..., :4], affine).size[2] == 4
    with pytest.raises(ValueError, match="organ_mask must hold an organ"):
        slice_grid(np.zeros((4, 4, 4)), affine)


@pytest.mark.parametrize("degrees", [0.0, 3.0, 24.0, 27.0, 57.0, 60.0])
def test_windows_of_oblique_scans_keep_every_slice(degrees: float) -> None:
    affine = turned((1.2, 1.3, 9.0), degrees)
    cut = SliceWindowd(["image", "label"], [1, 2], size=(32, 24), spacing_mm=1.5)(heart(affine))
    image, label = cut["image"], cut["label"]
    assert image.shape == label.shape == (1, 32, 24, 8)
    # no slice is a mixture of two; the eighth mirrors the sixth, and has no label
    assert np.allclose(np.asarray(image[0]), np.array([1, 2, 3, 4, 5, 6, 7, 6.0]), atol=1e-5)
    assert label.unique().tolist() == [0, 1, 2]
    areas = (label[0] > 0).sum((0, 1)).tolist()
    # 20 x 1.2 mm by 18 x 1.3 mm, in pixels of 1.5 mm
    assert areas[:7] == [pytest.approx(20 * 1.2 * 18 * 1.3 / 1.5**2, rel=0.08)] * 7
    assert areas[7] == 0
    assert np.allclose(np.linalg.norm(image.affine[:3, :3], axis=0), (1.5, 1.5, 9.0))


def test_four_slices_need_no_more_and_no_organ_is_an_error() -> None:
    sample = heart(np.diag([1.5, 1.5, 10.0, 1.0]))
    four = {key: MetaTensor(item[..., :4], affine=item.affine) for key, item in sample.items()}
    cut = SliceWindowd(["image", "label"], [1, 2], size=(16, 16))(four)
    assert cut["image"].shape == (1, 16, 16, 4)
    with pytest.raises(ValueError, match="organ_mask must hold an organ"):
        SliceWindowd(["image", "label"], [3])(sample)


def test_scaling_is_undone_by_its_range() -> None:
    image = torch.rand(1, 10, 10, 10) * 700 + 40
    scaled = PercentileScaled("image", clip=False)({"image": image})
    low, high = scaled["intensity_range"].tolist()
    assert (low, high) == pytest.approx(tuple(np.percentile(image, (0.5, 99.5))))
    back = (scaled["image"].double() + 1) / 2 * (high - low) + low
    assert torch.allclose(back, image.double(), atol=1e-3)
    clipped = PercentileScaled("image")({"image": image})["image"]
    assert torch.equal(clipped, scaled["image"].clamp(-1, 1))
    assert scaled["image"].max() > 1
    integers = PercentileScaled("image", (0, 100))({"image": torch.tensor([[2, 4, 6]])})["image"]
    assert integers.tolist() == [[-1, 0, 1]]


def test_one_bright_voxel_changes_nothing() -> None:
    image = torch.rand(1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    bright = image.clone()
    bright[0, 3, 4, 5] = 1e4
    scale = PercentileScaled("image")
    before, after = (scale({"image": i})["image"] for i in (image, bright))
    elsewhere = bright == image
    assert torch.allclose(before[elsewhere], after[elsewhere], atol=0.01)
    # with minimum and maximum all else becomes dark
    squeezed = PercentileScaled("image", (0, 100))({"image": bright})["image"]
    assert squeezed[elsewhere].max() < -0.99


def test_voxels_without_signal_do_not_count() -> None:
    image = torch.cat([torch.zeros(900), torch.linspace(100, 200, 100)])[None]
    scaled = PercentileScaled("image", (0, 100), empty_value=0.0)({"image": image})
    assert scaled["intensity_range"].tolist() == [100, 200]
    assert scaled["image"][0, 900:].tolist() == pytest.approx(np.linspace(-1, 1, 100), abs=1e-5)
    assert (scaled["image"][0, :900] == -1).all()
    counted = PercentileScaled("image", (0, 100))({"image": image})
    assert counted["intensity_range"].tolist() == [0, 200]


@pytest.mark.parametrize("percentiles", [(99, 1), (5, 5), (-1, 50), (0, 101)])
def test_percentiles_out_of_order_are_named(percentiles: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"percentiles must be two numbers in order in 0\.\.100"):
        PercentileScaled("image", percentiles)


def test_a_scan_without_signal_is_named() -> None:
    with pytest.raises(ValueError, match=r"image must hold a signal, got 0\.0 only"):
        PercentileScaled("image", empty_value=0.0)({"image": torch.zeros(1, 4, 4, 4)})
    flat = PercentileScaled("image")({"image": torch.full((1, 4, 4, 4), 7.0)})["image"]
    assert flat.isfinite().all()


def test_the_scan_can_keep_its_voxels_and_fill_up_to_ten_slices() -> None:
    sample = heart(turned((1.2, 1.3, 9.0)))
    cut = SliceWindowd(["image", "label"], [1, 2], size=(32, 24), spacing_mm=None, step=10)(sample)
    assert cut["image"].shape == (1, 32, 24, 10)
    assert np.allclose(np.linalg.norm(cut["image"].affine[:3, :3], axis=0), (1.2, 1.3, 9.0))
    # 20 x 18 voxels in each of the scan's 7 slices, none beyond
    assert (cut["label"][0] > 0).sum((0, 1)).tolist() == [360] * 7 + [0] * 3


def test_a_click_is_the_centre_where_the_label_map_is_empty() -> None:
    scan = np.random.default_rng(0).normal(size=(60, 60, 4)).astype(np.float32)
    affine = np.diag([1.5, 1.5, 10.0, 1.0])
    label = np.zeros_like(scan)
    sample = {
        "image": MetaTensor(torch.from_numpy(scan)[None], affine=torch.from_numpy(affine)),
        "label": MetaTensor(torch.from_numpy(label)[None], affine=torch.from_numpy(affine)),
    }
    cut = SliceWindowd(["image", "label"], organ=[1], size=(20, 20), spacing_mm=1.5)
    result = cut({**sample, "foreground": [[1, 1, 1], [30, 25, 2]]})
    middle = result["image"].affine.numpy() @ [9.5, 9.5, 0, 1]
    assert np.allclose(middle[:2], [45.0, 37.5])
    with pytest.raises(ValueError, match="organ_mask must hold an organ"):
        cut(sample)
