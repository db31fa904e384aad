"""A bundle draws masks: seeded, within sphere and boundary on any grid, never an empty one."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine
from torch import Tensor

from tools.synthesis.shape_generator import MAX_ATTEMPTS, ShapeGenerator
from tools.transforms.spheres import Sphere, attribute_condition, sphere_mask

SHAPE, MIDDLE = (44, 40, 30), (21.0, 19.0, 14.0)
GRIDS = {
    "thick": np.diag([-0.7, -0.7, 2.5, 1.0]),
    "oblique": np.array(
        [[0.8, 0.2, 0, -9], [-0.2, 0.8, 0.3, 5], [0, -0.3, 1.2, 70], [0, 0, 0, 1.0]]
    ),
}


@pytest.fixture(scope="module")
def generator(shape_bundle: Path) -> ShapeGenerator:
    return ShapeGenerator(str(shape_bundle), "cpu")


def sphere_on(affine: np.ndarray, radius_mm: float = 7.0) -> Sphere:
    x, y, z = (float(value) for value in apply_affine(affine, MIDDLE))
    return Sphere((x, y, z), radius_mm)


def test_same_seed_same_mask_and_another_another(generator: ShapeGenerator) -> None:
    sphere = sphere_on(np.eye(4))
    first, again, other = (generator.draw(sphere, np.eye(4), SHAPE, seed) for seed in (5, 5, 6))
    assert first.dtype == bool
    assert first.shape == SHAPE
    assert np.array_equal(first, again)
    assert first.any()
    assert (first != other).any()


@pytest.mark.parametrize("name", GRIDS)
def test_sphere_and_boundary_are_kept(generator: ShapeGenerator, name: str) -> None:
    affine = GRIDS[name]
    organ = np.zeros(SHAPE, np.uint8)
    organ[:23, :, :16] = 1
    sphere = sphere_on(affine)
    cut = generator.draw(sphere, affine, SHAPE, 1, organ)
    free = generator.draw(sphere, affine, SHAPE, 1)
    for mask in (cut, free):
        assert mask.any()
        assert not (mask & ~sphere_mask(sphere, affine, SHAPE)).any()
    assert not cut[organ == 0].any()
    assert free[organ == 0].any()


def test_window_and_level_of_a_sample(generator: ShapeGenerator) -> None:
    window, level = generator.sample(sphere_on(np.eye(4)), np.eye(4), 0)
    assert level.shape == window.grid.size == (24, 24, 24)
    assert window.radius_mm == 7.5
    assert (level[window.region == 0] == -1).all()
    assert np.abs(level).max() <= 1


def test_what_falls_between_the_voxels_of_the_scan_is_drawn_again(
    generator: ShapeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    thick, calls = np.diag([1.0, 1.0, 7.0, 1.0]), []

    def one_voxel_then_all(inputs: Tensor, *_: object, seeds: Sequence[int]) -> Tensor:
        calls.append(seeds)
        level = torch.full_like(inputs[:, :1], -1.0)
        level[..., 5] = 1  # far from the slice in the middle
        return level if len(calls) == 1 else -level

    monkeypatch.setattr(generator, "inferer", one_voxel_then_all)
    organ = np.ones(SHAPE)
    organ[25:] = 0  # cuts the sphere, so that the shape is left where the model puts it
    assert generator.draw(Sphere((20.0, 20.0, 70.0), 6.0), thick, SHAPE, 0, organ).any()
    assert len(calls) == 2


class Spy:
    """Stands for the sampler: keeps what it is asked for, answers with empty predictions first."""

    def __init__(self, empty: int) -> None:
        self.empty, self.seeds, self.conditions = empty, [], []

    def __call__(
        self, inputs: Tensor, network: object, condition: Tensor, seeds: Sequence[int]
    ) -> Tensor:
        self.seeds += list(seeds)
        self.conditions.append(condition)
        return torch.full_like(inputs[:, :1], -1.0 if len(self.seeds) <= self.empty else 1.0)


def test_empty_predictions_are_drawn_again_with_other_seeds(
    generator: ShapeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sphere = sphere_on(np.eye(4))
    spy = Spy(empty=2)
    monkeypatch.setattr(generator, "inferer", spy)
    assert generator.draw(sphere, np.eye(4), SHAPE, 7, spiculation=4.0, lobulation=2.0).any()
    assert spy.seeds[0] == 7
    assert len(set(spy.seeds)) == 3
    # what the model is told is the sphere round the lesion's voxels, and the scores
    expected = attribute_condition(15.0, 4.0, 2.0)
    assert np.allclose(spy.conditions[0][0], expected)
    never = Spy(empty=100)
    monkeypatch.setattr(generator, "inferer", never)
    with pytest.raises(ValueError, match=f"got none in {MAX_ATTEMPTS} attempts at Sphere"):
        generator.draw(sphere, np.eye(4), SHAPE, 7)
    assert len(never.seeds) == MAX_ATTEMPTS


def test_spheres_without_room_are_named(generator: ShapeGenerator) -> None:
    with pytest.raises(ValueError, match="boundary must leave room for a lesion of 15"):
        generator.draw(sphere_on(np.eye(4)), np.eye(4), SHAPE, 0, np.zeros(SHAPE))
    with pytest.raises(ValueError, match="sphere must touch the scan"):
        generator.draw(Sphere((99.0, 0.0, 0.0), 5.0), np.eye(4), SHAPE, 0)
    thick = np.diag([1.0, 1.0, 6.0, 1.0])
    with pytest.raises(ValueError, match="sphere must hold a voxel of the scan"):
        generator.draw(Sphere((20.0, 20.0, 33.0), 2.0), thick, SHAPE, 0)


def test_unfit_bundles_are_named(shape_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bundle must have shape_window .* got none in lefusion"):
        ShapeGenerator("lefusion_lidc", "cpu")
    with pytest.raises(FileNotFoundError, match="bundle must be a bundle folder or one of"):
        ShapeGenerator("nothing", "cpu")
    shutil.copytree(shape_bundle / "configs", tmp_path / "configs")
    with pytest.raises(FileNotFoundError, match="bundle must have trained weights, got none at"):
        ShapeGenerator(str(tmp_path), "cpu")
