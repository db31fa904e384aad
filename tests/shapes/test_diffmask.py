"""Learned shapes: within sphere and organ on any grid, exact volume, never empty, source told."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine
from scipy import ndimage
from torch import Tensor

from tools.shapes import DiffMaskShapes, Place, ShapeGenerator
from tools.shapes.diffmask import MAX_ATTEMPTS
from tools.synthesis.case_folder import describe_source
from tools.transforms.spheres import ShapeWindow, Sphere, attribute_condition, sphere_mask

SHAPE, UNIT = (44, 40, 30), np.eye(4)
THICK = np.diag([1.0, 1.0, 7.0, 1.0])
GRIDS = {
    "1mm": UNIT,
    "thick": np.diag([-0.7, -0.7, 2.5, 1.0]),
    "oblique": np.array(
        [[0.8, 0.2, 0, -9], [-0.2, 0.8, 0.3, 5], [0, -0.3, 1.2, 70], [0, 0, 0, 1.0]]
    ),
}
ON_GRIDS = pytest.mark.parametrize("affine", GRIDS.values(), ids=list(GRIDS))


@pytest.fixture(scope="module")
def generator(shape_bundle: Path) -> ShapeGenerator:
    return ShapeGenerator(str(shape_bundle), "cpu")


def place_on(affine: np.ndarray, organ: np.ndarray | None = None) -> Place:
    return Place(tuple(apply_affine(affine, (21.3, 19.0, 14.2)).tolist()), affine, organ)


def sphere_on(affine: np.ndarray) -> Sphere:
    return Sphere(place_on(affine).point_mm, 7.0)


@ON_GRIDS
def test_volume_is_exact_and_the_organ_is_kept(
    generator: ShapeGenerator, affine: np.ndarray
) -> None:
    organ = np.zeros(SHAPE, bool)
    organ[:26, :, 2:20] = True
    place = place_on(affine, organ)
    shape = DiffMaskShapes(generator).draw(8.0, np.random.default_rng(0), place)
    assert shape.source == "diffmask"
    (mask,), box = shape.masks(affine, SHAPE, place.point_mm, within=organ)
    voxel = abs(np.linalg.det(affine[:3, :3]))
    assert mask.sum() == pytest.approx(np.pi / 6 * 8**3 / voxel, abs=0.51)
    assert not (mask & ~organ[box]).any()


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

    model = SimpleNamespace(sample=sample, weights=weights, sphere_ratio=(1.38, 0.1))
    place = place_on(UNIT)
    shape = DiffMaskShapes(model).draw(diameter_mm, np.random.default_rng(0), place)
    (part,), box = shape.masks(UNIT, SHAPE, place.point_mm)
    centroid = np.add(ndimage.center_of_mass(part), [b.start for b in box])
    assert asked[0].centre_mm == place.point_mm
    assert 1.0 < 2 * asked[0].radius_mm / diameter_mm < 1.9
    # the lump is a cube of 8 voxels, scaled to the volume asked for
    voxel = (np.pi / 6) ** (1 / 3) * diameter_mm / 8
    assert np.allclose(centroid - place.point_mm, (4 * voxel, 0, 0), atol=0.3)


def test_sources_are_told_apart(make_shape_bundle: Callable[..., Path]) -> None:
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
def test_sizes_that_are_none_are_refused(generator: ShapeGenerator, diameter_mm: float) -> None:
    with pytest.raises(ValueError, match="diameter_mm must be > 0, got"):
        DiffMaskShapes(generator).draw(diameter_mm, np.random.default_rng(0), place_on(UNIT))


def test_same_seed_same_mask_and_another_another(generator: ShapeGenerator) -> None:
    first, again, other = (generator.draw(sphere_on(UNIT), UNIT, SHAPE, n) for n in (5, 5, 6))
    assert (first.dtype, first.shape) == (bool, SHAPE)
    assert np.array_equal(first, again)
    assert (first != other).any()
    source, place = DiffMaskShapes(generator), place_on(UNIT)
    one, two, three = (source.draw(9.0, np.random.default_rng(n), place) for n in (3, 3, 4))
    assert np.array_equal(one.sdf, two.sdf)
    assert one.centre == two.centre
    assert not np.array_equal(one.sdf, three.sdf)


@ON_GRIDS
def test_sphere_and_boundary_are_kept(generator: ShapeGenerator, affine: np.ndarray) -> None:
    organ = np.zeros(SHAPE, np.uint8)
    organ[:23, :, :16] = 1
    sphere = sphere_on(affine)
    cut, free = (generator.draw(sphere, affine, SHAPE, 1, within) for within in (organ, None))
    for mask in (cut, free):
        assert mask.any()
        assert not (mask & ~sphere_mask(sphere, affine, SHAPE)).any()
    assert not cut[organ == 0].any()
    assert free[organ == 0].any()


def test_window_and_level_of_a_sample(generator: ShapeGenerator) -> None:
    window, level = generator.sample(sphere_on(UNIT), UNIT, 0)
    assert level.shape == window.grid.size == (24, 24, 24)
    assert window.radius_mm == 7.5
    assert (level[window.region == 0] == -1).all()
    assert np.abs(level).max() <= 1


class Spy:
    """Stands for the sampler: keeps what it is asked for, fills all after some first answers."""

    def __init__(self, first: int, inside: slice = slice(0)) -> None:
        self.first, self.inside, self.seeds, self.conditions = first, inside, [], []

    def __call__(
        self, inputs: Tensor, network: object, condition: Tensor, seeds: Sequence[int]
    ) -> Tensor:
        self.seeds += list(seeds)
        self.conditions.append(condition)
        level = torch.full_like(inputs[:, :1], -1.0)
        level[..., self.inside if len(self.seeds) <= self.first else slice(None)] = 1
        return level


def test_what_falls_between_the_voxels_of_the_scan_is_drawn_again(
    generator: ShapeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(1, slice(5, 6))  # far from the slice in the middle
    monkeypatch.setattr(generator, "inferer", spy)
    organ = np.ones(SHAPE)
    organ[25:] = 0  # cuts the sphere, so that the shape is left where the model puts it
    assert generator.draw(Sphere((20.0, 20.0, 70.0), 6.0), THICK, SHAPE, 0, organ).any()
    assert len(spy.seeds) == 2


def test_empty_predictions_are_drawn_again_with_other_seeds(
    generator: ShapeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, never = Spy(2), Spy(100)
    monkeypatch.setattr(generator, "inferer", spy)
    assert generator.draw(sphere_on(UNIT), UNIT, SHAPE, 7, spiculation=4.0, lobulation=2.0).any()
    assert spy.seeds[0] == 7
    assert len(set(spy.seeds)) == 3
    # what the model is told is the sphere round the lesion's voxels, and the scores
    assert np.allclose(spy.conditions[0][0], attribute_condition(15.0, 4.0, 2.0))
    monkeypatch.setattr(generator, "inferer", never)
    with pytest.raises(ValueError, match=f"got none in {MAX_ATTEMPTS} attempts at Sphere"):
        generator.draw(sphere_on(UNIT), UNIT, SHAPE, 7)
    assert len(never.seeds) == MAX_ATTEMPTS


@pytest.mark.parametrize(
    ("sphere", "affine", "within", "message"),
    [
        (sphere_on(UNIT), UNIT, np.zeros(SHAPE), "boundary must leave room for a lesion of 15"),
        (Sphere((99.0, 0.0, 0.0), 5.0), UNIT, None, "sphere must touch the scan"),
        (Sphere((20.0, 20.0, 38.5), 2.0), THICK, None, "sphere must hold a voxel of the scan"),
    ],
    ids=["boundary", "outside", "between"],
)
def test_spheres_without_room_are_named(
    generator: ShapeGenerator, sphere: Sphere, affine: np.ndarray, within: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generator.draw(sphere, affine, SHAPE, 0, within)


def test_unfit_bundles_are_named(shape_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bundle must have shape_window .* got none in lefusion"):
        ShapeGenerator("lefusion_lidc", "cpu")
    shutil.copytree(shape_bundle / "configs", tmp_path / "configs")
    with pytest.raises(FileNotFoundError, match="bundle must have trained weights, got none at"):
        ShapeGenerator(str(tmp_path), "cpu")
