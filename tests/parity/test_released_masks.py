"""Control spheres and cleaned masks against stored results of the released DiffMask code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from tools.transforms.cleaning import smooth_mask
from tools.transforms.spheres import enclosing_sphere, sphere_mask

pytestmark = [pytest.mark.real, pytest.mark.parity]
RELEASED_ZOOM = 1.5


def stored(shared_dir: Path, name: str) -> list[dict]:
    return torch.load(shared_dir / "vectors" / name, weights_only=True)


@pytest.fixture
def cleaned(shared_dir: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Masks and what the released code made of them, by name."""
    items = stored(shared_dir, "mask_postprocess.pt")
    return {
        item["name"]: (item["mask"][0].numpy() > 0, item["out"][0].numpy() > 0) for item in items
    }


def zoomed(mask: np.ndarray) -> np.ndarray:
    """The enlargement that the release adds without saying so."""
    return ndimage.zoom(mask.astype(float), RELEASED_ZOOM, order=1) > 0.5


@pytest.mark.parametrize("name", ["r1", "r2", "r25", "r4", "two"])
def test_cleaned_mask_equals_the_released(
    cleaned: dict[str, tuple[np.ndarray, np.ndarray]], name: str
) -> None:
    mask, released = cleaned[name]
    ours = smooth_mask(mask, largest_component=True)
    assert ours.shape == mask.shape  # not enlarged
    assert np.array_equal(zoomed(ours), released)


@pytest.mark.parametrize("name", ["r8", "full"])
def test_masks_that_touch_the_edge_differ_there_only(
    cleaned: dict[str, tuple[np.ndarray, np.ndarray]], name: str
) -> None:
    """Ours takes what lies beyond the window for background, the release mirrors the mask."""
    mask, released = cleaned[name]
    ours = zoomed(smooth_mask(mask, largest_component=True))
    assert not (ours & ~released).any()
    reach = 6  # voxels of the enlarged grid
    inner = tuple(slice(reach, size - reach) for size in released.shape)
    assert np.array_equal(ours[inner], released[inner])
    assert not np.array_equal(ours, released)


def test_empty_prediction_is_an_error_where_the_release_makes_a_box(
    cleaned: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    mask, released = cleaned["empty"]
    assert released.all()
    with pytest.raises(ValueError, match="mask must hold a lesion, got an empty mask"):
        smooth_mask(mask, largest_component=True)


def test_sphere_encloses_and_is_no_larger_than_the_released(shared_dir: Path) -> None:
    missed = 0
    for item in stored(shared_dir, "spheres.pt"):
        mask = item["mask"].numpy() > 0
        if not mask.any():
            assert int(item["sphere"].sum()) == 1  # a voxel in the corner
            with pytest.raises(ValueError, match="mask must hold a lesion"):
                enclosing_sphere(mask, np.eye(4))
            continue
        sphere = enclosing_sphere(mask, np.eye(4))
        assert sphere.radius_mm <= item["radius"] + 1  # theirs is cut to whole voxels
        assert sphere_mask(sphere, np.eye(4), mask.shape)[mask].all()
        missed += int(item["lesion_voxels_outside_sphere"])
    assert missed == 13  # voxels that the released spheres leave out


def test_released_encoding_is_one_inside_and_255_outside(shared_dir: Path) -> None:
    for item in stored(shared_dir, "spheres.pt"):
        encoded = torch.where(item["sphere"] > 0, 1, 255)
        assert torch.equal(encoded, item["sphere_x2_minus_1"].long())
