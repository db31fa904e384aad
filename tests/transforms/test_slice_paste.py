"""Windows of thick slices go back into their scan: exact places, exact background, same units."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CopyItemsd

from tests.transforms.oblique import turned
from tools.transforms.slice_paste import PasteSlicesd
from tools.transforms.slice_window import PercentileScaled, SliceWindowd

SHAPE = (40, 36, 6)
CUT = Compose(
    [
        CopyItemsd(["image", "label"], names=["scan", "scan_label"]),
        SliceWindowd(["image", "label"], [1, 2, 3, 4], size=(32, 32), spacing_mm=1.5),
        PercentileScaled("image", (0, 100), clip=False),
        CopyItemsd("image", names="window"),
    ]
)


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
    pasted = PasteSlicesd("pred", [3, 4])({**cut, "pred": noise})["pred"]
    inside = np.isin(sample["label"], [3, 4])
    assert pasted.dtype == dtype
    assert pasted.shape == sample["image"].shape
    assert torch.equal(torch.as_tensor(pasted.affine), torch.as_tensor(sample["image"].affine))
    assert np.array_equal(np.asarray(pasted)[~inside], np.asarray(sample["image"])[~inside])
    assert (np.asarray(pasted)[inside] != np.asarray(sample["image"])[inside]).mean() > 0.9
    only = PasteSlicesd("pred", [4])({**cut, "pred": noise})["pred"]
    assert (np.asarray(only) != np.asarray(sample["image"])).sum() <= 6


@pytest.mark.parametrize("degrees", [0.0, 24.0, 57.0])
def test_the_window_as_it_was_cut_gives_the_scan_back(degrees: float) -> None:
    """Place, slice and units all come back: an error in one of them shows in a scan that rises."""
    sample = heart(torch.float32, turned((1.2, 1.3, 9.0), degrees))
    cut = CUT(sample)
    result = PasteSlicesd("pred", [3, 4])({**cut, "pred": cut["window"].as_tensor()})["pred"]
    assert torch.allclose(result.as_tensor(), sample["image"].as_tensor(), atol=0.01)


def test_the_range_gives_units_and_only_the_first_channel_counts() -> None:
    cut = CUT(heart())
    cut["intensity_range"] = torch.tensor([100.0, 300.0])
    prediction = torch.stack([torch.full((32, 32, 8), 0.5), torch.full((32, 32, 8), -1.0)])
    result = PasteSlicesd("pred", [4])({**cut, "pred": prediction})["pred"]
    assert result[cut["scan_label"] == 4].unique().tolist() == [250]


def test_integers_do_not_wrap_round() -> None:
    cut = CUT(heart(torch.uint8))
    cut["intensity_range"] = torch.tensor([0.0, 255.0])
    for level, expected in ((1.5, 255), (-1.5, 0)):
        prediction = torch.full((1, 32, 32, 8), level)
        result = PasteSlicesd("pred", [3])({**cut, "pred": prediction})["pred"]
        assert result[cut["scan_label"] == 3].unique().tolist() == [expected]


def test_no_lesion_leaves_the_scan() -> None:
    sample = heart()
    cut = CUT(sample)
    result = PasteSlicesd("pred", [7])({**cut, "pred": torch.zeros(2, 32, 32, 8)})["pred"]
    assert torch.equal(result.as_tensor(), sample["image"].as_tensor())


def test_faults_are_named() -> None:
    cut = CUT(heart())
    paste = PasteSlicesd("pred", [3])
    cut["pred"] = torch.zeros(2, 32, 32, 8)
    with pytest.raises(ValueError, match=r"scan_label must have the shape of scan, got \(40, 36,"):
        paste({**cut, "scan_label": cut["scan_label"][..., :-1]})
    with pytest.raises(ValueError, match=r"lesion must fit the window of \(8, 8, 8\) voxels"):
        paste({**cut, "pred": torch.zeros(2, 8, 8, 8)})
    with pytest.raises(KeyError):
        paste({key: value for key, value in cut.items() if key != "pred"})
    del cut["pred"]
    assert "pred" not in PasteSlicesd("pred", [3], allow_missing_keys=True)(cut)
