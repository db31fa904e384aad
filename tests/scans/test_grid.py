"""Masks of other grids, of soft values, of elsewhere."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.scans.grid import on_grid, whole_numbers
from tools.scans.scan import Scan

SCAN = np.array([[-0.8, 0, 0, 30], [0, 0.8, 0, -20], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])
SHAPE = (20, 24, 8)
CENTRE = SCAN @ [9, 11, 4, 1]


def ball(shape: tuple[int, ...], affine: np.ndarray, radius: float = 5.0) -> np.ndarray:
    points = np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    inside = np.linalg.norm(points - CENTRE[:3], axis=1) < radius
    return inside.reshape(shape).astype(np.uint8)


def grid(*columns: list[float], origin: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns).T
    affine[:3, 3] = origin
    return affine


GRIDS = {
    "finer": ((40, 48, 40), SCAN @ np.diag([0.5, 0.5, 0.2, 1])),
    "1 mm, larger": ((60, 60, 40), grid([1, 0, 0], [0, 1, 0], [0, 0, 1], origin=(-10, -40, 0))),
    "axes swapped": ((40, 60, 60), grid([0, 0, 1], [0, 1, 0], [1, 0, 0], origin=(-10, -40, 0))),
    "part of it": ((14, 16, 6), SCAN @ grid([1, 0, 0], [0, 1, 0], [0, 0, 1], origin=(3, 4, 1))),
    "turned": (
        (60, 60, 40),
        grid([0.98, 0.199, 0], [-0.199, 0.98, 0], [0, 0, 1], origin=(-5, -45, 0)),
    ),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_mask_of_another_grid_is_resampled(name: str, caplog: pytest.LogCaptureFixture) -> None:
    shape, affine = GRIDS[name]
    scan = Scan(nib.Nifti1Image(np.zeros(SHAPE, np.int16), SCAN))
    found = scan.on_grid(nib.Nifti1Image(ball(shape, affine), affine), "organ_mask")
    wanted = ball(SHAPE, SCAN) > 0
    overlap = 2 * (found & wanted).sum() / (found.sum() + wanted.sum())
    assert overlap > 0.9
    assert scan.notes[0].startswith("organ_mask was resampled from a grid of")
    assert scan.notes[0] in caplog.text


@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flip", [1, -1])
def test_turned_axes_are_the_same_grid(turn: tuple[int, int, int], flip: int) -> None:
    mask = ball(SHAPE, SCAN)
    turned, affine = np.transpose(mask, turn)[::flip], SCAN[:, [*turn, 3]].copy()
    if flip < 0:
        affine[:, 3] += affine[:, 0] * (turned.shape[0] - 1)
        affine[:, 0] *= -1
    found, note = on_grid(turned, affine, SHAPE, SCAN, "mask")
    assert np.array_equal(found, mask)
    assert note == ""


def test_what_lies_elsewhere_is_refused() -> None:
    moved = SCAN.copy()
    moved[:3, 3] += 200
    with pytest.raises(ValueError, match="mask must lie in the scan, got one of 20 x 24 x 8"):
        on_grid(ball(SHAPE, SCAN), moved, SHAPE, SCAN, "mask")
    nothing, note = on_grid(ball(SHAPE, SCAN) * 0, moved, SHAPE, SCAN, "mask")
    assert not nothing.any()
    assert note


def test_a_mask_says_where_it_lies(tmp_path: Path) -> None:
    for name, values in (("mask", ball(SHAPE, SCAN)), ("scan", np.zeros(SHAPE, np.int16))):
        nib.save(nib.Nifti1Image(values, None), tmp_path / f"{name}.nii")
    scan = Scan(nib.Nifti1Image(np.zeros(SHAPE, np.int16), SCAN))
    with pytest.raises(ValueError, match="organ_mask must say where it lies"):
        scan.load_mask(tmp_path / "mask.nii", "organ_mask")
    plain = Scan(tmp_path / "scan.nii")
    assert plain.load_mask(tmp_path / "mask.nii", "organ_mask").any()


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0, 255, 3], [0, 255, 3]),
        ([1e-6, 0.9999999998, 2.0004], [0, 1, 2]),
        ([0.0, 0.3, 0.7], [0, 0, 1]),
        ([np.nan, 1.0, 0.0], [0, 1, 0]),
        ([True, False, True], [1, 0, 1]),
        ([-1, 0, 300], [-1, 0, 300]),
    ],
)
def test_labels_are_whole_numbers(values: list, wanted: list[int]) -> None:
    assert whole_numbers(np.array(values), "label").astype(int).tolist() == wanted


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([0.0, 1.5, 7.25], "label must hold whole numbers, or shares from 0 to 1, got 1.5, 7.25"),
        ([-0.5, 0.5, 1.0], "label must hold whole numbers"),
        ([0, 70000], "label must hold whole numbers of 16 bits, got 0 to 70000"),
        ([0.0, np.inf], "label must hold whole numbers of 16 bits"),
    ],
)
def test_values_that_are_no_labels(values: list, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        whole_numbers(np.array(values), "label")
