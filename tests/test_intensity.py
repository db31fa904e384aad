"""Scales: there and back, robust against single voxels, and the tissue of a scan."""

import numpy as np
import pytest
import torch

from tools.intensity import HuWindow, Percentiles, scaled_window, tissue_levels


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_scaling_clips_and_is_undone_within_the_window(kind: type) -> None:
    scale = HuWindow(-1000, 400)
    values = kind(np.array([-1024.0, -1000, -300, 400, 3000]))
    assert scale.scaled(values).tolist() == [-1, -1, 0, 1, 1]
    assert np.allclose(scale.unscaled(scale.scaled(values[1:4])), values[1:4])
    assert scale.of(values) is scale


def test_one_bright_voxel_and_voxels_without_signal_do_not_count() -> None:
    image = np.random.default_rng(0).random((12, 12, 12))
    bright = image.copy()
    bright[3, 4, 5] = 1e4
    assert np.allclose(Percentiles().of(image), Percentiles().of(bright), atol=0.01)
    assert Percentiles((0, 100)).of(bright).high == 1e4
    half_empty = np.concatenate([np.zeros(900), np.linspace(100, 200, 100)])
    assert Percentiles((0, 100), empty_value=0.0).of(half_empty) == (100, 200)
    assert Percentiles((0, 100)).of(half_empty) == (0, 200)
    flat = Percentiles().of(np.full(4, 7.0))
    assert flat.low < flat.high


def test_bad_scales_are_named() -> None:
    for percentiles in [(99, 1), (5, 5), (-1, 50), (0, 101)]:
        with pytest.raises(ValueError, match=r"percentiles must be two numbers in order in 0\.\."):
            Percentiles(percentiles)
    with pytest.raises(ValueError, match=r"image must hold a signal, got 0\.0 only"):
        Percentiles(empty_value=0.0).of(np.zeros(4))
    with pytest.raises(ValueError, match="window_hu and intensity_range must be two numbers"):
        scaled_window([400, -1000])


def test_levels_are_medians_that_a_few_voxels_do_not_move() -> None:
    label = np.tile([0, 1, 1, 1, 2, 2, 3, 4], (1, 4, 4, 1))
    image = np.select([label == 1, label == 2], [0.5, -0.3], 0.0)
    image[0, 0, 0] = 99
    assert tissue_levels(image, label) == pytest.approx((-0.3, 0.5))
    assert tissue_levels(image, label, wall=(3, 4)) == pytest.approx((0, 0.5))
    with pytest.raises(ValueError, match=r"wall must be labels .* \[0, 1, 2, 3, 4\], got \[7\]"):
        tissue_levels(image, label, wall=[7])
    with pytest.raises(ValueError, match="cavity must be labels that the label map holds"):
        tissue_levels(image, label.clip(min=2))
    with pytest.raises(ValueError, match="label must have the shape of image"):
        tissue_levels(image, label[:, :2])
