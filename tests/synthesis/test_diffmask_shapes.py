"""Learned shapes in scans: exact volume, sphere at the site, boundary kept, source told."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from tools.synthesis.case_folder import describe_source
from tools.synthesis.diffmask_shapes import DiffMaskShapes
from tools.synthesis.level_set import Place
from tools.synthesis.shape_generator import ShapeGenerator
from tools.synthesis.shapes import EllipsoidShapes, LibraryShapes, ShapeSource
from tools.transforms.spheres import ShapeWindow, Sphere

SHAPE, MIDDLE = (44, 40, 30), (21.3, 19.0, 14.2)
GRIDS = {
    "1mm": np.eye(4),
    "thick": np.diag([-0.7, -0.7, 2.5, 1.0]),
    "oblique": np.array(
        [[0.8, 0.2, 0, -9], [-0.2, 0.8, 0.3, 5], [0, -0.3, 1.2, 70], [0, 0, 0, 1.0]]
    ),
}


@pytest.fixture(scope="module")
def source(shape_bundle: Path) -> DiffMaskShapes:
    return DiffMaskShapes(ShapeGenerator(str(shape_bundle), "cpu"))


def place_on(affine: np.ndarray, organ: np.ndarray | None = None) -> Place:
    x, y, z = (float(value) for value in apply_affine(affine, MIDDLE))
    return Place((x, y, z), affine, organ)


@pytest.mark.parametrize("name", GRIDS)
def test_volume_is_exact_and_the_organ_is_kept(source: DiffMaskShapes, name: str) -> None:
    affine = GRIDS[name]
    organ = np.zeros(SHAPE, bool)
    organ[:26, :, 2:20] = True
    place = place_on(affine, organ)
    shape = source.draw(8.0, np.random.default_rng(0), place)
    assert shape.source == "diffmask"
    part, box = shape.on_grid(affine, SHAPE, place.point_mm, within=organ)
    mask = np.zeros(SHAPE, bool)
    mask[box] = part
    voxel = abs(np.linalg.det(affine[:3, :3]))
    assert mask.sum() == pytest.approx(np.pi / 6 * 8**3 / voxel, abs=0.51)
    assert not mask[~organ].any()


def test_same_chance_same_shape(source: DiffMaskShapes) -> None:
    first, again, other = (source.draw(9.0, np.random.default_rng(n)) for n in (3, 3, 4))
    assert np.array_equal(first.sdf, again.sdf)
    assert first.centre == again.centre
    assert first.sdf.shape != other.sdf.shape or not np.array_equal(first.sdf, other.sdf)


@pytest.mark.parametrize("diameter_mm", [5.0, 14.0])
def test_centre_of_the_sphere_goes_to_the_site(tmp_path: Path, diameter_mm: float) -> None:
    """A lump off the centre of its sphere lies as far off the site, whatever it is scaled by."""
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"some")
    asked: list[Sphere] = []

    def sample(sphere: Sphere, affine: np.ndarray, *_: object) -> tuple[ShapeWindow, np.ndarray]:
        asked.append(sphere)
        window = ShapeWindow.around(sphere, affine)
        level = np.full(window.grid.size, -1.0, np.float32)
        level[12:20, 8:16, 8:16] = 1  # its centroid is 4 voxels along x from the centre
        return window, level

    source = DiffMaskShapes(SimpleNamespace(sample=sample, weights=weights))  # type: ignore[arg-type]
    place = place_on(np.eye(4))
    shape = source.draw(diameter_mm, np.random.default_rng(0), place)
    part, box = shape.on_grid(np.eye(4), SHAPE, place.point_mm)
    centroid = np.add(ndimage.center_of_mass(part), [b.start for b in box])
    assert asked[0].centre_mm == place.point_mm
    assert 1.0 < 2 * asked[0].radius_mm / diameter_mm < 1.9
    # the lump is a cube of 8 voxels, scaled to the volume asked for
    voxel = (np.pi / 6) ** (1 / 3) * diameter_mm / 8
    assert np.allclose(centroid - place.point_mm, (4 * voxel, 0, 0), atol=0.3)


def test_sources_are_told_apart(make_shape_bundle: Callable[[int], Path]) -> None:
    bundles = [make_shape_bundle(seed) for seed in (1, 2)]
    generators = [ShapeGenerator(str(bundle), "cpu") for bundle in bundles]
    one, two = (describe_source(DiffMaskShapes(generator)) for generator in generators)
    assert one["kind"] == "DiffMaskShapes"
    assert one["weights_sha256"] != two["weights_sha256"]
    assert one == describe_source(DiffMaskShapes(ShapeGenerator(str(bundles[0]), "cpu")))
    scored = describe_source(DiffMaskShapes(generators[0], spiculation=4.0))
    assert scored == one | {"spiculation": 4.0}
    assert not any(str(bundles[0]) in str(value) for value in scored.values())


@pytest.mark.parametrize("diameter_mm", [0.0, -3.0, float("nan"), float("inf")])
def test_sizes_that_are_none_are_refused(source: DiffMaskShapes, diameter_mm: float) -> None:
    with pytest.raises(ValueError, match="diameter_mm must be > 0, got"):
        source.draw(diameter_mm, np.random.default_rng(0))


def library() -> LibraryShapes:
    cubes = []
    for side in (6, 8, 11):
        cubes.append(np.zeros((20, 20, 20), bool))
        cubes[-1][2 : 2 + side, 3 : 3 + side, 4 : 4 + side + 2] = True
    return LibraryShapes(cubes)


@pytest.mark.parametrize("other", [EllipsoidShapes(), library()], ids=["ellipsoid", "library"])
def test_the_place_changes_nothing_for_other_sources(other: ShapeSource) -> None:
    rng, again = np.random.default_rng(8), np.random.default_rng(8)
    free = other.draw(8.0, rng)
    placed = other.draw(8.0, again, place_on(GRIDS["oblique"], np.ones(SHAPE, bool)))
    assert np.array_equal(free.sdf, placed.sdf)
    assert free.centre == placed.centre
    assert rng.bit_generator.state == again.bit_generator.state
