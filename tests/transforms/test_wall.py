"""Lesions in a wall: its coordinates, targets and requests; nested, within wall and sphere."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.affines import apply_affine
from scipy import ndimage
from torch import Tensor

from tools.transforms.spheres import Sphere, enclosing_sphere, size_bins, sphere_mask
from tools.transforms.wall import (
    WallCoordinates,
    WallRequestd,
    WallTargetd,
    WallToScand,
    from_wall,
    measure_heart,
    middle_angle,
    to_wall,
    wall_condition,
    wall_coordinates,
    wall_level,
)

AFFINE = np.diag([-1.4, 1.4, 10.0, 1.0])
CLASSES, WALL, CAVITY = [[3, 4], [4]], [2, 3, 4], [1]
RING_AFFINE, SIZE = np.diag([1.2, 1.2, 10.0, 1.0]), (64, 8)


def heart(infarct: bool = True, shape: tuple[int, int, int] = (52, 50, 6)) -> MetaTensor:
    """Cavity 1, wall 2; an infarct 3 of a quarter of the ring, its innermost part 4."""
    angle, radius = polar(shape, (26, 24), (-1.4, 1.4))
    label = np.zeros(shape, np.uint8)
    label[radius < 27] = 2
    label[radius < 16] = 1
    if infarct:
        wall = label == 2
        wall[..., [0, 4, 5]] = False
        label[wall & (np.abs(angle - 1.0) < 0.8) & (radius < 25)] = 3
        label[wall & (np.abs(angle - 1.0) < 0.5) & (radius < 20)] = 4
    return MetaTensor(torch.from_numpy(label)[None], affine=AFFINE)


def target(label: MetaTensor, **arguments: object) -> dict:
    return WallTargetd("image", CLASSES, WALL, CAVITY, **arguments)({"image": label})


def request(label: MetaTensor, diameter_mm: float = 60.0, **arguments: object) -> dict:
    return WallRequestd("image", diameter_mm, **arguments)({"image": label})


def answer(sample: dict, *levels: Tensor, **arguments: object) -> Tensor:
    scan = WallToScand("pred", **arguments)
    label = scan(sample | {"pred": torch.stack(levels)})["pred"]
    assert label.shape == sample["organ"].shape
    assert label.dtype == torch.uint8
    assert torch.equal(label.affine, sample["organ"].affine)
    return torch.as_tensor(label).as_subclass(Tensor)[0]


def everywhere(value: float = 1.0) -> Tensor:
    return torch.full((64, 8, 8), value)


def there_and_back(label: MetaTensor) -> np.ndarray:
    """What becomes of the real lesion as a perfect model would draw it on the grid of the wall."""
    affine, values = np.asarray(label.affine, float), np.asarray(label[0])
    sphere = enclosing_sphere(np.isin(values, CLASSES[0]), affine)
    asked = request(label, 2 * sphere.radius_mm + 1e-3, centre_mm=sphere.centre_mm)
    place = wall_coordinates(np.isin(values, WALL), affine, np.isin(values, CAVITY))
    middle = middle_angle(place, affine, sphere.centre_mm)
    slices = asked["image"].shape[-1]
    grids = [to_wall(np.isin(values, c), place, (64, 8), slices, middle) for c in CLASSES]
    levels = [torch.from_numpy(wall_level(np.nan_to_num(grid) > 0)) for grid in grids]
    return np.asarray(answer(asked, *levels, keep_organ=False))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_targets_are_nested_in_a_region_that_holds_the_lesion() -> None:
    label = heart()
    sample = target(label)
    image, region = sample["image"], sample["label"]
    assert image.shape == (2, 64, 8, 12)
    assert region.shape == (1, 64, 8, 12)
    assert sample["condition"].shape == (16,)
    inside = image > 0
    assert inside.flatten(1).any(1).all()
    assert not (inside[1] & ~inside[0]).any()
    assert not (inside & (region == 0)).any()
    assert (image[(region == 0).expand_as(image)] == -1).all()
    assert image.min() == -1
    assert image.max() == 1
    # slices 1 to 3 hold the lesion, whose middle is the middle of the grid
    assert inside[0].any(0).any(0).tolist() == [False, True, True, True, *[False] * 8]
    columns = inside[0].any(-1).any(-1).nonzero().double()
    assert columns.mean() == pytest.approx(31.5, abs=1.5)
    lesion = np.isin(np.asarray(label[0]), CLASSES[0])
    share = (np.asarray(label[0]) == 4).sum() / lesion.sum()
    diameter = 2 * enclosing_sphere(lesion, AFFINE).radius_mm
    assert sample["condition"].numpy() == pytest.approx(wall_condition(diameter, share))


@pytest.mark.parametrize(("slices", "grid"), [(4, 8), (6, 8), (7, 8), (8, 12)])
def test_behind_the_last_slice_there_is_an_empty_one(slices: int, grid: int) -> None:
    image = request(heart(infarct=False, shape=(52, 50, slices)), 400.0)["image"]
    assert image.shape == (3, 64, 8, grid)
    assert image[2].flatten(0, 1).any(0).tolist() == [k < slices for k in range(grid)]


def test_no_reflow_of_a_given_share_is_no_scatter() -> None:
    sample = request(heart(infarct=False), 400.0)
    # surer in one place, and everywhere single cells that are surer still
    level = torch.full((64, 8, 8), -0.5)
    level[28:36] = -0.2
    level[2::8, 2::4] = 0.0
    result = np.asarray(answer(sample, everywhere(), level, inner_share=0.04)) == 4
    parts, count = ndimage.label(result, np.ones((3, 3, 3)))
    assert count <= 3
    assert np.bincount(parts.ravel())[1:].max() > 0.5 * result.sum()


def test_one_class_has_no_share_and_no_lesion_teaches_nothing() -> None:
    sample = WallTargetd("image", CLASSES[:1], WALL, CAVITY)({"image": heart()})
    assert sample["image"].shape == (1, 64, 8, 12)
    assert not sample["condition"][8:].any()
    sample = target(heart(infarct=False))
    assert not sample["label"].any()
    assert (sample["image"] == -1).all()
    assert sample["condition"].isfinite().all()


def test_wrong_targets_are_named() -> None:
    with pytest.raises(ValueError, match="slices must be 6 or more, got 4"):
        target(heart(), slices=4)
    with pytest.raises(ValueError, match="classes must be nested within wall"):
        WallTargetd("image", [[4], [3, 4]], WALL, CAVITY)
    with pytest.raises(ValueError, match="classes must be nested within wall"):
        WallTargetd("image", [[3, 5]], WALL, CAVITY)
    with pytest.raises(ValueError, match="wall must hold voxels"):
        target(MetaTensor(torch.zeros(1, 20, 20, 6), affine=AFFINE))


def test_condition_tells_size_and_share() -> None:
    plain, none, half, whole = (wall_condition(40.0, share) for share in (None, 0.0, 0.5, 1.0))
    assert np.array_equal(plain[:8], size_bins(40.0, (10.0, 120.0)))
    assert not plain[8:].any()
    assert none[8:12].tolist() == [1, 0, 0, 0]
    assert half[8:12].tolist() == whole[8:12].tolist() == [0, 0, 0, 1]
    # a tenth: a fifth of the way to a half, three bins on
    assert wall_condition(40.0, 0.1)[8:12].tolist() == pytest.approx([0.4, 0.6, 0, 0], abs=1e-6)
    assert wall_condition(10.0)[0] == wall_condition(120.0)[7] == 1
    with pytest.raises(ValueError, match=r"inner_share must be in 0\.\.1, got 1\.2"):
        wall_condition(40.0, 1.2)
    with pytest.raises(ValueError, match="diameter_mm must be > 0, got 0"):
        wall_condition(0.0)


@pytest.mark.parametrize("keep", [True, False])
def test_nothing_leaves_wall_and_sphere(keep: bool) -> None:
    label = heart(infarct=False)
    centre = tuple(apply_affine(AFFINE, (40, 30, 2)))
    sample = request(label, 50.0, centre_mm=centre)
    assert sample["image"].shape == (3, 64, 8, 8)
    assert (sample["image"][:2] == -1).all()
    assert set(sample["image"][2].unique().tolist()) == {0, 1}
    # full everywhere, no-reflow beyond the infarct: in half of the slices the infarct is missing
    outer = everywhere()
    outer[..., :2] = -1
    result = np.asarray(answer(sample, outer, everywhere(), keep_organ=keep))
    heart_values = np.asarray(label[0])
    sphere = Sphere(centre, 25.0)
    allowed = (heart_values == 2) & sphere_mask(sphere, AFFINE, heart_values.shape)
    expected = allowed.copy()
    expected[..., :2] = False
    assert np.array_equal(result == 4, expected)
    assert np.array_equal(
        result[~expected], heart_values[~expected] if keep else 0 * result[~expected]
    )
    some = np.asarray(answer(sample, everywhere(), -everywhere(), keep_organ=keep))
    assert np.array_equal(some == 3, allowed)
    assert not (some == 4).any()


def test_the_share_of_the_innermost_class_is_exact() -> None:
    sample = request(heart(infarct=False), 60.0)
    surest = torch.linspace(-1, -0.2, 64)[:, None, None].expand(64, 8, 8)
    for share in (0.0, 0.1, 1.0):
        result = answer(sample, everywhere(), surest, keep_organ=False, inner_share=share)
        assert int((result == 4).sum()) == round(share * int((result > 0).sum()))
    with pytest.raises(ValueError, match=r"inner_share must be in 0\.\.1, got 2"):
        WallToScand("pred", inner_share=2)


def test_centre_is_the_point_the_click_or_a_voxel_of_the_wall() -> None:
    label = heart(infarct=False)

    def centre(sample: dict, **arguments: object) -> list[float]:
        found = WallRequestd("image", 40.0, **arguments)({"image": label} | sample)
        return found["control"]["centre_mm"].tolist()

    point = apply_affine(AFFINE, (40, 30, 2)).tolist()
    click = {"foreground": [[1, 1, 1], [12, 20, 3]]}
    clicked = apply_affine(AFFINE, (12, 20, 3)).tolist()
    assert centre(click, centre_mm=point) == point
    assert centre(click) == clicked
    assert centre({"foreground": np.array([[12, 20, 3]])}) == clicked
    assert centre({"foreground": torch.tensor([[12, 20, 3]])}) == clicked
    chosen = {tuple(centre({"foreground": []}, seed=seed)) for seed in range(4)}
    assert len(chosen) == 4
    assert tuple(centre({}, seed=2)) in chosen
    for at in chosen:
        index = np.round(apply_affine(np.linalg.inv(AFFINE), at)).astype(int)
        assert label[0][tuple(index)] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"diameter_mm": 0.0}, "diameter_mm must be > 0, got 0"),
        ({"diameter_mm": float("nan")}, "diameter_mm must be > 0, got nan"),
        ({"centre_mm": (1.0, 2.0)}, "centre_mm must be three numbers"),
        ({"centre_mm": (900.0, 2.0, 2.0)}, r"centre_mm must lie near the wall, got \[900"),
        ({"wall": [7]}, "wall must hold voxels"),
    ],
)
def test_wrong_requests_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WallRequestd(**{"keys": "image", "diameter_mm": 40.0, **arguments})({"image": heart()})


def test_an_empty_prediction_is_an_error() -> None:
    sample = request(heart(infarct=False))
    with pytest.raises(ValueError, match="pred must hold a lesion, got an empty prediction"):
        answer(sample, -everywhere(), everywhere())


def test_a_made_infarct_comes_there_and_back() -> None:
    label = heart()
    result, values = there_and_back(label), np.asarray(label[0])
    assert dice(result > 0, values > 2) > 0.9
    assert dice(result == 4, values == 4) > 0.85


@pytest.mark.real
@pytest.mark.parametrize("case", ["emidec8bit_Case_P001", "native_P100"])
def test_a_real_infarct_comes_there_and_back(shared_dir: Path, case: str) -> None:
    path = shared_dir / "data" / "cardiac_lge" / f"{case}_label.nii.gz"
    if not path.is_file():
        pytest.skip(f"no label map {path.name} among the real scans")
    scan = nib.load(path)
    values = np.asarray(scan.dataobj)
    label = MetaTensor(torch.from_numpy(values)[None], affine=scan.affine)
    assert dice(there_and_back(label) > 0, values > 2) > 0.85


def polar(
    shape: tuple[int, int, int] = (60, 58, 6),
    middle: tuple[float, float] = (31.0, 29.0),
    spacing: tuple[float, float] = (1.2, 1.2),
) -> np.ndarray:
    """Angle and radius in mm of each voxel round the middle, in RAS axes."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    x, y = np.moveaxis((index[..., :2] - middle) * spacing, -1, 0)
    return np.stack([np.arctan2(y, x), np.hypot(x, y)])


