"""Moving infarcts between hearts, and what a lesion of two classes in a wall is on any grid."""

import numpy as np
import pytest

from tests.shapes.walls import AFFINE, phantom, ring
from tools.shapes import LabelShape, Place
from tools.shapes.wall import WallLesion, move_lesion, settle

HEART, ANGLE, DEPTH = ring()


def infarct(heart: Place, angle: np.ndarray, depth: np.ndarray, centre: float) -> np.ndarray:
    """The inner two thirds of the wall, 90 degrees of it, lower half; no-reflow in its middle."""
    away = np.abs(np.angle(np.exp(1j * (angle - centre))))
    label = np.where(heart.organ_mask & (away < np.pi / 4) & (depth < 0.67), 3, 0).astype(np.uint8)
    label[heart.organ_mask & (away < np.pi / 8) & (depth < 0.4)] = 4
    label[..., label.shape[2] // 2 :] = 0
    return label


LABEL = infarct(HEART, ANGLE, DEPTH, 0.4)
LESION = WallLesion.measure(HEART, LABEL, "ring")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_moved_to_its_own_heart_nothing_changes(seed: int) -> None:
    heart, label = phantom(seed)
    lesion = WallLesion.measure(heart, label, "own")
    assert np.array_equal(move_lesion(lesion, heart), np.where(label > 2, label, 0))
    assert lesion.inner_share == pytest.approx((label == 4).sum() / (label > 2).sum())


@pytest.mark.parametrize("centre", [0.3, 3.1])
def test_size_of_wall_and_number_of_slices_do_not_matter(centre: float) -> None:
    lesion = WallLesion.measure(HEART, infarct(HEART, ANGLE, DEPTH, centre), "ring")
    assert abs(np.angle(np.exp(1j * (lesion.angle - centre)))) < 0.05
    other, angles, depths = ring((72, 70, 10), outer_mm=34.0, inner_mm=17.0)
    wanted = infarct(other, angles, depths, centre)
    moved = move_lesion(lesion, other)
    assert dice(moved > 0, wanted > 0) > 0.93
    assert dice(moved == 4, wanted == 4) > 0.85
    assert not moved[~other.organ_mask].any()


def test_a_turn_turns() -> None:
    moved = move_lesion(LESION, HEART, turn=1.2)
    assert dice(moved > 0, infarct(HEART, ANGLE, DEPTH, 1.6) > 0) > 0.93
    assert dice(moved > 0, infarct(HEART, ANGLE, DEPTH, -0.8) > 0) < 0.1


def test_apex_goes_to_apex_when_slices_run_the_other_way() -> None:
    upside_down = HEART._replace(
        affine=AFFINE @ np.diag([1.0, 1.0, -1.0, 1.0]),
        organ_mask=HEART.organ_mask[..., ::-1],
        cavity=HEART.cavity[..., ::-1],
    )
    assert np.array_equal(move_lesion(LESION, upside_down), LABEL[..., ::-1])


def test_empty_slices_round_the_heart_do_not_matter() -> None:
    pad = ((0, 0), (0, 0), (2, 1))
    wider = HEART._replace(
        organ_mask=np.pad(HEART.organ_mask, pad), cavity=np.pad(HEART.cavity, pad)
    )
    moved = move_lesion(LESION, wider)
    # the middles of the end slices have no neighbour to be smoothed with: all but the same
    assert dice(moved > 0, np.pad(LABEL, pad) > 0) > 0.98
    assert not moved[..., [0, 1, -1]].any()


def test_a_share_of_no_reflow_is_met_where_it_is_surest() -> None:
    own = move_lesion(LESION, HEART)
    assert np.array_equal(move_lesion(LESION, HEART._replace(inner_share=(0.0, 1.0))), own)
    less, more = (move_lesion(LESION, HEART._replace(inner_share=(s, s))) for s in (0.1, 0.6))
    assert not ((less == 4) & (own != 4)).any()
    assert not ((own == 4) & (more != 4)).any()
    for moved, share in ((less, 0.1), (more, 0.6)):
        assert np.array_equal(moved > 0, own > 0)
        assert int((moved == 4).sum()) == round(share * int((own > 0).sum()))
    none = WallLesion.measure(HEART, np.where(LABEL > 0, 3, 0), "ring")
    core = move_lesion(none, HEART._replace(inner_share=(0.2, 0.3)))
    away = np.abs(np.angle(np.exp(1j * (ANGLE - 0.4))))
    assert (core == 4).sum() == round(0.2 * (LABEL > 0).sum())
    assert away[core == 4].mean() < 0.6 * away[core == 3].mean()


def test_what_is_no_lesion_in_the_wall_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"label must hold one of \(3, 4\) in the wall, got none"):
        WallLesion.measure(HEART, np.where(HEART.cavity, 3, 0), "outside")
    partly = WallLesion.measure(HEART, np.where(HEART.cavity, 3, LABEL), "partly")
    assert np.array_equal(move_lesion(partly, HEART), LABEL)
    empty = HEART._replace(organ_mask=HEART.organ_mask & False)
    with pytest.raises(ValueError, match="wall must hold voxels"):
        WallLesion.measure(empty, LABEL, "no wall")
    with pytest.raises(ValueError, match="mask must hold a lesion"):
        LabelShape.measure(0 * LABEL, HEART, "nothing")


def two_pieces() -> np.ndarray:
    """A core that touches its lesion by a corner, and a piece of core apart."""
    label = np.zeros((9, 5, 3), np.uint8)
    label[1:3, 1, 1], label[3, 2, 2], label[6, 1, 1] = 3, 4, 4
    return label


def test_a_core_without_a_lesion_round_it_becomes_lesion() -> None:
    label, wanted = two_pieces(), two_pieces()
    wanted[6, 1, 1] = 3
    assert np.array_equal(settle(label, (3, 4)), wanted)
    alone = np.where(label > 0, 4, 0)
    assert np.array_equal(settle(alone, (3, 4)), alone)


@pytest.mark.parametrize("values", [(3, 4), (4, 3)])
def test_masks_are_one_per_class_on_any_grid(values: tuple[int, int]) -> None:
    label = two_pieces()
    shape = LabelShape(label, AFFINE, values, "mine", 10.0)
    masks, box = shape.masks(AFFINE, label.shape)
    assert np.array_equal(masks, [label == value for value in values])
    assert np.array_equal(label[box], label)
    # turned, half the spacing in one axis, and less of it: the nearest voxel counts
    turned = AFFINE[:, [1, 0, 2, 3]] @ np.diag([1, 0.5, 1, 1])
    turned[:3, 3] = AFFINE[:3, :3] @ [0.75, 1, 1]
    masks, _ = shape.masks(turned, (4, 12, 2))
    wanted = np.repeat(label[1:7, 1:5, 1:3], 2, axis=0).transpose(1, 0, 2)
    assert np.array_equal(masks, [wanted == value for value in values])
