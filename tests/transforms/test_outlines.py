"""What a segmentation is shown and what it answers: masks, voxels, grids, organs."""

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose, RandFlip

from tools.transforms.outlines import (
    CompleteMasksd,
    FixedCompose,
    KeepInOrgand,
    OnGridOfd,
    OnVoxelsd,
)


def volume(values: Any, affine: Any = None) -> MetaTensor:
    return MetaTensor(torch.as_tensor(values), affine=None if affine is None else np.diag(affine))


IMAGE = volume(torch.zeros(1, 2, 3, 4))
LABEL = torch.zeros(1, 2, 3, 4, dtype=torch.uint8)
TUMOUR = LABEL.clone()
TUMOUR[0, 0], TUMOUR[0, 0, 0] = 1, 2


@pytest.mark.parametrize(
    ("sample", "values", "voxels"),
    [
        ({}, [], 24),  # nothing to go by: everywhere
        ({"label": TUMOUR}, [], 24),
        ({"label": TUMOUR}, [1, 2], 12),
        ({"label": TUMOUR, "organ_mask": LABEL + 1}, [1, 2], 24),  # what is given stays
        ({"label": LABEL}, [1, 2], 24),
    ],
)
def test_every_sample_has_label_and_organ(sample: dict, values: list[int], voxels: int) -> None:
    complete = CompleteMasksd("image", organ_values=values, classes=2)
    made = complete({"image": IMAGE, **sample})
    assert int((made["organ_mask"] > 0).sum()) == voxels
    assert torch.equal(torch.as_tensor(made["label"]), sample.get("label", LABEL))


def test_numbered_lesions_are_one_class() -> None:
    made = CompleteMasksd("image")({"image": IMAGE, "label": TUMOUR})
    assert torch.equal(torch.as_tensor(made["label"]), (TUMOUR > 0).byte())


def test_organs_are_looked_for_in_healthy_samples_only() -> None:
    asked = []

    def find(sample: Any) -> Any:
        asked.append(sample)
        return {**sample, "organ_mask": LABEL}

    complete = CompleteMasksd("image", find=find)
    assert not complete({"image": IMAGE})["organ_mask"].any()
    complete({"image": IMAGE, "label": TUMOUR})
    complete({"image": IMAGE, "organ_mask": LABEL})
    assert len(asked) == 1


def test_voxels_are_turned_and_resampled_and_the_answer_comes_back() -> None:
    # a ramp along the first axis, which runs to the left: 6 voxels of 2 mm
    ramp = torch.arange(6.0).reshape(1, 6, 1, 1).expand(1, 6, 4, 3)
    scan = volume(ramp.clone(), [-2.0, 3.0, 5.0, 1.0])
    sample = {"image": scan, "scan": scan, "label": scan.round()}
    made = OnVoxelsd(["image", "label"], [1.0, None, None], mask_keys="label")(sample)
    assert made["image"].shape == (1, 11, 4, 3)
    assert made["image"].affine.diagonal().tolist() == [1.0, 3.0, 5.0, 1.0]
    torch.testing.assert_close(made["image"][0, :, 0, 0].as_tensor(), torch.arange(5.0, -0.1, -0.5))
    assert set(made["label"].unique().tolist()) == set(range(6))
    back = OnGridOfd("pred")({**made, "pred": made["image"].as_tensor()})["pred"]
    torch.testing.assert_close(back.as_tensor(), ramp, atol=1e-5, rtol=0)
    assert torch.equal(back.affine, scan.affine)


def test_voxels_are_kept_where_no_size_is_asked_for() -> None:
    image = volume(torch.rand(1, 4, 5, 6), [-1.5, 1.5, 4.0, 1.0])
    made = OnVoxelsd("image")({"image": image})["image"]
    assert torch.equal(made.as_tensor(), image.as_tensor().flip(1))


@pytest.mark.parametrize("size", [0.0, [1.0, 1.0], [1.0, -1.0, 1.0]])
def test_sizes_of_voxels_are_checked(size: Any) -> None:
    with pytest.raises(ValueError, match="spacing_mm must be None or sizes above 0"):
        OnVoxelsd("image", size)


def test_lesions_outside_the_organ_give_way_to_the_next_class() -> None:
    pred = torch.tensor([0.1, 0.2, 0.7]).reshape(3, 1, 1, 1).repeat(1, 4, 1, 1)
    organ = torch.tensor([1, 1, 0, 0]).reshape(1, 4, 1, 1)
    made = KeepInOrgand("pred", [2])({"pred": pred, "organ_mask": organ})["pred"]
    assert made.argmax(0).flatten().tolist() == [2, 2, 1, 1]
    assert torch.equal(KeepInOrgand("pred", [2])({"pred": pred})["pred"], pred)
    with pytest.raises(ValueError, match="classes must be channels from 1 to 2, got"):
        KeepInOrgand("pred", [3])({"pred": pred, "organ_mask": organ})
    with pytest.raises(ValueError, match="organ_mask must have the shape of pred"):
        KeepInOrgand("pred", [2])({"pred": pred, "organ_mask": organ[:, :2]})


def test_what_is_not_random_is_made_once() -> None:
    seen: list[int] = []
    steps = FixedCompose([lambda x: seen.append(x) or x + 1, lambda x: 2 * x])
    dataset = CacheDataset([3], Compose([steps, lambda x: x - 1]), progress=False)
    assert [dataset[0], dataset[0]] == [7, 7]
    assert seen == [3]
    with pytest.raises(ValueError, match="transforms must not be random, got RandFlip"):
        FixedCompose([RandFlip()])
