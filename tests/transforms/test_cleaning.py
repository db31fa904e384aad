"""Cleaning of predicted masks: never empty, never a box, never outside."""

import numpy as np
import pytest
import torch

from tools.transforms.cleaning import CleanLevelsd, SmoothMaskd, clean_level, drawn_out, smooth_mask


def distance_from_middle() -> np.ndarray:
    axes = np.arange(40) - 19.5
    return np.linalg.norm(np.stack(np.meshgrid(axes, axes, axes, indexing="ij")), axis=0)


def ball(radius: float) -> np.ndarray:
    return distance_from_middle() <= radius


@pytest.mark.parametrize("radius", [7.0, 12.0, 15.0])
def test_large_balls_keep_their_volume(radius: float) -> None:
    mask = ball(radius)
    assert smooth_mask(mask).sum() == pytest.approx(mask.sum(), rel=0.12)


def test_the_smallest_lesion_is_thickened_not_lost() -> None:
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4] = True
    assert smooth_mask(mask).sum() > 1


def test_holes_are_filled_and_specks_dropped_on_request() -> None:
    mask = ball(9.0)
    mask[20, 20, 20] = False
    mask[1:8, 1:8, 1:8] = True
    both, one = smooth_mask(mask), smooth_mask(mask, largest_component=True)
    assert both[20, 20, 20]
    assert both[4, 4, 4]
    assert not one[:8, :8, :8].any()
    assert one.sum() < both.sum()


def test_empty_masks_are_an_error_and_never_a_box() -> None:
    with pytest.raises(ValueError, match="mask must hold a lesion"):
        smooth_mask(np.zeros((5, 5, 5), bool))
    with pytest.raises(ValueError, match="pred must hold a lesion, got an empty prediction"):
        SmoothMaskd("pred")({"pred": -torch.ones(1, 5, 5, 5)})


@pytest.mark.parametrize("outside", [0.0, -1.0])
def test_an_absent_class_stays_absent(outside: float) -> None:
    pred = torch.full((2, 40, 40, 40), -1.0)
    pred[0][torch.from_numpy(ball(9.0))] = 1
    clean = SmoothMaskd("pred", outside=outside)({"pred": pred})["pred"]
    assert clean.unique().tolist() == [outside, 1.0]
    assert (clean[0] > 0).sum() > 1000
    assert (clean[1] == outside).all()


def blob() -> np.ndarray:
    """A ball's clipped distance with a hole, a speck and a smaller piece of 8 % of it."""
    level = np.clip((9 - distance_from_middle()) / 3, -1, 1).astype(np.float32)
    level[18:21, 20, 20] = -0.4
    level[2, 2, 2] = 0.3
    level[2:8, 30:36, 30:37] = 0.5
    return level


def test_holes_and_specks_go_and_the_outline_stays() -> None:
    level = blob()
    clean = clean_level(level)
    assert clean.dtype == np.float32
    assert (clean[18:21, 20, 20] > 0).all()
    assert clean[2, 2, 2] < 0
    assert (clean[2:8, 30:36, 30:37] > 0).all()
    changed = clean != level
    assert changed.sum() == 4
    # what was cleaned is clean
    assert np.array_equal(clean_level(clean), clean)
    assert level[2, 2, 2] == np.float32(0.3)  # the input is as it was


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_levels_without_outline_stay_as_they_are(value: float) -> None:
    level = np.full((6, 6, 6), value)
    assert np.array_equal(clean_level(level), level)


def test_a_lesion_is_drawn_out_along_its_own_axis_and_no_other() -> None:
    turned = np.array([[1, 1, 0], [-1, 1, 0], [0, 0, 2**0.5]]) / 2**0.5
    offset = np.moveaxis(np.indices((40, 40, 40)) - 19.5, 0, -1) @ turned.T
    level = (1 - np.linalg.norm(offset / (14, 9, 9), axis=-1)).astype(np.float32)
    narrow = drawn_out(level, 1.25)
    assert narrow.dtype == np.float32
    asked = np.linalg.norm(offset * (1, 1.25, 1.25) / (14, 9, 9), axis=-1) < 1
    assert ((narrow > 0) != asked).mean() < 0.002
    assert (narrow > 0).sum() / (level > 0).sum() == pytest.approx(1.25**-2, abs=0.02)
    sample = CleanLevelsd("pred", stretch=1.25)({"pred": torch.from_numpy(level)[None]})
    assert np.array_equal(sample["pred"][0].numpy(), narrow)


@pytest.mark.parametrize("voxels", [0, 1, 3])
def test_what_has_no_axis_is_not_drawn_out(voxels: int) -> None:
    level = np.full((6, 6, 6), -1.0)
    level[2, 2, :voxels] = 1
    assert np.array_equal(drawn_out(level, 1.3), level)
    for wrong in (0.4, [1.3, 1.0], [1.0, 2.1]):
        with pytest.raises(ValueError, match=r"stretch must be from 0\.5 to 2, or two such"):
            drawn_out(level, wrong)


def test_a_range_draws_each_lesion_out_by_a_factor_of_its_own() -> None:
    offset = np.moveaxis(np.indices((40, 40, 40)) - 19.5, 0, -1)
    ratios = []
    for half in np.linspace(8, 9, 24):
        level = 1 - np.linalg.norm(offset / (14, half, half), axis=-1)
        narrow = drawn_out(level, [0.9, 1.4])
        assert np.array_equal(narrow, drawn_out(level.copy(), (0.9, 1.4)))  # the same once more
        ratios.append((narrow > 0).sum() / (level > 0).sum())
    factors = np.array(ratios) ** -0.5
    # 24 lesions, a little blunted by their voxels
    assert 0.88 < factors.min() < 1.05
    assert 1.3 < factors.max() < 1.42
    assert factors.mean() == pytest.approx(1.15, abs=0.08)


def test_levels_of_each_class_are_cleaned_apart() -> None:
    pred = torch.stack([torch.from_numpy(blob()), torch.full((40, 40, 40), -1.0)])
    sample = CleanLevelsd("pred")({"pred": pred})
    assert np.array_equal(sample["pred"][0].numpy(), clean_level(blob()))
    assert (sample["pred"][1] == -1).all()
    assert pred[0, 2, 2, 2] > 0