def ring() -> tuple[np.ndarray, np.ndarray]:
    """A wall from 16 to 28 mm, and its cavity."""
    radius = polar()[1]
    return (radius >= 16) & (radius < 28), radius < 16


def values_of(place: WallCoordinates, values: np.ndarray) -> np.ndarray:
    return values[tuple(place.voxels.T)]


@pytest.mark.parametrize("given", [True, False], ids=["cavity", "enclosed"])
def test_depth_goes_from_inside_to_outside(given: bool) -> None:
    wall, cavity = ring()
    place = wall_coordinates(wall, RING_AFFINE, cavity if given else None)
    assert len(place.voxels) == wall.sum()
    angle, radius = (values_of(place, values) for values in polar())
    # half a pixel of 12 mm is 0.05
    assert np.abs(place.depth - (radius - 16) / 12).max() < 0.1
    assert np.corrcoef(place.depth, radius)[0, 1] > 0.99
    assert place.depth.min() == pytest.approx(0, abs=0.06)
    assert place.depth.max() == pytest.approx(1, abs=0.06)
    assert np.abs(np.exp(1j * place.angle) - np.exp(1j * angle)).max() < 0.02


def test_angles_are_those_of_the_patient_whatever_the_axes_of_the_scan() -> None:
    wall, cavity = ring()
    place = wall_coordinates(wall, RING_AFFINE, cavity)
    flipped = RING_AFFINE @ np.diag([-1.0, -1, 1, 1])
    flipped[:2, 3] = apply_affine(RING_AFFINE, (59, 57, 0))[:2]
    turned = wall_coordinates(wall[::-1, ::-1], flipped, cavity[::-1, ::-1])
    maps = []
    for found, step in ((place, 1), (turned, -1)):
        angles = np.full(wall.shape, np.nan)
        angles[tuple(found.voxels.T)] = found.angle
        maps.append(np.exp(1j * angles[::step, ::step]))
    assert np.nanmax(np.abs(maps[0] - maps[1])) < 1e-6
    # x of the patient is angle 0, y a quarter turn
    for x, y, angle in ((22, 0, 0), (0, 22, np.pi / 2)):
        point = (31 * 1.2 + x, 29 * 1.2 + y, 30.0)
        assert middle_angle(place, RING_AFFINE, point) == pytest.approx(angle, abs=0.1)


