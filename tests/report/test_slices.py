"""Slices lie the radiological way round, in mm, and pictures say what the arrays say."""

import base64
import io
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt

from tools.report.slices import (
    AXIAL,
    CORONAL,
    PLANES,
    SAGITTAL,
    OrientedVolume,
    Plane,
    changed_outside,
    difference_uri,
    grey_uri,
    lesion_focus,
    lesion_views,
    outline_path,
    patch_uri,
    to_grey,
)

LPS_1MM = np.diag([-1.0, -1.0, 1.0, 1.0])


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def volume(array: np.ndarray, affine: np.ndarray) -> OrientedVolume:
    return OrientedVolume(nib.Nifti1Image(array, affine))


@pytest.mark.parametrize(
    ("plane", "expected"), [(AXIAL, (1, 2)), (CORONAL, (1, 1)), (SAGITTAL, (2, 1))]
)
@pytest.mark.parametrize("axes", ["LPS", "RAS", "SLA"])
def test_right_anterior_superior_are_left_left_top(
    plane: Plane, expected: tuple[int, int], axes: str
) -> None:
    """One voxel, 2nd from the right end, 3rd from the front, 2nd from the top of an 8-cube."""
    ras = np.zeros((8, 8, 8), np.int16)
    ras[6, 5, 6] = 100
    codes = [nib.orientations.axcodes2ornt(names) for names in ("RAS", axes)]
    turn = nib.orientations.ornt_transform(*codes)
    turned = OrientedVolume(nib.Nifti1Image(ras, np.eye(4)).as_reoriented(turn))
    middle = np.where(np.arange(3) == plane.axis, [6, 5, 6], 3.5)
    picture = turned.sample(plane, middle, (8.0, 8.0), (8, 8), order=1)
    row, column = np.argwhere(picture == 100)[0]
    assert (column, row) == expected
    assert np.count_nonzero(picture) == 1


def test_pixels_are_square_whatever_the_spacing() -> None:
    array = np.zeros((40, 20, 8), np.float32)
    array[16:24, 8:12, 3:5] = 1  # 8 x 8 x 10 mm
    anisotropic = volume(array, np.diag([1.0, 2.0, 5.0, 1.0]))
    centre = np.array([19.5, 9.5, 3.5])
    for plane, (wide, high) in zip(PLANES, [(8, 8), (8, 10), (8, 10)], strict=True):
        picture = anisotropic.sample(plane, centre, (40.0, 40.0), (80, 80), order=0)
        rows, columns = np.nonzero(picture)
        assert (np.ptp(columns) + 1) / 2 == wide
        assert (np.ptp(rows) + 1) / 2 == high


