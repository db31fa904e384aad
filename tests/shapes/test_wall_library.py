"""Moving infarcts between hearts: angle, depth, height and share stay, to itself exactly."""

import numpy as np
import pytest

from tests.shapes.walls import AFFINE, phantom, ring
from tools.shapes import Place
from tools.shapes.wall_library import WallLesion, move_lesion


def infarct(heart: Place, angle: np.ndarray, depth: np.ndarray, centre: float) -> np.ndarray:
    """The inner two thirds of the wall, 90 degrees of it, lower half; no-reflow in its middle."""
    away = np.abs(np.angle(np.exp(1j * (angle - centre))))
    label = np.where(heart.organ_mask & (away < np.pi / 4) & (depth < 0.67), 3, 0).astype(np.uint8)
    label[heart.organ_mask & (away < np.pi / 8) & (depth < 0.4)] = 4
    label[..., label.shape[2] // 2 :] = 0
    return label


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
    heart, angle, depth = ring()
    lesion = WallLesion.measure(heart, infarct(heart, angle, depth, centre), "ring")
    assert abs(np.angle(np.exp(1j * (lesion.angle - centre)))) < 0.05
    other, angles, depths = ring((72, 70, 10), outer_mm=34.0, inner_mm=17.0)
    wanted = infarct(other, angles, depths, centre)
    moved = move_lesion(lesion, other)
    assert dice(moved > 0, wanted > 0) > 0.93
    assert dice(moved == 4, wanted == 4) > 0.85
    assert not moved[~other.organ_mask].any()


def test_a_turn_turns() -> None:
    heart, angle, depth = ring()
    lesion = WallLesion.measure(heart, infarct(heart, angle, depth, 0.4), "ring")
    moved = move_lesion(lesion, heart, turn=1.2)
    assert dice(moved > 0, infarct(heart, angle, depth, 1.6) > 0) > 0.93
    assert dice(moved > 0, infarct(heart, angle, depth, -0.8) > 0) < 0.1


def test_apex_goes_to_apex_when_slices_run_the_other_way() -> None:
    heart, angle, depth = ring()
    label = infarct(heart, angle, depth, 0.4)
    lesion = WallLesion.measure(heart, label, "ring")
    down = np.diag([1.0, 1.0, -1.0, 1.0])
    upside_down = heart._replace(
        affine=AFFINE @ down, organ_mask=heart.organ_mask[..., ::-1], cavity=heart.cavity[..., ::-1]
    )
    assert np.array_equal(move_lesion(lesion, upside_down), label[..., ::-1])


def test_empty_slices_round_the_heart_do_not_matter() -> None:
    heart, angle, depth = ring()
    label = infarct(heart, angle, depth, 0.4)
    pad = ((0, 0), (0, 0), (2, 1))
    wider = heart._replace(
        organ_mask=np.pad(heart.organ_mask, pad), cavity=np.pad(heart.cavity, pad)
    )
    moved = move_lesion(WallLesion.measure(heart, label, "ring"), wider)
    # the middles of the end slices have no neighbour to be smoothed with: all but the same
    assert dice(moved > 0, np.pad(label, pad) > 0) > 0.98
    assert not moved[..., [0, 1, -1]].any()


def test_a_share_of_no_reflow_is_met_where_it_is_surest() -> None:
    heart, angle, depth = ring()
    label = infarct(heart, angle, depth, 0.4)
    lesion = WallLesion.measure(heart, label, "ring")
    own = move_lesion(lesion, heart)
    assert np.array_equal(move_lesion(lesion, heart._replace(inner_share=(0.0, 1.0))), own)
    less, more = (move_lesion(lesion, heart._replace(inner_share=(s, s))) for s in (0.1, 0.6))
    assert not ((less == 4) & (own != 4)).any()
    assert not ((own == 4) & (more != 4)).any()
    for moved, share in ((less, 0.1), (more, 0.6)):
        assert np.array_equal(moved > 0, own > 0)
        assert int((moved == 4).sum()) == round(share * int((own > 0).sum()))
    none = WallLesion.measure(heart, np.where(label > 0, 3, 0), "ring")
    core = move_lesion(none, heart._replace(inner_share=(0.2, 0.3)))
    away = np.abs(np.angle(np.exp(1j * (angle - 0.4))))
    assert (core == 4).sum() == round(0.2 * (label > 0).sum())
    assert away[core == 4].mean() < 0.6 * away[core == 3].mean()


def test_what_is_no_lesion_in_the_wall_is_an_error() -> None:
    heart, angle, depth = ring()
    label = infarct(heart, angle, depth, 0.4)
    with pytest.raises(ValueError, match=r"label must hold one of \(3, 4\) in the wall, got none"):
        WallLesion.measure(heart, np.where(heart.cavity, 3, 0), "outside")
    outside = np.where(heart.cavity, 3, label)
    moved = move_lesion(WallLesion.measure(heart, outside, "partly"), heart)
    assert np.array_equal(moved, label)
    empty = heart._replace(organ_mask=heart.organ_mask & False)
    with pytest.raises(ValueError, match="wall must hold voxels"):
        WallLesion.measure(empty, label, "no wall")
