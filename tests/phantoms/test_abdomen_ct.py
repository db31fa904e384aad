"""The computed abdomen: organs where and as large as they are in people, the same for a seed."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.phantoms import datasets
from tools.phantoms.abdomen_ct import ORGANS, AbdomenPhantom, abdomen_ct, draw_tumours

GRID, SPACING = (88, 66, 60), 4.0
ML = SPACING**3 / 1000


@pytest.fixture(scope="module")
def phantom() -> AbdomenPhantom:
    return abdomen_ct(GRID, SPACING, 1, draw_tumours(1, "liver", 2, (16, 24)))


@pytest.mark.parametrize(
    ("organ", "ml", "hu", "side"),
    [
        ("liver", (900, 2000), (95, 125), 1),
        ("pancreas", (40, 130), (70, 110), 0),
        ("kidney", (200, 420), (130, 190), 0),
        ("spleen", (100, 350), (105, 135), -1),
    ],
)
def test_organs_have_the_size_side_and_level_of_organs(
    phantom: AbdomenPhantom, organ: str, ml: tuple, hu: tuple, side: int
) -> None:
    mask = phantom.organs == ORGANS[organ]
    assert ml[0] < mask.sum() * ML < ml[1]
    assert hu[0] < np.median(phantom.image[mask]) < hu[1]
    x = (np.argwhere(mask).mean(0) - (np.array(GRID) - 1) / 2)[0] * SPACING
    assert abs(x) < 30 if side == 0 else x * side > 30


def test_tumours_are_dark_and_in_their_organ_and_seeds_repeat(phantom: AbdomenPhantom) -> None:
    tumour = phantom.lesion_mask > 0
    assert tumour.any()
    assert (phantom.organs[tumour] == ORGANS["liver"]).all()
    liver = (phantom.organs == ORGANS["liver"]) & ~tumour
    assert phantom.image[tumour].mean() < phantom.image[liver].mean() - 20
    healthy, again = abdomen_ct(GRID, SPACING, 1), abdomen_ct(GRID, SPACING, 1)
    assert np.array_equal(healthy.image, again.image)
    assert np.array_equal(healthy.organs, phantom.organs)
    assert not healthy.lesion_mask.any()


def test_datasets_hold_label_maps_and_healthy_abdomens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "ABDOMEN_GRID", ((59, 44, 40), 6.0))
    datasets.write_tumour_dataset(tmp_path, "kidney", sections={"training": 1, "normal": 1})
    for section, values in (("training", {0, 1, 2}), ("normal", {0, 1})):
        (entry,) = datasets.tumour_datalist(tmp_path, section)
        image, label = nib.load(entry["image"]), nib.load(entry["label"])
        assert set(np.unique(np.asarray(label.dataobj)).tolist()) == values
        assert image.header["descrip"].item() == b"phantom"
    with pytest.raises(ValueError, match=r"organ must be one of liver, .* got 'heart'"):
        datasets.write_abdomen_phantom(tmp_path, "heart", spacing_mm=16)
    with pytest.raises(ValueError, match="sections must have at least one abdomen each"):
        datasets.write_tumour_dataset(tmp_path, sections={})
