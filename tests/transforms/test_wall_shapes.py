"""Targets and requests in the wall of a heart: nested, within wall and sphere, there and back."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.affines import apply_affine
from scipy import ndimage
from torch import Tensor

from tools.transforms.sphere import Sphere, attribute_condition, enclosing_sphere, sphere_mask
from tools.transforms.wall import middle_angle, to_wall, wall_coordinates, wall_level
from tools.transforms.wall_request import WallRequestd, WallToScand
from tools.transforms.wall_target import WallTargetd, wall_condition

AFFINE = np.diag([-1.4, 1.4, 10.0, 1.0])
CLASSES, WALL, CAVITY = [[3, 4], [4]], [2, 3, 4], [1]


def heart(infarct: bool = True, shape: tuple[int, int, int] = (52, 50, 6)) -> MetaTensor:
    """Cavity 1, wall 2; an infarct 3 of a quarter of the ring, its innermost part 4."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    x, y = np.moveaxis((index[..., :2] - (26, 24)) * (-1.4, 1.4), -1, 0)
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
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


def test_one_class_has_no_share() -> None:
    sample = WallTargetd("image", CLASSES[:1], WALL, CAVITY)({"image": heart()})
    assert sample["image"].shape == (1, 64, 8, 12)
    assert not sample["condition"][8:].any()


def test_without_a_lesion_there_is_nothing_to_learn() -> None:
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
    assert np.array_equal(plain, attribute_condition(40.0, range_mm=(10.0, 120.0)))
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
