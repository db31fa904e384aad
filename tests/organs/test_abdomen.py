"""Liver, pancreas and kidney: tables, and the recipe that finds a liver without weights."""

import nibabel as nib
import numpy as np
import pytest

from tools.organs import load_organ
from tools.organs.liver_recipe import liver_mask
from tools.organs.sources import find_organ
from tools.scans.scan import Scan

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
LABEL = np.zeros((12, 10, 8), np.uint8)
LABEL[2:9, 2:8, 2:6] = 1
LABEL[4:6, 4:6, 3:5] = 2


class Found:
    """A source of a mask, of two regions side by side."""

    def __init__(self) -> None:
        self.record = {"source": "recipe", "name": "found"}

    def __call__(self, scan: Scan) -> np.ndarray:
        return LABEL > 0

    def regions(self, scan: Scan) -> np.ndarray:
        return np.where(np.arange(12)[:, None, None] < 5, 1, 2) * (LABEL > 0)


@pytest.fixture
def scan() -> Scan:
    return Scan(nib.Nifti1Image(np.full(LABEL.shape, 100, np.int16), AFFINE))


@pytest.mark.parametrize("name", ["liver", "pancreas", "kidney"])
def test_lesions_lie_in_the_organ_of_a_map_or_of_a_source_and_never_in_tumours(
    name: str, scan: Scan
) -> None:
    organ = load_organ(name)
    assert (organ.parts, organ.values, organ.room) == ({name: 1}, (2,), (1,))
    given = find_organ(organ, Found(), scan, nib.Nifti1Image(LABEL, AFFINE))
    assert np.array_equal(given.labels, LABEL)
    assert np.array_equal(given.within, LABEL == 1)
    assert given.record["labels"] == {"1": name}
    found = find_organ(organ, Found(), scan, None)
    assert np.array_equal(found.labels, LABEL > 0)
    assert np.array_equal(found.within, LABEL > 0)
    assert found.record["name"] == "found"
    with pytest.raises(ValueError, match=f"organ_mask must mark the {name} as 1, got none"):
        find_organ(organ, Found(), scan, nib.Nifti1Image(LABEL * 5, AFFINE))
    assert find_organ(organ, Found(), scan, None, needed=False).inside is None


def test_a_side_of_the_kidneys_is_a_region(scan: Scan) -> None:
    kidney = load_organ("kidney")
    found = find_organ(kidney, Found(), scan, None, kidney.check_regions("left"))
    right = np.arange(12)[:, None, None] < 5
    assert np.array_equal(found.within, (LABEL > 0) & ~right)
    assert np.array_equal(found.labels, LABEL > 0)
    assert found.record["side"] == ["left"]
    sides = nib.Nifti1Image(np.where(right, 2, 3).astype(np.uint8) * (LABEL > 0), AFFINE)
    again = find_organ(kidney, Found(), scan, sides, ["right"])
    assert np.array_equal(again.within, (LABEL > 0) & right)


def abdomen() -> tuple[np.ndarray, np.ndarray]:
    """A body at 3 mm (RAS) with a liver, a tumour in it, a spleen and muscle; the liver's mask."""
    x, y, z = np.indices((100, 76, 60)) - np.array([50, 38, 30]).reshape(3, 1, 1, 1)
    scan = np.full(x.shape, -1000.0)
    scan[(x / 46) ** 2 + (y / 34) ** 2 < 1] = 58
    scan[(x / 42) ** 2 + (y / 30) ** 2 < 1] = -95
    liver = ((x - 18) / 20) ** 2 + (y / 22) ** 2 + (z / 24) ** 2 < 1
    scan[liver] = 112
    scan[((x + 24) / 12) ** 2 + ((y + 8) / 14) ** 2 + (z / 14) ** 2 < 1] = 118
    scan[((x - 18) / 5) ** 2 + (y / 5) ** 2 + (z / 5) ** 2 < 1] = 50
    scan[((x - 18) / 2) ** 2 + ((y - 8) / 2) ** 2 < 1] = 170  # a vessel, beyond the liver too
    noise = np.random.default_rng(0).normal(0, 12, scan.shape)
    return (scan + noise).round().astype(np.int16), liver


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR"])
def test_the_recipe_finds_the_liver_with_its_tumour_in_any_orientation(axes: str) -> None:
    image, liver = abdomen()
    plain, ways = nib.io_orientation(np.eye(4)), nib.orientations.axcodes2ornt(axes)
    turn = nib.orientations.ornt_transform(plain, ways)
    turned = [
        nib.Nifti1Image(part, np.diag([3.0, 3.0, 3.0, 1.0])).as_reoriented(turn)
        for part in (image, liver.astype(np.uint8))
    ]
    found = np.asarray(liver_mask(np.asarray(turned[0].dataobj), turned[0].affine))
    wanted = np.asarray(turned[1].dataobj) > 0
    dice = 2 * (found & wanted).sum() / (found.sum() + wanted.sum())
    assert dice > 0.9
    assert found[tuple(np.argwhere(wanted).mean(0).round().astype(int))]  # in the tumour


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((8, 8)), r"image_hu must have 3 dimensions, got shape \(8, 8\)"),
        (np.full((40, 40, 40), -90), "image_hu must show a liver of the portal-venous phase"),
    ],
)
def test_where_there_is_no_liver_the_recipe_says_so(image: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        liver_mask(image, AFFINE)
