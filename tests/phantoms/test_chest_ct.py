from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from tools.phantoms.chest_ct import ChestPhantom, chest_ct
from tools.phantoms.ct_noise import ct_noise
from tools.phantoms.nodule_insertion import add_nodules

COARSE = ((96, 80, 72), 4.0)


@pytest.fixture(scope="module")
def chest() -> ChestPhantom:
    return chest_ct(*COARSE, seed=0)


def test_types_and_geometry(chest: ChestPhantom) -> None:
    assert chest.image.dtype == np.int16
    assert chest.lung_mask.dtype == chest.vessel_mask.dtype == np.uint8
    # The centre of the grid is the origin of the body.
    centre = chest.affine @ [47.5, 39.5, 35.5, 1]
    np.testing.assert_allclose(centre, [0, 0, 0, 1], atol=1e-9)


def test_lungs_are_two_of_adult_size_and_as_dense_as_lungs(chest: ChestPhantom) -> None:
    labels, count = ndimage.label(chest.lung_mask)
    volumes = np.sort(np.bincount(labels.ravel())[1:])[::-1] * 0.064
    assert count >= 2
    assert 1500 < volumes[1] <= volumes[0] < 4000  # ml
    assert volumes[2:].sum() < 20
    assert -880 < np.median(chest.image[chest.lung_mask > 0]) < -800


def test_right_side_has_the_liver_and_left_side_the_heart(chest: ChestPhantom) -> None:
    """The larger index along the first axis is the patient's right (RAS)."""
    soft = chest.image > 0
    below = soft[:, :, 14]  # z = -86 mm, under the domes
    assert below[58:70, 40:50].mean() > 0.85
    beside = chest.lung_mask[:, :, 24]  # z = -46 mm
    assert beside[:48].sum() < beside[48:].sum()


def test_back_of_the_lung_is_denser_than_the_front(chest: ChestPhantom) -> None:
    parenchyma = (chest.lung_mask > 0) & (chest.image < -700)
    back, front = parenchyma.copy(), parenchyma.copy()
    back[:, 28:], front[:, :52] = False, False
    assert chest.image[back].mean() > chest.image[front].mean() + 15


def test_tissues_that_a_reader_looks_for_are_there(chest: ChestPhantom) -> None:
    corner = chest.image[:6, :6, 30:40]
    assert -1024 <= corner.mean() < -985
    assert (chest.image > 300).sum() * 0.064 > 150  # ml of bone
    trachea = chest.image[46:51, 33:39, 56:60]  # z = 82 mm
    assert trachea.min() < -850
    assert not chest.lung_mask[46:51, 33:39, 56:60].any()


def test_same_seed_same_voxels_other_seed_other_anatomy(chest: ChestPhantom) -> None:
    again, other = chest_ct(*COARSE, seed=0), chest_ct(*COARSE, seed=1)
    np.testing.assert_array_equal(again.image, chest.image)
    assert (other.lung_mask != chest.lung_mask).sum() > 1000


def test_other_grid_shows_the_same_body(chest: ChestPhantom) -> None:
    part = chest_ct((20, 20, 20), 4.0, seed=0, centre_mm=(60.0, 0.0, 0.0))
    # Voxel 0 of the part is at 60 - 4 * 9.5 = 22 mm = voxel 53 of the whole.
    where = np.s_[53:73, 30:50, 26:46]
    np.testing.assert_array_equal(part.lung_mask, chest.lung_mask[where])
    np.testing.assert_array_equal(part.vessel_mask, chest.vessel_mask[where])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (4, 20, 20)}, "shape must be"),
        ({"shape": (20, 20, 20), "spacing_mm": 0.0}, "spacing_mm must be > 0"),
    ],
)
def test_bad_grids_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chest_ct(**arguments)


def test_noise_has_unit_variance_and_little_power_at_low_frequencies() -> None:
    field = ct_noise((64, 64, 16), (0.7, 0.7, 1.0), np.random.default_rng(0))
    assert field.std() == pytest.approx(1, abs=1e-4)
    power = np.abs(np.fft.fft2(field, axes=(0, 1))).mean(axis=2) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(64, 0.7), np.fft.fftfreq(64, 0.7)))
    low, middle, high = (
        power[(radius > a) & (radius < b)].mean()
        for a, b in [(0.0, 0.06), (0.2, 0.35), (0.65, 0.72)]
    )
    assert middle > 3 * low
    assert middle > 1.5 * high


def test_nodules_lie_in_the_lungs_and_leave_the_rest_alone() -> None:
    lung = chest_ct((64, 64, 64), 1.5, seed=0, centre_mm=(75.0, -10.0, 5.0))
    sick, records = add_nodules(lung, 2, seed=3, diameter_mm=(8.0, 14.0))
    lesion = sick.lesion_mask > 0
    assert ndimage.label(lesion)[1] == len(records) == 2
    assert lung.lung_mask[lesion].mean() > 0.95
    assert not lung.lesion_mask.any()
    far = ndimage.distance_transform_edt(~lesion, sampling=1.5) > 5
    np.testing.assert_array_equal(sick.image[far], lung.image[far])
    index = np.linalg.solve(lung.affine, [*records[0]["site_mm"], 1])[:3].round().astype(int)
    assert ndimage.binary_dilation(lesion, iterations=2)[tuple(index)]


def test_no_nodules_return_the_same_scan(chest: ChestPhantom) -> None:
    same, records = add_nodules(chest, 0)
    assert records == []
    np.testing.assert_array_equal(same.image, chest.image)
    assert not same.lesion_mask.any()


def test_no_room_is_an_error(chest: ChestPhantom) -> None:
    full = chest._replace(lung_mask=np.zeros_like(chest.lung_mask))
    with pytest.raises(RuntimeError, match="nodule 1 of 1"):
        add_nodules(full, 1)
