"""Subtypes from ratings and names, and the condition that a denoiser is given."""

import math

import pytest
import torch

from tools.transforms.subtype import SubtypeConditiond, join_condition, lesion_subtype


@pytest.mark.parametrize(
    ("texture", "number"),
    [
        *((5, 0), (4.5, 0), (4.49, 1), (2.5, 1), (2.49, 2), (1, 2), (None, -1), (math.nan, -1)),
        *(("solid", 0), ("part_solid", 1), ("ground_glass", 2)),
    ],
)
def test_subtype_by_rating_or_name(texture: float | str | None, number: int) -> None:
    assert lesion_subtype(texture) == number


def test_limits_are_arguments() -> None:
    assert lesion_subtype(4.2, solid_from=4) == 0
    assert lesion_subtype(2.2, part_solid_from=2) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fluffy",), "texture must be a rating or one of .* got 'fluffy'"),
        ((0.5,), "texture must be a rating from 1 to 5, got 0.5"),
        ((3, 2, 4), "part_solid_from and solid_from must be in order between 1 and 5, got 4 and 2"),
    ],
)
def test_bad_ratings_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lesion_subtype(*arguments)


def test_condition_of_a_lesion() -> None:
    # [-1000, 400] HU in 40 bins of 35 HU; -982.5 HU lies in the first, 382.5 in the last
    image = (torch.tensor([-982.5, 382.5, 900.0, -1000.0]).reshape(1, 1, 2, 2) + 1000) / 2000
    label = torch.tensor([1, 1, 1, 0]).reshape(1, 1, 2, 2)
    sample = SubtypeConditiond("image")({"image": image, "label": label, "texture": 2.0})
    assert sample["condition"].shape == (41,)
    assert sample["condition"][0].item() == pytest.approx(1 / 3)
    assert sample["condition"][39].item() == pytest.approx(2 / 3)  # overflow is in the last
    assert sample["condition"][40] == 2
    assert torch.equal(sample["histogram"], sample["condition"][:40])


def test_an_empty_mask_asks_for_nothing() -> None:
    blank = torch.zeros(1, 2, 2, 2)
    sample = SubtypeConditiond("image")({"image": blank, "label": blank})
    assert (sample["condition"] == -1).all()
    assert (sample["histogram"] == 0).all()


def test_conditions_asked_for_by_name() -> None:
    assert join_condition([0.5, 0.5], "solid", 2) == [0.5, 0.5, 0]
    assert join_condition([0.5, 0.5], "none", 2) == [0.5, 0.5, -1]
    assert join_condition(None, 1, 2) == [-1, -1, 1]
    with pytest.raises(ValueError, match="histogram must hold 40 numbers, got 16"):
        join_condition([0.0] * 16, None)
    with pytest.raises(ValueError, match=r"subtype must be in -1\.\.2, got 3"):
        join_condition(None, 3)
