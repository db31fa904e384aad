"""Requests taken from real lesions: the same sphere, scores and organ, on the same grid."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from tools.transforms.mask_request import MaskRequestd
from tools.transforms.shape_request import ShapeToScand
from tools.transforms.sphere import attribute_condition, enclosing_sphere


def nodule(spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> MetaTensor:
    mask = torch.zeros(1, 20, 20, 20)
    mask[0, 4:9, 5:11, 6:8] = 1
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-30.0, 12.0, 5.0])
    return MetaTensor(mask, affine=affine)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 2.5)])
def test_a_full_answer_is_the_sphere_on_the_grid(spacing: tuple[float, float, float]) -> None:
    sample = MaskRequestd("label", size=16)({"label": nodule(spacing), "spiculation": 4.0})
    assert set(sample["image"].unique().tolist()) == {-1.0}
    assert set(sample["label"].unique().tolist()) == {0.0, 1.0}
    sphere = enclosing_sphere(nodule(spacing)[0].numpy(), nodule(spacing).affine.numpy())
    assert sample["control"]["centre_mm"].tolist() == pytest.approx(sphere.centre_mm)
    answer = ShapeToScand("pred")(sample | {"pred": 2 * sample["label"] - 1})["pred"]
    assert torch.equal(answer.affine, nodule(spacing).affine)
    assert np.array_equal(answer.numpy(), sample["sphere_region"].numpy())
    assert bool((sample["sphere_region"] >= sample["target"]).all())
    assert torch.equal(sample["target"].float(), nodule(spacing))
    diameter = 2 * sphere.radius_mm + np.prod(spacing) ** (1 / 3)
    expected = attribute_condition(diameter, spiculation=4.0)
    assert sample["condition"].numpy() == pytest.approx(expected, abs=1e-4)


def test_classes_and_organ_come_from_the_label_map() -> None:
    label = nodule((1.4, 1.4, 10.0))
    label[0, 2:12, 3:14, :] += 2  # wall 2, infarct 3
    label[0, 5:7, 6:8, 6] = 4
    request = MaskRequestd("label", [[3, 4], [4]], [2, 3, 4], 16, range_mm=(10, 120))
    sample = request({"label": label})
    assert sample["image"].shape == (2, 16, 16, 16)
    assert sample["label"].shape == (1, 16, 16, 16)
    assert int(sample["target"].sum()) == 5 * 6 * 2
    assert torch.equal(sample["boundary"] > 0, label >= 2)
    outside = (sample["boundary"] == 0) & (sample["sphere_region"] > 0)
    assert not outside.any()


def test_a_single_voxel_is_a_request() -> None:
    mask = torch.zeros(1, 9, 9, 9)
    mask[0, 4, 4, 4] = 1
    assert MaskRequestd("label", size=8)({"label": MetaTensor(mask)})["label"].any()


def test_an_empty_mask_asks_for_nothing() -> None:
    with pytest.raises(ValueError, match="mask must hold a lesion"):
        MaskRequestd("label")({"label": MetaTensor(torch.zeros(1, 9, 9, 9))})