def test_crescents_are_open_where_there_is_no_wall() -> None:
    wall, cavity = ring()
    angle = polar()[0]
    crescent = wall & (np.abs(angle) < 2.0)
    place = wall_coordinates(crescent, RING_AFFINE, cavity)
    depth = values_of(place, (polar()[1] - 16) / 12)
    away = np.abs(values_of(place, angle)) < 1.7
    assert np.abs(place.depth - depth)[away].max() < 0.1
    grid = to_wall(crescent, place, SIZE, 6)
    angles = ((np.arange(64) + 0.5) / 64 * 2 - 1) * np.pi
    assert np.isnan(grid[np.abs(angles) > 2.3]).all()
    assert (grid[np.abs(angles) < 1.9] == 1).all()


def test_an_apex_without_cavity_is_deep_at_its_rim() -> None:
    wall, cavity = ring()
    wall[..., 5] |= cavity[..., 5]
    cavity[..., 5] = False
    for given in (cavity, None):
        place = wall_coordinates(wall, RING_AFFINE, given)
        apex = place.voxels[:, 2] == 5
        radius = values_of(place, polar()[1])[apex]
        assert np.abs(place.depth[apex] - radius / radius.max()).max() < 0.05


def test_slices_without_wall_are_left_out_and_no_wall_is_an_error() -> None:
    wall, cavity = ring()
    wall[..., [0, 3]] = cavity[..., [0, 3]] = False
    place = wall_coordinates(wall, RING_AFFINE, cavity)
    assert np.unique(place.voxels[:, 2]).tolist() == [1, 2, 4, 5]
    grid = to_wall(wall, place, SIZE, 8)
    assert grid.shape == (64, 8, 8)
    assert np.flatnonzero(np.isnan(grid).all((0, 1))).tolist() == [0, 3, 6, 7]
    back = from_wall(np.ones((64, 8, 8)), place)
    assert np.array_equal(back > 0, wall)
    with pytest.raises(ValueError, match="wall must hold voxels, got an empty mask"):
        wall_coordinates(np.zeros((4, 4, 4)), RING_AFFINE)


