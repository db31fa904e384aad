"""What a datalist says of a heart, by hand."""

import numpy as np
import pytest

from tools.transforms.heart_region import measure_heart


def test_box_and_volumes_on_an_oblique_grid() -> None:
    # axes swapped and turned: i runs to the front, j to the patient's left
    affine = np.array([[0, -1.5, 0, 7], [2, 0, 0, -4], [0, 0, 8, 1], [0, 0, 0, 1.0]])
    label = np.zeros((10, 12, 4), np.uint8)
    label[2:7, 3:5, 1:3] = 2
    label[3, 3, 1] = 4
    heart = measure_heart(label, affine)
    # the middle is at voxel (4, 3.5, 1.5)
    assert heart["heart_mm"] == [7 - 1.5 * 3.5, 2 * 4 - 4, 8 * 1.5 + 1]
    assert heart["heart_extent_mm"] == [10.0, 3.0]
    assert heart["heart_extent_voxels"] == [5, 2]
    assert heart["volumes_ml"] == {
        "cavity": 0.0,
        "myocardium": pytest.approx(19 * 0.024),
        "infarct": 0.0,
        "no_reflow": 0.024,
    }
    assert heart["pathological"]
    assert heart["has_no_reflow"]
    assert heart["spacing_mm"] == [2.0, 1.5, 8.0]


def test_empty_label_is_refused() -> None:
    with pytest.raises(ValueError, match="label must mark a heart, got 0 only"):
        measure_heart(np.zeros((4, 4, 4), np.uint8), np.eye(4))
