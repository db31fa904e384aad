"""The phantom heart: what a short-axis stack shows, and where infarcts lie."""

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from tools.phantoms.heart_mr import HeartPhantom, heart_mr

SHAPE, SPACING = (80, 80, 6), (2.0, 2.0, 15.0)
PLANE = ndimage.generate_binary_structure(2, 1)[:, :, None]


def small(**arguments: Any) -> HeartPhantom:
    return heart_mr(SHAPE, SPACING, **arguments)


@pytest.fixture(scope="module", params=[1, 2, 3])
def struck(request: pytest.FixtureRequest) -> HeartPhantom:
    return small(seed=request.param)


def test_myocardium_is_dark_and_no_reflow_lies_between_it_and_infarct(
    struck: HeartPhantom,
) -> None:
    blood, myocardium, infarct, no_reflow = (
        float(np.median(struck.image[struck.label == value])) for value in (1, 2, 3, 4)
    )
    assert myocardium + 150 < blood
    assert myocardium < no_reflow < infarct
    # measured in patients: between myocardium and blood 0.65 to 2 times the contrast
    assert 0.65 < (infarct - myocardium) / (blood - myocardium) < 2
    assert struck.image.dtype == np.int16
    assert 0 <= struck.image.min() <= struck.image.max() <= 4095
    # in front of the chest there is no signal
    assert abs(struck.image[:8, :8].mean() - 2048) < 15


def test_ventricle_is_closed_and_tapers_to_the_apex(struck: HeartPhantom) -> None:
    cavity = struck.label == 1
    assert struck.label.any((0, 1)).all()
    assert cavity.any((0, 1)).sum() >= 5
    beside = ndimage.binary_dilation(cavity, PLANE) & ~cavity
    assert (struck.label[beside] >= 2).all()
    area = (struck.label > 0).sum((0, 1))
    assert (np.diff(area[:4]) > 0).all()
    assert area[0] < 0.6 * area.max()
    millilitres = [(struck.label == v).sum() * 0.06 for v in (1, 2)]
    assert 40 < millilitres[0] < 250
    assert 50 < millilitres[1] < 250


def test_infarct_touches_the_cavity_holds_its_core_and_lies_where_it_says(
    struck: HeartPhantom,
) -> None:
    cavity, dead, core = (np.isin(struck.label, v) for v in ((1,), (3, 4), (4,)))
    beside = ndimage.binary_dilation(cavity, PLANE) & ~cavity
    # every slice with necrosis has it at the inner layer
    assert all((dead & beside)[..., k].any() for k in np.flatnonzero(dead.any((0, 1))))
    around = ndimage.binary_dilation(core, PLANE) & ~core
    assert core.any()
    assert np.isin(struck.label[around], (0, 2)).mean() < 0.1
    assert struck.infarct is not None
    to_left, to_back = np.argwhere(dead)[:, :2].mean(0) - np.argwhere(cavity)[:, :2].mean(0)
    angle = np.rad2deg(np.arctan2(to_back, to_left))
    assert abs((angle - struck.infarct["angle_deg"] + 180) % 360 - 180) < 30


def test_lesions_are_there_as_asked_and_seeds_are_kept(struck: HeartPhantom) -> None:
    healthy, open_vessels = small(infarct=False), small(no_reflow=False)
    assert set(np.unique(healthy.label)) == {0, 1, 2}
    assert healthy.infarct is None
    assert set(np.unique(open_vessels.label)) == {0, 1, 2, 3}
    first, again = small(seed=1), small(seed=1)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    assert (small(seed=4).label != struck.label).any()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"shape must be at least \(64, 64, 3\), got \(32, 80, 6"):
        heart_mr(shape=(32, 80, 6))
    with pytest.raises(ValueError, match="spacing_mm must be three numbers > 0"):
        heart_mr(spacing_mm=(1.0, 0.0, 8.0))