def lesion(wall: np.ndarray, centre: float) -> np.ndarray:
    """The inner two thirds of the wall, 80 degrees of it, in three slices."""
    angle, radius = polar()
    found = wall & (np.abs(np.angle(np.exp(1j * (angle - centre)))) < 0.7) & (radius < 24)
    found[..., [0, 4, 5]] = False
    return found


@pytest.mark.parametrize("centre", [0.0, 1.3, np.pi])
@pytest.mark.parametrize("middle", [0.0, -2.0, np.pi])
def test_a_lesion_comes_back_across_the_seam_too(centre: float, middle: float) -> None:
    wall, cavity = ring()
    place, mask = wall_coordinates(wall, RING_AFFINE, cavity), lesion(wall, centre)
    grid = np.nan_to_num(to_wall(mask, place, SIZE, 8, middle)) > 0
    for level in (grid * 2.0 - 1, wall_level(grid)):
        back = from_wall(level, place, middle) > 0
        assert dice(back, mask) > 0.9
        assert not back[~wall].any()


def test_the_middle_of_the_grid_turns() -> None:
    wall, cavity = ring()
    place, mask = wall_coordinates(wall, RING_AFFINE, cavity), lesion(wall, 1.3)
    grid = np.nan_to_num(to_wall(mask, place, SIZE, 6, 1.3)) > 0
    covered = np.flatnonzero(grid.any((1, 2)))
    assert covered.mean() == pytest.approx(31.5, abs=1)
    plain = np.nan_to_num(to_wall(mask, place, SIZE, 6)) > 0
    shift = round(1.3 / (2 * np.pi) * 64)
    assert dice(np.roll(plain, -shift, 0), grid) > 0.9


def test_levels_close_to_a_ring_and_never_reach_other_slices() -> None:
    mask = np.zeros((64, 8, 5), bool)
    mask[20:36, :, 2] = True
    level = wall_level(mask, band=2.0)
    assert np.array_equal(level > 0, mask)
    assert (level[..., [0, 1, 3, 4]] == -1).all()
    assert level.max() == 1
    # through the wall: no outline at its surfaces
    assert np.allclose(level, level[:, :1])
    assert np.allclose(wall_level(np.roll(mask, 30, 0)), np.roll(level, 30, 0))
    assert (wall_level(np.zeros((64, 8, 5), bool)) == -1).all()
    assert (wall_level(np.ones((64, 8, 5), bool)) == 1).all()


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
    with pytest.raises(ValueError, match="label must mark a heart, got 0 only"):
        measure_heart(np.zeros((4, 4, 4), np.uint8), np.eye(4))
