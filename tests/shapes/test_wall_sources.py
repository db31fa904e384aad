"""Lesions for a given wall: in it, nested, of the size and at the site asked for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine
from torch import Tensor

from tests.shapes.walls import AFFINE, HEART, core_share, phantom, save
from tools.shapes import (
    DiffMaskWallShapes,
    LabelShape,
    MaskFileWallShape,
    Place,
    WallLibrary,
)
from tools.shapes.wall import coordinates
from tools.transforms.spheres import Sphere, enclosing_sphere, sphere_mask
from tools.transforms.wall import wall_condition

ANY = (1.0, 500.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def at(place: Place, n: int) -> Place:
    """The place with the n-th voxel of its wall as site."""
    voxel = coordinates(place).voxels[n]
    return place._replace(point_mm=tuple(apply_affine(place.affine, voxel).tolist()))


def check(shape: LabelShape, place: Place) -> None:
    assert shape.label.dtype == np.uint8
    assert shape.label.any()
    assert np.isin(shape.label, (0, 3, 4)).all()
    assert not shape.label[~place.organ_mask].any()
    diameter = 2 * enclosing_sphere(shape.label, place.affine).radius_mm
    assert shape.diameter_mm == pytest.approx(diameter)


def angle_of(place: Place, label: np.ndarray) -> float:
    wall = coordinates(place)
    return float(np.angle(np.exp(1j * wall.angle[label[tuple(wall.voxels.T)] > 0]).mean()))


def apart(a: float, b: float) -> float:
    return float(np.degrees(abs(np.angle(np.exp(1j * (a - b))))))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hearts")
    for seed in (1, 2, 3):
        place, label = phantom(seed, infarct=seed < 3, slices=4 + seed)
        save(folder / f"case{seed}_label.nii.gz", label, place.affine)
    save(folder / "case1_image.nii.gz", np.ones((3, 3, 3)), AFFINE)
    return folder


@pytest.fixture(scope="module")
def moved(library: Path) -> WallLibrary:
    return WallLibrary(library, HEART)


@pytest.fixture(scope="module")
def healthy() -> Place:
    return phantom(7, infarct=False, slices=5)[0]


@pytest.fixture(scope="module")
def learned(make_shape_bundle: Callable[..., Path]) -> DiffMaskWallShapes:
    return DiffMaskWallShapes(str(make_shape_bundle(overlay="cardiac")), device="cpu")


def test_learned_shapes_keep_wall_sphere_and_share(
    learned: DiffMaskWallShapes, healthy: Place
) -> None:
    place = at(healthy, 900)._replace(inner_share=(0.2, 0.2))
    shape = learned.draw((40.0, 50.0), rng(), place)
    check(shape, place)
    assert shape.source == "diffmask"
    assert 40 <= shape.asked_mm <= 50
    assert shape.diameter_mm <= shape.asked_mm
    voxels = int((shape.label > 0).sum())
    assert int((shape.label == 4).sum()) == round(0.2 * voxels)
    # 0.57 of the way from the axis at 44 mm or so: round the site, but reaching inward
    assert apart(angle_of(place, shape.label), float(coordinates(place).angle[900])) < 25


@pytest.fixture
def told(learned: DiffMaskWallShapes, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What a model that fills whatever it may is told; it takes the place of the learned one."""
    conditions: list[Tensor] = []

    def fill(inputs: Tensor, network: object, condition: Tensor, seeds: object) -> Tensor:
        conditions.append(condition[0])
        return torch.ones((1, 2, *inputs.shape[2:]))

    monkeypatch.setattr(learned, "inferer", fill)
    return conditions


def flat_ring(inner_share: tuple[float, float] | None) -> Place:
    """A wall 20 to 30 mm from an axis at (40, 40), with a site 24 mm from it."""
    index = np.stack(np.meshgrid(*map(np.arange, (41, 41, 3)), indexing="ij"), -1)
    radius = np.linalg.norm((index[..., :2] - 20) * 2.0, axis=-1)
    wall, affine = (radius >= 20) & (radius < 30), np.diag([2.0, 2.0, 10.0, 1.0])
    return Place((64.0, 40.0, 10.0), affine, wall, radius < 20, HEART.values, inner_share)


@pytest.mark.usefixtures("told")
def test_the_sphere_of_a_large_lesion_lies_inward_of_its_site(learned: DiffMaskWallShapes) -> None:
    place = flat_ring((0.0, 0.0))
    for diameter, part in ((23.5, 0.77), (47, 0.54), (68, 0.39), (103, 0.16), (200, 0.16)):
        shape = learned.draw(diameter, rng(), place)
        sphere = Sphere((40 + 24 * part, 40.0, 10.0), diameter / 2)
        inside = place.organ_mask & sphere_mask(sphere, place.affine, place.organ_mask.shape)
        assert np.array_equal(shape.label > 0, inside)


