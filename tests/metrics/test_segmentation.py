"""Lesions outlined and found, by size; values derived by hand, scikit-learn's for a reference."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from sklearn.metrics import average_precision_score

from tools.metrics.segmentation import (
    AveragePrecision,
    Dice,
    FrocScore,
    LesionScore,
    OfClasses,
    SurfaceDice,
    average_precision,
    match_lesions,
    of_size,
)

ONE = (1.0, 1.0, 1.0)


def boxes(*places: tuple[int, int], probability: float = 1.0) -> torch.Tensor:
    """Cubes from a corner on the diagonal, with their side; 3 mm wide: 3.7 mm of diameter."""
    mask = torch.zeros(1, 1, 40, 40, 40)
    for start, side in places:
        part = slice(start, start + side)
        mask[..., part, part, part] = probability
    return mask


NOTHING = boxes()


@pytest.mark.parametrize(
    ("result", "wanted", "dice"),
    [
        (boxes((5, 10)), boxes((5, 10)), 1.0),
        # 9^3 voxels are shared
        (boxes((5, 10)), boxes((6, 10)), 0.729),
        (NOTHING, boxes((5, 10)), 0.0),
        (boxes((5, 10)), NOTHING, 0.0),
        (NOTHING, NOTHING, np.nan),
    ],
)
def test_dice_and_empty_masks(result: torch.Tensor, wanted: torch.Tensor, dice: float) -> None:
    assert Dice()(result, wanted).item() == pytest.approx(dice, nan_ok=True)
    # moved by a voxel along each axis, no surface lies farther off than the root of 3
    surface = SurfaceDice(1.8, spacing_mm=ONE)(result, wanted).item()
    assert surface == pytest.approx(1.0 if 0 < dice < 1 else dice, nan_ok=True)


def test_what_is_not_there_does_not_count_in_the_mean() -> None:
    metric = Dice()
    metric(torch.cat([NOTHING, boxes((5, 4))]), torch.cat([NOTHING, boxes((5, 4))]))
    assert metric.aggregate().item() == 1.0


def test_tolerance_is_in_mm_of_each_axis() -> None:
    thick = torch.zeros(1, 1, 12, 12, 12)
    thick[..., 3:9, 3:9, 3:9] = 1
    moved = thick.roll(1, -1)
    values = [SurfaceDice(t, spacing_mm=(1, 1, 3))(moved, thick).item() for t in (0.9, 2.9, 3.0)]
    assert values[0] <= values[1] < values[2] == pytest.approx(1.0)
    assert SurfaceDice(1.0, spacing_mm=ONE)(moved, thick).item() == pytest.approx(1.0)
    own = MetaTensor(thick, affine=torch.diag(torch.tensor([1.0, 1, 3, 1])))
    assert SurfaceDice(2.9)(moved, own).item() == values[1]


def test_lesions_of_other_sizes_are_not_there() -> None:
    # 3.7 mm and 12.4 mm; the large one is found badly, and one of 3.7 mm is made up
    wanted = boxes((2, 3), (20, 10))
    result = boxes((2, 3), (21, 10), (10, 3))
    small, large = (Dice((0, 6), ONE), Dice((10, 20), ONE))
    assert small(result, wanted).item() == pytest.approx(2 * 27 / (54 + 27))
    assert large(result, wanted).item() == pytest.approx(0.729)
    assert np.isnan(Dice((6, 10), ONE)(result, wanted).item())
    # in voxels of 2 mm all are twice as large
    assert Dice((6, 10), (2, 2, 2))(result, wanted).item() == small(result, wanted).item()


def test_a_part_over_two_sizes_stays_with_the_one_asked_for() -> None:
    wanted = np.zeros((3, 3, 30), bool)
    wanted[..., :3], wanted[..., 10:] = True, True
    both = np.ones_like(wanted)
    kept, lesions = of_size(both, wanted, ONE, (0, 6))
    assert kept.all()
    assert lesions.sum() == 27


def test_a_lesion_is_hit_from_an_overlap_on() -> None:
    wanted = np.zeros((1, 1, 20), bool)
    wanted[..., :9] = True
    part = np.zeros((1, 1, 20))
    part[..., 8:10] = 0.9  # 1 of 10 voxels in common
    assert match_lesions(part, wanted).scores.tolist() == [0.9]
    far = match_lesions(part, wanted, overlap=0.11)
    assert (far.scores.tolist(), far.false.tolist()) == ([0.0], [0.9])


def test_a_lesion_counts_once_however_many_parts_hit_it() -> None:
    wanted = np.zeros((1, 1, 20), bool)
    wanted[..., :10] = True
    parts = np.where(np.arange(20) % 3 < 2, 0.6, 0.0)[None, None] * wanted
    parts[..., :2] = 0.8
    found = match_lesions(parts, wanted)
    assert (found.scores.tolist(), found.false.tolist()) == ([0.8], [])


def scored() -> tuple[torch.Tensor, torch.Tensor]:
    """Two cases: lesions found with 0.9 and 0.4, one missed; false parts of 0.6 and 0.2."""
    first = boxes((2, 3), probability=0.9) + boxes((30, 3), probability=0.6)
    second = boxes((12, 3), probability=0.4) + boxes((30, 3), probability=0.2)
    wanted = torch.cat([boxes((2, 3), (20, 3)), boxes((12, 3))])
    return torch.cat([first, second]), wanted


@pytest.mark.parametrize(
    ("quantity", "threshold", "value"),
    [
        ("sensitivity", 0.5, 1 / 3),
        ("sensitivity", 0.1, 2 / 3),
        ("precision", 0.1, 0.5),
        ("f1", 0.1, 4 / 7),
        ("false_per_case", 0.1, 1.0),
        ("false_per_case", 0.5, 0.5),
    ],
)
def test_scores_of_lesions(quantity: str, threshold: float, value: float) -> None:
    metric = LesionScore(quantity, threshold)
    metric(*scored())
    assert metric.aggregate().item() == pytest.approx(value)


def test_froc_is_the_mean_over_rates() -> None:
    metric = FrocScore(false_per_case=(0.25, 0.5, 1.0, 8.0))
    metric(*scored())
    rates, found = metric.curve()
    # at 0.2, 0.4, 0.6, 0.9 and above
    assert rates.tolist() == [1.0, 0.5, 0.5, 0.0, 0.0]
    assert found == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 3, 0])
    assert metric.aggregate().item() == pytest.approx((1 / 3 + 3 * 2 / 3) / 4)
    # all found, none false: the lowest score counts as well
    perfect = FrocScore()
    perfect(boxes((2, 3), probability=0.7), boxes((2, 3)))
    assert perfect.aggregate().item() == 1.0


def test_average_precision_is_that_of_scikit_learn_where_all_are_found() -> None:
    rng = np.random.default_rng(0)
    scores, false = rng.integers(1, 9, 30) / 10, rng.integers(1, 9, 50) / 10
    target = np.repeat([1, 0], [30, 50])
    expected = average_precision_score(target, np.concatenate([scores, false]))
    assert average_precision(scores, false) == pytest.approx(expected)
    metric = AveragePrecision()
    metric(*scored())
    # 0.9: 1 of 1, then 0.4: 2 of 3; the third is never reached
    assert metric.aggregate().item() == pytest.approx((1 + 2 / 3) / 3)


def test_without_lesions_there_is_no_number() -> None:
    for metric in (LesionScore(), FrocScore(), AveragePrecision(), LesionScore("precision")):
        metric(NOTHING, NOTHING)
        assert np.isnan(metric.aggregate().item())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dice((6, 3)), "size_mm must be two rising diameters, got"),
        (lambda: SurfaceDice(-1), "tolerance_mm must be 0 or more, got -1"),
        (lambda: LesionScore("recall"), "quantity must be one of"),
        (lambda: LesionScore(overlap=0)(NOTHING, NOTHING), "overlap must be above 0"),
        (lambda: Dice((0, 6))(NOTHING, NOTHING), "spacing_mm must be given"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def one_hot(*classes: torch.Tensor) -> torch.Tensor:
    masks = torch.cat(classes, 1)
    return torch.cat([1 - masks.amax(1, keepdim=True), masks], 1)


def test_classes_are_measured_one_by_one_or_together() -> None:
    outer, inner = boxes((5, 10)), boxes((20, 10))
    moved = boxes((6, 10))
    pred, label = one_hot(moved, inner), one_hot(outer, inner)
    each = OfClasses(Dice(), [1, 2])
    each(pred, label)
    each(one_hot(NOTHING, NOTHING), one_hot(NOTHING, inner))  # no first class: it does not count
    assert each.per_class().tolist() == pytest.approx([0.729, 0.5])
    assert each.aggregate().item() == pytest.approx((0.729 + 0.5) / 2)
    together = OfClasses(LesionScore("sensitivity"), [1, 2], together=True)
    together([pred[0], pred[0]], [label[0], one_hot(boxes((32, 6)), inner)[0]])
    assert together.aggregate().item() == 0.75  # two lesions, and one of two
    with pytest.raises(ValueError, match="one-hot, of equal shape, with classes \\[3\\]"):
        OfClasses(Dice(), [3])(pred, label)
