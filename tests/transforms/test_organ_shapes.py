"""Nested lesions in an organ of thick slices: nothing leaks across slices or out of its class."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from tools.transforms.organ_shapes import OrganTargetd, OrganWindowd
from tools.transforms.sphere import attribute_condition

SPACING = (1.6, 1.6, 10.0)
CLASSES, ORGAN = [[3, 4], [4]], [2, 3, 4]


def heart(infarct: bool = True) -> dict:
    """A ring of myocardium in 5 of 7 slices; an infarct with a core in two of them."""
    x, y = np.meshgrid(np.arange(60) - 28.0, np.arange(56) - 25.0, indexing="ij")
    radius = np.hypot(x, y)
    ring = (radius > 10) & (radius < 18)
    label = np.zeros((60, 56, 7), np.uint8)
    label[..., 1:6] = np.where(ring, 2, np.where(radius <= 10, 1, 0))[..., None]
    if infarct:
        label[..., 2:4][(ring & (x > 4))[..., None] & np.ones(2, bool)] = 3
        label[..., 3][ring & (x > 9) & (radius < 14)] = 4
    affine = np.diag([-1.4, -1.4, 10.0, 1.0])
    return {"label": MetaTensor(torch.from_numpy(label)[None], affine=torch.from_numpy(affine))}


def window(sample: dict) -> dict:
    return OrganWindowd("label", CLASSES, ORGAN, (48, 48), SPACING[0])(sample)


def target(sample: dict) -> dict:
    return Compose([window, OrganTargetd("label", SPACING, region_key="region")])(sample)


def test_window_holds_the_organ_and_every_slice() -> None:
    masks = window(heart())["label"]
    assert masks.shape == (3, 48, 48, 8)
    assert masks.min() >= 0
    assert masks.max() == pytest.approx(1, abs=1e-5)
    assert masks[2].amax((0, 1)).gt(0.5).tolist() == [False, *[True] * 5, False, False]
    assert masks[0].amax((0, 1)).gt(0.5).tolist() == [False, False, True, True, *[False] * 4]
    # slices are not mixed: those without lesion hold none of it
    assert masks[0].amax((0, 1))[[0, 1, 4, 5, 6, 7]].max() == 0
    # nested also where masks are soft
    assert (masks[1] <= masks[0] + 1e-6).all()
    assert (masks[0] <= masks[2] + 1e-6).all()
    volume = float(masks[2].sum()) * 1.6**2
    assert volume == pytest.approx(float((heart()["label"] >= 2).sum()) * 1.4**2, rel=0.03)


def test_target_is_a_distance_within_the_slice() -> None:
    sample = target(heart())
    levels, region = sample["label"], sample["region"]
    assert levels.shape == (2, 48, 48, 8)
    assert region.shape == (1, 48, 48, 8)
    assert levels.dtype == region.dtype == torch.float32
    assert (levels.min(), levels.max()) == (-1, 1)
    assert (levels[:, region[0] == 0] == -1).all()
    assert not (levels[0, ..., [1, 4]] > -1).any()
    assert ((levels[1] > 0) <= (levels[0] > 0)).all()
    assert (levels[1] > 0).any((0, 1)).tolist() == [False, False, False, True, *[False] * 4]
    masks = window(heart())["label"]
    assert ((levels[0] > 0) ^ (masks[0] >= 0.5)).sum() < 0.08 * (levels[0] > 0).sum()


def test_region_is_organ_within_the_sphere_round_the_lesion() -> None:
    sample = target(heart())
    organ = window(heart())["label"][2] >= 0.5
    region = sample["region"][0] > 0
    assert not (region & ~organ).any()
    assert 0.3 < region.sum() / organ.sum() < 0.95
    # the side of the ring that lies far from the infarct is out
    lesion = window(heart())["label"][0] >= 0.5
    columns, struck = (mask.nonzero()[:, 0].float() for mask in (organ, lesion))
    far = columns.min() if struck.mean() > columns.mean() else columns.max()
    assert organ[int(far)].any()
    assert not region[int(far)].any()
    condition = sample["condition"]
    inside = np.argwhere(window(heart())["label"][0].numpy() >= 0.5) * SPACING
    widest = np.linalg.norm(inside[:, None] - inside[None, ::7], axis=-1).max()
    expected = attribute_condition(1.05 * widest, range_mm=(10.0, 120.0))
    assert np.abs(condition.numpy() - expected).max() < 0.3
    assert not condition[8:].any()


def test_without_a_lesion_nothing_is_generated() -> None:
    sample = target(heart(infarct=False))
    assert (sample["label"] == -1).all()
    assert not sample["region"].any()
    assert sample["condition"].isfinite().all()


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="classes must be nested within organ"):
        OrganWindowd("label", [[4], [3]], ORGAN)
    with pytest.raises(ValueError, match="classes must be nested within organ"):
        OrganWindowd("label", [[3, 5]], ORGAN)
    empty = MetaTensor(torch.zeros(1, 8, 8, 4), affine=torch.eye(4))
    with pytest.raises(ValueError, match="organ_mask must hold an organ"):
        window({"label": empty})