class Fixed(np.random.Generator):
    """Chance whose numbers from 0 to 1 are given."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.numbers = np.array(numbers)

    def random(self, *_: object, **__: object) -> np.ndarray:  # type: ignore[override]
        return self.numbers


@pytest.mark.parametrize(
    ("present", "rank", "share"),
    [
        (22 / 37 - 1e-6, 0.5, 0.11),  # 22 of 37 patients have some: the median
        (22 / 37 + 1e-6, 0.5, 0.0),
        (0.0, 0.0, 0.015),  # the least, the most, and between the two smallest of nine quantiles
        (0.0, 1.0, 0.35),
        (0.0, 1 / 16, 0.0175),
    ],
)
def test_shares_are_those_of_patients(
    learned: DiffMaskWallShapes, told: list[Tensor], present: float, rank: float, share: float
) -> None:
    shape = learned.draw(60.0, Fixed(present, rank), flat_ring(None))
    # but for whole voxels, and pieces that have no lesion round them
    assert core_share(shape) == pytest.approx(share, abs=0.004)
    assert np.allclose(told, wall_condition(60.0, share, learned.range_mm))


@pytest.mark.usefixtures("told")
def test_shares_asked_for_are_met(learned: DiffMaskWallShapes) -> None:
    chance, place = rng(), flat_ring((0.1, 0.2))
    drawn = [core_share(learned.draw(60.0, chance, place)) for _ in range(40)]
    assert 0.098 < min(drawn) < 0.12
    assert 0.18 < max(drawn) < 0.202


def test_shapes_repeat_with_the_seed(
    learned: DiffMaskWallShapes, moved: WallLibrary, healthy: Place
) -> None:
    for source in (learned, moved):
        first, again, other = (source.draw((45.0, 105.0), rng(n), healthy) for n in (3, 3, 4))
        assert np.array_equal(first.label, again.label)
        assert not np.array_equal(first.label, other.label)


def test_empty_predictions_end_in_an_error(
    make_shape_bundle: Callable[..., Path], healthy: Place
) -> None:
    source = DiffMaskWallShapes(str(make_shape_bundle(bias=-5.0, overlay="cardiac")), device="cpu")
    with pytest.raises(ValueError, match=r"diameter_mm must leave room for a lesion, got .* in 5"):
        source.draw((45.0, 105.0), rng(), healthy)


def test_library_shapes_lie_in_the_wall_and_differ(moved: WallLibrary, healthy: Place) -> None:
    assert sorted(item.name for item in moved.lesions) == ["case1", "case2"]
    shapes = [moved.draw(ANY, rng(n), healthy) for n in range(4)]
    for shape in shapes:
        check(shape, healthy)
        assert shape.source.startswith("library:case")
        assert shape.asked_mm is None
    assert len({shape.label.tobytes() for shape in shapes}) == 4


def test_library_chooses_by_size_and_else_the_nearest(library: Path, healthy: Place) -> None:
    source = WallLibrary(library, HEART, turn_degrees=0)
    drawn = [source.draw(ANY, rng(n), healthy) for n in range(12)]
    found = {shape.source.split()[0]: shape.diameter_mm for shape in drawn}
    assert len(found) == 2
    for name, diameter in found.items():
        narrow = (diameter - 0.5, diameter + 0.5)
        shapes = [source.draw(narrow, rng(seed), healthy) for seed in range(4)]
        assert all(shape.source.split()[0] == name for shape in shapes)
    largest = max(found, key=lambda name: found[name])
    shape = source.draw(900.0, rng(), healthy)
    assert shape.source.split()[0] == largest


def test_left_overs_in_a_library_are_passed_over(
    library: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(library / "case1_label.nii.gz", tmp_path)
    (tmp_path / "._case1_label.nii.gz").write_bytes(b"of another system")
    (tmp_path / "case2_label.nii.gz").symlink_to(tmp_path / "nowhere")
    assert len(WallLibrary(tmp_path, HEART).lesions) == 1
    assert "._case1_label.nii.gz is a left-over of another system" in caplog.text
    assert "case2_label.nii.gz is a link to a file that is not there" in caplog.text


def test_a_datalist_is_a_library_of_its_training_section(library: Path, tmp_path: Path) -> None:
    shutil.copy(library / "case1_label.nii.gz", tmp_path)
    entries = [{"label": "case1_label.nii.gz"}, {"image": "only.nii.gz"}]
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": entries, "test": [{"label": "no.nii.gz"}]}))
    for place in (path, tmp_path):
        assert [item.name for item in WallLibrary(place, HEART).lesions] == ["case1"]


def test_a_share_asked_of_the_library_is_met(moved: WallLibrary, healthy: Place) -> None:
    for low, high in ((0.0, 0.0), (0.3, 0.3), (0.6, 0.7)):
        shape = moved.draw(ANY, rng(), healthy._replace(inner_share=(low, high)))
        check(shape, healthy)
        assert low - 0.01 <= core_share(shape) <= high + 0.01


def test_the_site_is_the_middle_of_a_moved_lesion(moved: WallLibrary, healthy: Place) -> None:
    for n in (100, 2000):
        shape = moved.draw(ANY, rng(), at(healthy, n))
        assert apart(angle_of(healthy, shape.label), float(coordinates(healthy).angle[n])) < 12


def test_a_mask_in_the_wall_is_used_voxel_by_voxel(tmp_path: Path) -> None:
    place, label = phantom(1, slices=5)
    lesions = np.where(label > 2, label, 0)
    for name, values in (("alone", lesions), ("with_heart", label)):
        path = save(tmp_path / f"{name}.nii.gz", values, place.affine)
        shape = MaskFileWallShape(path, HEART).draw((900.0, 901.0), rng(), place)
        check(shape, place)
        assert np.array_equal(shape.label, lesions)
        assert shape.source == f"mask:{name}.nii.gz"
        path.unlink()
        in_memory = MaskFileWallShape(path, HEART, (values, place.affine))
        assert np.array_equal(in_memory.draw(None, None, place).label, lesions)


def test_a_mask_of_another_wall_is_moved(tmp_path: Path, healthy: Place) -> None:
    other, label = phantom(1, slices=7)
    path = save(tmp_path / "other.nii.gz", label, other.affine)
    source = MaskFileWallShape(path, HEART)
    shape = source.draw(ANY, rng(), healthy)
    check(shape, healthy)
    assert shape.source == "mask:other.nii.gz turned 0 degrees"
    assert apart(angle_of(healthy, shape.label), angle_of(other, label > 2)) < 10
    again = source.draw(ANY, rng(1), healthy)
    assert np.array_equal(shape.label, again.label)


def test_wrong_sizes_and_far_sites_are_named(
    learned: DiffMaskWallShapes, moved: WallLibrary, healthy: Place
) -> None:
    far = healthy._replace(point_mm=(900.0, 0.0, 0.0))
    for source in (learned, moved):
        for wrong in ((50.0, 40.0), (0.0, 40.0), (40.0, float("nan")), (1.0, 2.0, 3.0), -3.0, ()):
            with pytest.raises(ValueError, match="diameter_mm must be one number or two, 0 < low"):
                source.draw(wrong, rng(), healthy)
        with pytest.raises(ValueError, match="site must lie within 20 mm of the wall, got"):
            source.draw(40.0, rng(), far)


def test_masks_that_fit_nowhere_are_named(tmp_path: Path, healthy: Place) -> None:
    lesion = np.zeros(healthy.organ_mask.shape, np.uint8)
    lesion[0, 0, 0] = 3
    for name, affine, message in (
        ("stray", healthy.affine, "partly outside the wall"),
        ("shifted", healthy.affine + 1, "on another grid"),
    ):
        path = save(tmp_path / f"{name}.nii.gz", lesion, affine)
        with pytest.raises(ValueError, match=rf"shape must lie in the wall .* {message}"):
            MaskFileWallShape(path, HEART).draw(ANY, rng(), healthy)
    path = save(tmp_path / "healthy.nii.gz", healthy.organ_mask * 2, healthy.affine)
    with pytest.raises(ValueError, match=r"shape must hold 3 \(infarct\) .* got labels \[0, 2\]"):
        MaskFileWallShape(path, HEART)
    with pytest.raises(ValueError, match="shape must name label maps"):
        MaskFileWallShape(tmp_path / "absent.nii.gz", HEART)


def test_libraries_that_cannot_be_are_named(tmp_path: Path) -> None:
    lesion = np.zeros((4, 4, 3), np.uint8)
    save(tmp_path / "x_label.nii.gz", lesion, AFFINE)
    with pytest.raises(ValueError, match="shape must name a library with lesions, got none"):
        WallLibrary(tmp_path, HEART)
    lesion[0, 0, 0] = 3
    save(tmp_path / "x_label.nii.gz", lesion, AFFINE)
    with pytest.raises(ValueError, match=r"shape must name label maps with 1 .* got \[0, 3\]"):
        WallLibrary(tmp_path, HEART)
    with pytest.raises(ValueError, match="shape library:PATH must name a folder"):
        WallLibrary(tmp_path / "absent", HEART)
    with pytest.raises(ValueError, match="turn_degrees must be >= 0, got -1"):
        WallLibrary(tmp_path, HEART, -1)
