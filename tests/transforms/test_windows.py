"""From a scan to a window and back: slices kept, exact background, the scan's own units."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CopyItemsd
from scipy import ndimage

from tests.transforms.oblique import turned
from tools.transforms.windows import PasteChanged, PasteLesiond, PercentileScaled, SliceWindowd

STACK, SHAPE = (44, 40, 7), (40, 36, 6)
CUT = Compose(
    [
        CopyItemsd(["image", "label"], names=["scan", "scan_label"]),
        SliceWindowd(["image", "label"], [1, 2, 3, 4], size=(32, 32), spacing_mm=1.5),
        PercentileScaled("image", (0, 100)),
        CopyItemsd("image", names="window"),
    ]
)


def paste(classes: list[int]) -> PasteLesiond:
    return PasteLesiond("pred", mask_key="scan_label", classes=classes, window_key="window")


def stack(affine: np.ndarray) -> dict:
    """Slice k of the image is k + 1 everywhere; the organ is 20 x 18 voxels in every slice."""
    label = torch.zeros(1, *STACK, dtype=torch.uint8)
    label[:, 12:32, 11:29] = 2
    label[:, 18:26, 16:24] = 1
    image = torch.arange(1.0, 8).expand(1, *STACK).clone()
    return {name: MetaTensor(t, affine=affine) for name, t in (("image", image), ("label", label))}


@pytest.mark.parametrize("degrees", [0.0, 3.0, 24.0, 27.0, 57.0, 60.0])
def test_windows_of_oblique_scans_keep_every_slice(degrees: float) -> None:
    affine = turned((1.2, 1.3, 9.0), degrees)
    cut = SliceWindowd(["image", "label"], [1, 2], size=(32, 24), spacing_mm=1.5)(stack(affine))
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


def test_four_slices_need_no_more() -> None:
    sample = stack(np.diag([1.5, 1.5, 10.0, 1.0]))
    four = {key: MetaTensor(item[..., :4], affine=item.affine) for key, item in sample.items()}
    cut = SliceWindowd(["image", "label"], [1, 2], size=(16, 16))(four)
    assert cut["image"].shape == (1, 16, 16, 4)


def test_scaling_is_undone_by_its_range() -> None:
    image = torch.rand(1, 10, 10, 10) * 700 + 40
    scaled = PercentileScaled("image")({"image": image})
    low, high = scaled["intensity_range"].tolist()
    assert (low, high) == pytest.approx(tuple(np.percentile(image, (0.5, 99.5))))
    back = (scaled["image"].double() + 1) / 2 * (high - low) + low
    assert torch.allclose(back, image.double().clamp(low, high), atol=1e-3)
    integers = PercentileScaled("image", (0, 100))({"image": torch.tensor([[2, 4, 6]])})["image"]
    assert integers.tolist() == [[-1, 0, 1]]


def test_the_scan_can_keep_its_voxels_and_fill_up_to_ten_slices() -> None:
    sample = stack(turned((1.2, 1.3, 9.0)))
    cut = SliceWindowd(["image", "label"], [1, 2], size=(32, 24), spacing_mm=None, step=10)(sample)
    assert cut["image"].shape == (1, 32, 24, 10)
    assert np.allclose(np.linalg.norm(cut["image"].affine[:3, :3], axis=0), (1.2, 1.3, 9.0))
    # 20 x 18 voxels in each of the scan's 7 slices, none beyond
    assert (cut["label"][0] > 0).sum((0, 1)).tolist() == [360] * 7 + [0] * 3


def test_a_click_is_the_centre_where_the_label_map_is_empty() -> None:
    sample = stack(np.diag([1.5, 1.5, 10.0, 1.0]))
    cut = SliceWindowd(["image", "label"], organ=[3], size=(20, 20), spacing_mm=1.5)
    result = cut({**sample, "foreground": [[1, 1, 1], [30, 25, 2]]})
    middle = result["image"].affine.numpy() @ [9.5, 9.5, 0, 1]
    assert np.allclose(middle[:2], [45.0, 37.5])
    with pytest.raises(ValueError, match="organ_mask must hold an organ"):
        cut(sample)


def heart(dtype: torch.dtype = torch.int16, affine: np.ndarray | None = None) -> dict:
    """A scan that rises along its first axis, and from slice to slice, with a lesion of 3 and 4."""
    image = torch.arange(SHAPE[0])[None, :, None, None] * 5 + torch.arange(SHAPE[2]) * 300
    image = image.expand(1, *SHAPE).clone().to(dtype)
    label = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    label[:, 10:30, 9:27] = 2
    label[:, 15:25, 13:23] = 1
    label[:, 11:15, 10:20, 1:4] = 3
    label[:, 12:14, 12:15, 2] = 4
    affine = turned((1.2, 1.3, 9.0)) if affine is None else affine
    return {name: MetaTensor(t, affine=affine) for name, t in (("image", image), ("label", label))}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float32])
def test_background_is_the_scan_bit_for_bit(dtype: torch.dtype) -> None:
    sample = heart(dtype)
    cut = CUT(sample)
    noise = torch.rand(2, *cut["image"].shape[1:], generator=torch.Generator().manual_seed(0))
    pasted = paste([3, 4])({**cut, "pred": noise})["pred"]
    inside = np.isin(sample["label"], [3, 4])
    assert pasted.dtype == dtype
    assert pasted.shape == sample["image"].shape
    assert torch.equal(torch.as_tensor(pasted.affine), torch.as_tensor(sample["image"].affine))
    assert np.array_equal(np.asarray(pasted)[~inside], np.asarray(sample["image"])[~inside])
    assert (np.asarray(pasted)[inside] != np.asarray(sample["image"])[inside]).mean() > 0.9
    only = paste([4])({**cut, "pred": noise})["pred"]
    assert (np.asarray(only) != np.asarray(sample["image"])).sum() <= 6


@pytest.mark.parametrize("degrees", [0.0, 24.0, 57.0])
def test_the_window_as_it_was_cut_gives_the_scan_back(degrees: float) -> None:
    """Place, slice and units all come back: an error in one of them shows in a scan that rises.

    At the label's edge what is inside goes on outwards, so it is no more than near.
    """
    sample = heart(torch.float32, turned((1.2, 1.3, 9.0), degrees))
    cut = CUT(sample)
    result = paste([3, 4])({**cut, "pred": cut["window"].as_tensor()})["pred"]
    error = (result - sample["image"]).abs().numpy()[0]
    inside = np.isin(cut["scan_label"][0], [3, 4])
    within = ndimage.binary_erosion(inside, np.ones((3, 3, 1)))
    assert not error[~inside].any()
    assert error[within].size
    assert error[within].max() < 0.01
    assert error[inside].max() < 3


@pytest.mark.parametrize(
    ("dtype", "window", "level", "expected"),
    [
        (torch.int16, (100.0, 300.0), 0.5, [250]),
        (torch.uint8, (0.0, 255.0), 1.5, [255]),  # integers do not wrap round
        (torch.uint8, (0.0, 255.0), -1.5, [0]),
    ],
)
def test_the_range_gives_units_and_only_the_first_channel_counts(
    dtype: torch.dtype, window: tuple, level: float, expected: list
) -> None:
    cut = CUT(heart(dtype)) | {"intensity_range": torch.tensor(window)}
    prediction = torch.stack([torch.full((32, 32, 8), level), torch.full((32, 32, 8), -0.9)])
    result = paste([4])({**cut, "pred": prediction})["pred"]
    assert result[cut["scan_label"] == 4].unique().tolist() == expected
    none = paste([7])({**cut, "pred": prediction})["pred"]
    assert torch.equal(none.as_tensor(), cut["scan"].as_tensor())


def test_faults_are_named() -> None:
    cut = CUT(heart())
    cut["pred"] = torch.zeros(2, 32, 32, 8)
    with pytest.raises(ValueError, match=r"scan_label must have the shape of scan, got \(1, 40"):
        paste([3])({**cut, "scan_label": cut["scan_label"][..., :-1]})
    with pytest.raises(ValueError, match=r"lesion must fit the window of \(8, 8, 8\) voxels"):
        paste([3])({**cut, "pred": torch.zeros(2, 8, 8, 8)})
    with pytest.raises(KeyError):
        paste([3])({key: value for key, value in cut.items() if key != "pred"})


def test_background_is_copied_bit_for_bit_and_integers_are_rounded() -> None:
    scan = torch.randint(-3000, 3000, (1, 4, 4, 4), dtype=torch.int16)
    label = torch.zeros(1, 4, 4, 4)
    label[0, 1, 1, 1] = label[0, 2, 2, 2] = 1
    pred = torch.full((1, 4, 4, 4), 0.25)
    sample = {"pred": pred, "scan": scan, "label": label}
    result = PasteLesiond("pred", window=(-1000, 400))(sample)["pred"]
    assert result.dtype == torch.int16
    assert (result[label == 1] == -125).all()
    assert torch.equal(result[label == 0], scan[label == 0])
    assert torch.equal(sample["pred"], pred)  # the input sample is left alone


def test_what_changed_is_added_and_the_rest_keeps_every_bit() -> None:
    scan = torch.tensor([[[1500, -1200, 40, 0]]], dtype=torch.int16)
    image = torch.tensor([[[1.0, 0.0, 0.52, 0.5]], [[0.0, 0.0, 1.0, 1.0]]])
    pred = torch.tensor([[[0.99, 0.0, 0.02, 0.5]]])
    sample = {"pred": pred, "image": image, "scan": scan}
    composite = PasteChanged("pred", scale=2000)(sample)["pred"]
    assert composite.dtype == torch.int16
    assert composite.tolist() == [[[1480, -1200, -960, 0]]]
