import numpy as np
import pytest
from scipy import ndimage

from tools.phantoms.nodule_shapes import ellipsoid_mask
from tools.phantoms.nodule_textures import TEXTURE_HISTOGRAMS, paint_nodule, sample_histogram


def test_samples_follow_the_histogram_exactly() -> None:
    values = sample_histogram((1, 0, 0, 3), 400, window_hu=(0.0, 4.0))
    counts, _ = np.histogram(values, bins=4, range=(0, 4))
    assert counts.tolist() == [100, 0, 0, 300]
    assert (np.diff(values) > 0).all()


@pytest.mark.parametrize("histogram", [(0, 0), (1, -1)])
def test_impossible_histograms_are_refused(histogram: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="histogram must hold weights"):
        sample_histogram(histogram, 3)


@pytest.mark.parametrize(
    ("texture", "mean_hu"), [("ground_glass", -343), ("part_solid", -127), ("solid", 69)]
)
def test_painted_nodule_has_the_published_mean_and_histogram(texture: str, mean_hu: int) -> None:
    lesion = np.pad(ellipsoid_mask((8.0, 7.0, 6.0)), 6)
    image = np.full(lesion.shape, -850, dtype=np.int16)
    painted = paint_nodule(image, lesion, texture, seed=0)
    assert painted[lesion].mean() == pytest.approx(mean_hu, abs=15)
    counts, _ = np.histogram(painted[lesion], bins=16, range=(-1000, 400))
    published = np.array(TEXTURE_HISTOGRAMS[texture])
    # Each bin fluctuates by at most 10 % before normalisation.
    assert np.abs(counts / counts.sum() - published / published.sum()).sum() < 0.12


def test_edge_is_soft_and_the_rest_untouched() -> None:
    lesion = np.pad(ellipsoid_mask((6.0, 6.0, 6.0)), 8)
    image = np.full(lesion.shape, -850, dtype=np.int16)
    painted = paint_nodule(image, lesion, "solid")
    distance = ndimage.distance_transform_edt(~lesion)
    first = painted[(distance > 0) & (distance <= 1)]
    assert -700 < first.mean() < 0
    np.testing.assert_array_equal(painted[distance > 3], image[distance > 3])


def test_dense_neighbours_are_not_thinned() -> None:
    lesion = np.pad(ellipsoid_mask((5.0, 5.0, 5.0)), 6)
    image = np.full(lesion.shape, 700, dtype=np.int16)
    painted = paint_nodule(image, lesion, "solid")
    np.testing.assert_array_equal(painted[~lesion], image[~lesion])


def test_empty_mask_returns_a_copy() -> None:
    image = np.arange(27, dtype=np.int16).reshape(3, 3, 3)
    painted = paint_nodule(image, np.zeros((3, 3, 3), dtype=bool), "solid")
    np.testing.assert_array_equal(painted, image)
    assert painted is not image


def test_wrong_arguments_are_named() -> None:
    image = np.zeros((3, 3, 3), dtype=np.int16)
    with pytest.raises(ValueError, match="texture must be one of"):
        paint_nodule(image, image > 0, "fluffy")
    with pytest.raises(ValueError, match="shape of image"):
        paint_nodule(image, np.zeros((2, 3, 3), dtype=bool), "solid")
