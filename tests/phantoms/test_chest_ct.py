"""The phantom chest: lungs that are found, tissues where a reader looks for them, nodules."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from tools.organs.lung_recipe import lung_mask
from tools.phantoms.chest_ct import NODULE_TEXTURES, ChestPhantom, chest_ct, draw_nodules

COARSE = ((96, 80, 72), 4.0)


@pytest.fixture(scope="module")
def chest() -> ChestPhantom:
    return chest_ct(*COARSE, seed=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lungs_are_two_of_adult_size_as_dense_as_lungs_and_found(seed: int) -> None:
    chest = chest_ct(*COARSE, seed=seed)
    labels, _ = ndimage.label(chest.lung_mask)
    volumes = np.sort(np.bincount(labels.ravel())[1:])[::-1] * 0.064
    assert 1500 < volumes[1] <= volumes[0] < 4000  # ml
    assert volumes[2:].sum() < 20
    assert -880 < np.median(chest.image[chest.lung_mask > 0]) < -800
    found = np.asarray(lung_mask(chest.image, chest.affine))
    both = (found & (chest.lung_mask > 0)).sum()
    assert 2 * both / (found.sum() + chest.lung_mask.sum()) > 0.95


def test_tissues_lie_where_a_reader_looks_for_them(chest: ChestPhantom) -> None:
    # the larger index along the first axis is the patient's right (RAS)
    assert (chest.image > 0)[58:70, 40:50, 14].mean() > 0.85  # liver, z = -86 mm
    beside = chest.lung_mask[:, :, 24]  # z = -46 mm: the heart lies on the left
    assert beside[:48].sum() < beside[48:].sum()
    assert -1024 <= chest.image[:6, :6, 30:40].mean() < -985
    assert (chest.image > 300).sum() * 0.064 > 150  # ml of bone
    trachea = np.s_[46:51, 33:39, 56:60]  # z = 82 mm
    assert chest.image[trachea].min() < -850
    assert not chest.lung_mask[trachea].any()
    lung = chest.lung_mask > 0
    assert 0.01 < (chest.image[lung] > -500).mean() < 0.15  # vessels and walls of airways
    parenchyma = lung & (chest.image < -700)
    back, front = chest.image[:, :28][parenchyma[:, :28]], chest.image[:, 52:][parenchyma[:, 52:]]
    assert back.mean() > front.mean() + 15


def test_same_seed_same_voxels_other_seed_other_anatomy(chest: ChestPhantom) -> None:
    again, other = chest_ct(*COARSE, seed=0), chest_ct(*COARSE, seed=1)
    np.testing.assert_array_equal(again.image, chest.image)
    assert (other.lung_mask != chest.lung_mask).sum() > 1000
    # the centre of the grid is the origin of the body
    np.testing.assert_allclose(chest.affine @ [47.5, 39.5, 35.5, 1], [0, 0, 0, 1], atol=1e-9)


def test_other_grid_shows_the_same_body(chest: ChestPhantom) -> None:
    part = chest_ct((20, 20, 20), 4.0, seed=0, centre_mm=(60.0, 0.0, 0.0))
    # voxel 0 of the part is at 60 - 4 * 9.5 = 22 mm = voxel 53 of the whole
    where = np.s_[53:73, 30:50, 26:46]
    np.testing.assert_array_equal(part.lung_mask, chest.lung_mask[where])
    assert np.corrcoef(part.image.ravel(), chest.image[where].ravel())[0, 1] > 0.9


def test_bad_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="shape must be"):
        chest_ct((4, 20, 20))
    with pytest.raises(ValueError, match="spacing_mm must be > 0"):
        chest_ct((20, 20, 20), 0.0)


def test_nodules_lie_in_the_lungs_apart_and_differ_in_density() -> None:
    nodules = draw_nodules(0, 3, (9.0, 15.0))
    assert [nodule.texture for nodule in nodules] == list(NODULE_TEXTURES)
    for one, two in itertools.combinations(nodules, 2):
        gap = np.linalg.norm(np.subtract(one.site_mm, two.site_mm))
        assert gap > (one.diameter_mm + two.diameter_mm) / 2
    means = []
    for nodule in nodules:
        grid = ((20, 20, 20), 1.3, 0, nodule.site_mm)
        lung, sick = chest_ct(*grid), chest_ct(*grid, [nodule])
        mine = sick.lesion_mask > 0
        assert ndimage.label(mine)[1] == 1
        assert mine[10, 10, 10]
        assert lung.lung_mask[mine].mean() > 0.9
        assert not lung.lesion_mask.any()
        diameter = 2 * (mine.sum() * 1.3**3 * 3 / 4 / np.pi) ** (1 / 3)
        assert 0.55 * nodule.diameter_mm < diameter < 1.05 * nodule.diameter_mm
        means.append(sick.image[mine].mean())
    assert means[0] + 100 < means[1]
    assert means[1] + 40 < means[2]


def test_no_room_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"nodule 1 of 1, 200 mm wide or more, found"):
        draw_nodules(0, 1, (200.0, 210.0))