def test_outside_the_scan_is_filled() -> None:
    scan = volume(np.ones((4, 4, 4), np.int16), LPS_1MM)
    picture = scan.sample(AXIAL, np.full(3, 1.5), (8.0, 8.0), (8, 8), fill=-5.0)
    assert np.all(picture[2:6, 2:6] == pytest.approx(1.0))
    assert np.count_nonzero(picture == -5.0) == 64 - 16


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_stored_scaling_is_applied(tmp_path: Path, suffix: str) -> None:
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), LPS_1MM)
    image.header.set_slope_inter(2.0, -10.0)
    path = tmp_path / f"scan.{suffix}"
    nib.save(image, path)
    expected = nib.as_closest_canonical(nib.load(path)).get_fdata()
    found = OrientedVolume(path).box((slice(None),) * 3)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_four_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be three-dimensional, got shape \(2, 2, 2, 2"):
        volume(np.zeros((2, 2, 2, 2), np.int16), LPS_1MM)


def test_focus_takes_the_largest_slice_of_the_nearest_component() -> None:
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[5:10, 5:10, 5:8] = 1
    labels[6:8, 6:8, 8:12] = 1  # a stalk, thinner than the body below it
    labels[20:29, 20:29, 20:29] = 1
    labels[1, 1, 1] = 2
    found = lesion_focus(volume(labels, np.eye(4)), 1, (7.0, 7.0, 9.0), 30.0)
    assert found.tolist() == [7.0, 7.0, 7.0]
    empty = lesion_focus(volume(labels, np.eye(4)), 3, (7.0, 7.0, 9.0), 30.0)
    assert empty.tolist() == [7.0, 7.0, 9.0]


def test_thick_slices_show_the_lesion_itself_and_not_its_neighbours() -> None:
    array = np.zeros((30, 30, 12), np.uint8)
    array[4:8, 4:8, 1:4] = 1
    array[20:24, 20:24, 8:11] = 1
    labels = volume(array, np.diag([1.0, 1.0, 5.0, 1.0]))
    for first, middle in ((1, 5.5), (8, 21.5)):
        focus = np.array([middle, middle, first + 1.0])
        field_mm, views = lesion_views(labels, 1, focus, 20.0, shared=True)
        assert [place[2] for _, place in views] == [first, first + 1, first + 2]
        assert all(np.allclose(place[:2], middle) for _, place in views)
        assert field_mm == 20.0
    _, views = lesion_views(labels, 1, focus, 20.0)  # one lesion in pieces: all of them
    assert [place[2] for _, place in views] == [1, 9, 10]


def test_changes_count_outside_labels_from_the_margin_on() -> None:
    """Distances are those between middles of voxels, in mm, whatever the axes."""
    affine = np.array([[0, 0, 0.9, 5], [-0.5, 0, 0, 2], [0, 2.0, 0, -3], [0, 0, 0, 1.0]])
    labels = np.zeros((12, 10, 14), np.uint8)
    labels[5, 4, 6:8] = 1
    before = np.zeros(labels.shape, np.float32)
    before[0, 0, 0] = np.nan

    def changed(after: np.ndarray, labels: np.ndarray, margin: float) -> int:
        return changed_outside(*[volume(a, affine) for a in (before, after, labels)], margin)

    away = distance_transform_edt(labels == 0, sampling=(0.5, 2.0, 0.9))
    for margin in (0.0, 1.0, 2.0, 3.0):
        # nothing was a number there, and is none now
        expected = int((away >= margin).sum()) - 2 * (margin == 0) - 1
        assert changed(before + 1, labels, margin) == expected
    assert changed(np.where(away >= 2.0, before, 1), labels, 2.0) == 0
    assert changed(before + 1, 0 * labels, 3.0) == before.size - 1


def test_grey_maps_the_window() -> None:
    values = np.array([-2000.0, -1000.0, -300.0, 400.0, 900.0, np.nan])
    assert to_grey(values, (-1000.0, 400.0)).tolist() == [0, 0, 128, 255, 255, 0]


def test_patch_over_before_is_after() -> None:
    rng = np.random.default_rng(0)
    before = rng.integers(0, 255, (32, 32), dtype=np.uint8)
    after = before.copy()
    after[10:15, 12:20] += 1
    base, patch = decoded(grey_uri(before)).convert("RGBA"), decoded(patch_uri(before, after))
    shown = Image.alpha_composite(base, patch.convert("RGBA")).convert("L")
    np.testing.assert_array_equal(np.asarray(shown), after)
    assert np.asarray(patch)[..., 1].astype(bool).sum() == 7 * 10  # one pixel of margin


def test_difference_is_dark_at_zero_and_warm_above() -> None:
    picture = difference_uri(np.array([[-100.0, 0.0, 50.0, 500.0]]), 100.0)
    blue_end, zero, warm, orange_end = np.asarray(decoded(picture).convert("RGB")).astype(int)[0]
    assert zero.max() < 16
    assert blue_end[2] > blue_end[0]
    assert warm[0] > warm[2]
    assert orange_end[0] > orange_end[2]


def test_outline_runs_along_pixel_edges() -> None:
    mask = np.zeros((40, 40))
    mask[8:28, 12:36] = 1
    numbers = [float(text) for text in re.findall(r"[\d.]+", outline_path(mask))]
    assert (min(numbers[0::2]), max(numbers[0::2])) == (12.0, 36.0)
    assert (min(numbers[1::2]), max(numbers[1::2])) == (8.0, 28.0)
    assert outline_path(np.zeros((8, 8))) == ""


def test_sharp_edges_get_no_halo() -> None:
    array = np.full((16, 16, 16), -900, np.int16)
    array[6:10, 6:10, 6:10] = 50
    picture = volume(array, LPS_1MM).sample(AXIAL, np.full(3, 7.5), (12.0, 12.0), (90, 90))
    assert picture.min() == -900
    assert picture.max() == 50
