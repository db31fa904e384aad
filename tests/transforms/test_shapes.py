"""Shapes: what a model is trained on, and from a request to a window and back, on any grid."""

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, EnsureTyped
from nibabel.affines import apply_affine

from tools.transforms.shapes import (
    ControlSphered,
    MaskRequestd,
    RandBoundaryd,
    ShapeRequestd,
    ShapeToScand,
    ShapeWindowd,
)
from tools.transforms.spheres import attribute_condition, enclosing_sphere, half_voxel_mm

GRIDS = {
    "1mm": (np.eye(4), (40, 44, 48)),
    "thick": (np.diag([-0.7, -0.7, 2.5, 1.0]), (60, 62, 20)),
    "oblique": (
        np.array([[0.8, 0.2, 0, -9], [-0.2, 0.8, 0.3, 5], [0, -0.3, 1.2, 70], [0, 0, 0, 1.0]]),
        (52, 54, 36),
    ),
}
grids = pytest.mark.parametrize("name", GRIDS)
SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.7, 1.5)]


def scan(name: str = "1mm") -> dict:
    affine, shape = GRIDS[name]
    return {"image": MetaTensor(torch.zeros(1, *shape), affine=torch.from_numpy(affine))}


def mask_of(values: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(values.astype(np.uint8))[None], affine=torch.eye(4))


def diameter_and_centre(label: MetaTensor, affine: np.ndarray) -> tuple[float, np.ndarray]:
    found = enclosing_sphere(np.asarray(label[0]), affine)
    return 2 * (found.radius_mm + half_voxel_mm(affine)), np.array(found.centre_mm)


def ball_in(sample: dict, share: float = 1.0) -> torch.Tensor:
    """The level of a ball with that share of the radius of the sphere, in the window."""
    affine = np.asarray(sample["image"].affine)
    shape = sample["image"].shape[1:]
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    offset = apply_affine(affine, index) - sample["control"]["centre_mm"].numpy()
    # half a voxel more than the sphere round the centres
    radius = float(sample["control"]["radius_mm"]) + half_voxel_mm(sample["boundary"].affine)
    level = (share * radius - np.linalg.norm(offset, axis=-1)) / (3 * affine[0, 0])
    return torch.from_numpy(level.clip(-1, 1)).float()[None]


@grids
@pytest.mark.parametrize("diameter_mm", [4.0, 9.0, 17.0, 30.0])
def test_a_ball_comes_back_with_the_diameter_asked_for(name: str, diameter_mm: float) -> None:
    sample = ShapeRequestd("image", diameter_mm)(scan(name))
    assert sample["image"].shape == (2, 24, 24, 24)
    sample["pred"] = ball_in(sample)
    label = ShapeToScand("pred")(sample)["pred"]
    affine, shape = GRIDS[name]
    assert tuple(label.shape) == (1, *shape)
    assert label.dtype == torch.uint8
    assert np.allclose(label.affine, affine)
    assert label.unique().tolist() == [0, 1]
    back, middle = diameter_and_centre(label, affine)
    voxel = float(np.linalg.norm(affine[:3, :3], axis=0).max())
    assert diameter_mm - 0.8 * voxel < back < diameter_mm + 1e-4
    assert np.linalg.norm(middle - sample["control"]["centre_mm"].numpy()) < 0.5 * voxel


def test_a_prediction_that_misses_its_sphere_is_fitted_to_it() -> None:
    sample = ShapeRequestd("image", 16.0)(scan())
    sample["pred"] = ball_in(sample, 0.75).roll(2, dims=1)
    diameter, centre = diameter_and_centre(ShapeToScand("pred")(sample)["pred"], np.eye(4))
    assert diameter == pytest.approx(16, abs=0.8)
    assert abs(centre[0] - float(sample["control"]["centre_mm"][0])) < 0.5


def test_fitted_classes_stay_nested_and_a_cut_sphere_is_left_alone() -> None:
    organ = np.ones((40, 44, 48))
    sample = ShapeRequestd("image", 20.0, (20.0, 22.0, 24.0), channels=2)(
        scan() | {"boundary": mask_of(organ)}
    )
    outer, inner = ball_in(sample, 0.8).roll(1, dims=2), ball_in(sample, 0.5)
    sample["pred"] = torch.cat([outer, inner])
    label, whole = (
        ShapeToScand("pred")(sample | {"pred": pred})["pred"][0] for pred in (sample["pred"], outer)
    )
    assert torch.equal(label > 0, whole > 0)
    # scaled together: 0.5 of 0.8 of the radius
    assert (label == 2).sum() / (label > 0).sum() == pytest.approx((0.5 / 0.8) ** 3, rel=0.1)
    organ[:16] = 0  # cuts the sphere
    middle = sample["control"]["centre_mm"].tolist()
    cut = ShapeRequestd("image", 20.0, middle)(scan() | {"boundary": mask_of(organ)})
    cut["pred"] = outer
    diameter, _ = diameter_and_centre(ShapeToScand("pred")(cut)["pred"], np.eye(4))
    assert diameter < 0.9 * 20


def test_centre_is_the_point_the_click_the_deepest_voxel_or_the_middle() -> None:
    affine, shape = GRIDS["oblique"]
    boundary = np.zeros(shape, np.uint8)
    boundary[:11, 10:21, 10:21] = 1  # touches the border of the scan, which is no place to be deep
    organ = {"boundary": MetaTensor(torch.from_numpy(boundary)[None], affine=affine)}
    click = {"foreground": [[1, 1, 1], [4, 12, 13]]}

    def centre(data: dict, **arguments: object) -> np.ndarray:
        request = ShapeRequestd("image", 8.0, **arguments)
        return request(scan("oblique") | data)["control"]["centre_mm"].numpy()

    at = apply_affine(affine, (6, 13, 14))
    assert np.allclose(centre(organ | click, centre_mm=at.tolist()), at)
    # as the table of options in 3D Slicer sends it, text; empty where nobody typed
    assert np.allclose(centre(organ | click, centre_mm=", ".join(map(str, at))), at)
    assert np.allclose(centre(organ | click, centre_mm=""), centre(organ | click))
    assert np.allclose(centre(organ | click), apply_affine(affine, (4, 12, 13)))
    assert np.allclose(centre({"foreground": np.array([[4.0, 12, 13]])}), centre(organ | click))
    deepest = apply_affine(np.linalg.inv(affine), centre(organ | {"foreground": []}))
    # 5 voxels from each border, along the scan's third axis less: its voxels are longer
    assert np.abs(deepest - (5, 15, 15)).max() < 2.01
    assert deepest[0] == 5
    middle = np.array(shape) // 2
    assert np.allclose(centre({}), apply_affine(affine, middle))
    everywhere = {"boundary": MetaTensor(torch.ones(1, *shape), affine=affine)}
    deepest = apply_affine(np.linalg.inv(affine), centre(everywhere))
    assert np.abs(deepest - middle).max() < 12


def test_the_boundary_is_kept_and_one_is_left_where_there_was_none() -> None:
    organ = np.zeros((40, 44, 48))
    organ[:, :23] = 1
    request = ShapeRequestd("image", 14.0, (20.0, 22.0, 24.0))
    sample = request(scan() | {"boundary": mask_of(organ)})
    sample["pred"] = torch.ones(1, 24, 24, 24)
    label = ShapeToScand("pred")(sample)["pred"]
    assert label[0, :, 22].any()
    assert not label[0, :, 23:].any()
    free = request(scan())
    assert free["boundary"].all()
    assert free["image"][1].sum() > sample["image"][1].sum()


def test_loader_and_decollation_bring_each_scan_its_own_label() -> None:
    steps = [ShapeRequestd("image", 9.0), EnsureTyped("image")]
    data = [scan(name) for name in GRIDS]
    loader = DataLoader(Dataset(data, Compose(steps)), batch_size=1)
    for name, batch in zip(GRIDS, loader, strict=True):
        assert batch["image"].shape == (1, 2, 24, 24, 24)
        # as an evaluator has it: the prediction is a plain tensor of the batch
        batch["pred"] = MetaTensor(torch.ones(1, 1, 24, 24, 24))
        (sample,) = decollate_batch(batch)
        label = ShapeToScand("pred")(sample)["pred"]
        affine, shape = GRIDS[name]
        assert tuple(label.shape[1:]) == shape
        assert diameter_and_centre(label, affine)[0] == pytest.approx(9.0, abs=1.6)


def test_classes_lie_inside_each_other() -> None:
    request = ShapeRequestd("image", 20.0, channels=2)
    sample = request(scan())
    assert sample["image"].shape == (3, 24, 24, 24)
    outer, inner = ball_in(sample, 0.6), ball_in(sample, 0.9)
    inner[:, :12] = -1  # a half that leaves the outer class
    sample["pred"] = torch.cat([outer, inner])
    label = ShapeToScand("pred", labels=[3, 4])(sample)["pred"][0]
    assert label.unique().tolist() == [0, 3, 4]
    one = ShapeToScand("pred")(sample | {"pred": outer})["pred"][0]
    assert torch.equal(label > 0, one > 0)
    assert (label == 4).sum() == pytest.approx(int((label == 3).sum()), rel=0.25)


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ({}, {"diameter_mm": 0.0}, "diameter_mm must be > 0, got 0"),
        ({}, {"diameter_mm": 0.9}, r"diameter_mm must be at least 1\.00, the size of a voxel"),
        ({}, {"centre_mm": (1.0, 2.0)}, "centre_mm must be three numbers"),
        ({}, {"centre_mm": "20 left 3"}, "centre_mm must be three numbers"),
        ({}, {"centre_mm": (900.0, 2.0, 2.0)}, r"centre_mm must lie inside the scan, got \[900"),
        ({"foreground": [[41, 3, 3]]}, {}, "centre_mm must lie inside the scan"),
        ({"boundary": np.ones((3, 3, 3))}, {}, "boundary must have the shape of the scan"),
        ({"boundary": np.zeros((40, 44, 48))}, {}, "boundary must mark a place"),
        (
            {},
            {"diameter_mm": 1.2, "centre_mm": (20.5, 20.5, 20.5)},
            r"diameter_mm must leave room for a voxel .* got 1\.2 at \[20\.5",
        ),
    ],
)
def test_wrong_requests_are_named(data: dict, arguments: dict, message: str) -> None:
    data = {k: mask_of(v) if isinstance(v, np.ndarray) else v for k, v in data.items()}
    with pytest.raises(ValueError, match=message):
        ShapeRequestd(**{"keys": "image", "diameter_mm": 9.0, **arguments})(scan() | data)


def test_an_empty_prediction_is_an_error() -> None:
    sample = ShapeRequestd("image", 9.0)(scan())
    sample["pred"] = -torch.ones(1, 24, 24, 24)
    with pytest.raises(ValueError, match="pred must hold a lesion, got an empty prediction"):
        ShapeToScand("pred")(sample)
    assert not ShapeToScand("pred", allow_empty=True)(sample)["pred"].any()


def nodule(spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> MetaTensor:
    mask = torch.zeros(1, 20, 20, 20)
    mask[0, 4:9, 5:11, 6:8] = 1
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([-30.0, 12.0, 5.0])
    return MetaTensor(mask, affine=affine)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 2.5)])
def test_a_full_answer_is_the_sphere_on_the_grid(spacing: tuple[float, float, float]) -> None:
    sample = MaskRequestd("label", size=16)({"label": nodule(spacing), "spiculation": 4.0})
    assert set(sample["image"].unique().tolist()) == {-1.0}
    assert set(sample["label"].unique().tolist()) == {0.0, 1.0}
    sphere = enclosing_sphere(nodule(spacing)[0].numpy(), nodule(spacing).affine.numpy())
    assert sample["control"]["centre_mm"].tolist() == pytest.approx(sphere.centre_mm)
    answer = ShapeToScand("pred")(sample | {"pred": 2 * sample["label"] - 1})["pred"]
    assert torch.equal(answer.affine, nodule(spacing).affine)
    assert np.array_equal(answer.numpy(), sample["sphere_region"].numpy())
    assert bool((sample["sphere_region"] >= sample["target"]).all())
    assert torch.equal(sample["target"].float(), nodule(spacing))
    diameter = 2 * sphere.radius_mm + np.prod(spacing) ** (1 / 3)
    expected = attribute_condition(diameter, spiculation=4.0)
    assert sample["condition"].numpy() == pytest.approx(expected, abs=1e-4)


def test_a_single_voxel_is_a_request_and_an_empty_mask_none() -> None:
    mask = torch.zeros(1, 9, 9, 9)
    with pytest.raises(ValueError, match="mask must hold a lesion"):
        MaskRequestd("label")({"label": MetaTensor(mask)})
    mask[0, 4, 4, 4] = 1
    assert MaskRequestd("label", size=8)({"label": MetaTensor(mask)})["label"].any()


def ball(radius_mm: float, spacing: tuple[float, float, float]) -> dict:
    """A ball in the middle of a grid of 60 mm."""
    shape = [int(60 / s) for s in spacing]
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    mask = (x**2 + y**2 + z**2 <= radius_mm**2).astype(np.float32)
    return {"image": MetaTensor(mask[None], affine=torch.diag(torch.tensor([*spacing, 1.0])))}


def windows(sample: dict, band: float | None = None, **arguments: object) -> dict:
    steps = [ShapeWindowd("image", **arguments), ControlSphered("image", band)]
    return Compose(steps)(sample)


@pytest.mark.parametrize("radius_mm", [3.0, 6.0, 14.0])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_ball_fills_its_sphere_whatever_its_size(
    radius_mm: float, spacing: tuple[float, float, float]
) -> None:
    sample = windows(ball(radius_mm, spacing))
    inside, sphere = sample["image"] > 0, sample["label"] > 0
    assert sample["image"].shape == (1, 24, 24, 24)
    assert set(sample["image"].unique().tolist()) == {-1.0, 1.0}
    assert not (inside & ~sphere).any()
    # 0.8 of the window, and a voxel of margin round it
    assert sample["sphere_radius"] == pytest.approx(0.8 * 24 / 2)
    assert sphere.any((0, 2, 3)).sum().item() == pytest.approx(0.8 * 24 + 2, abs=1)
    within = (inside.sum() * 6 / np.pi) ** (1 / 3) / (2 * sample["sphere_radius"])
    # small balls of voxels are rough: their sphere holds more than they do
    assert (0.83 if radius_mm < 6 else 0.9) < within < 1.02


def test_fill_and_voxel_size_of_the_window_are_as_asked() -> None:
    half = windows(ball(6.0, (1.0,) * 3), size=30, fill=0.5)
    assert half["sphere_radius"] == pytest.approx(0.5 * 30 / 2)
    small, large = (windows(ball(r, (1.0,) * 3), size=32, spacing_mm=1.5) for r in (4.0, 9.0))
    assert small["image"].shape == (1, 32, 32, 32)
    for sample, radius in ((small, 4.5), (large, 9.5)):
        assert sample["sphere_radius"] == pytest.approx(radius / 1.5, abs=0.15)
    voxels = [int((sample["image"] > 0).sum()) for sample in (small, large)]
    assert voxels[1] / voxels[0] == pytest.approx((9 / 4) ** 3, rel=0.25)


def test_target_is_the_clipped_distance_to_the_outline() -> None:
    sample = windows(ball(10.0, (1.0,) * 3), band=3.0)
    target, region = sample["image"][0], sample["label"][0] > 0
    assert (target.min(), target.max()) == (-1, 1)
    assert (target[~region] == -1).all()
    hard = windows(ball(10.0, (1.0,) * 3))["image"][0]
    assert torch.equal(target > 0, hard > 0)
    # along an axis it falls by a third per voxel, up to the rim of the region
    line = target[:, 12, 12]
    steps = line.diff()[(line[1:].abs() < 0.9) & (line[:-1].abs() < 0.9) & (line[1:] > -0.3)]
    assert len(steps) >= 2
    assert torch.allclose(steps.abs(), torch.tensor(1 / 3), atol=0.1)


def test_condition_tells_the_size_and_the_scores() -> None:
    sample = ShapeWindowd("image")({**ball(6.0, (1.0, 1.0, 1.0)), "spiculation": 4.0})
    expected = attribute_condition(13.0, spiculation=4.0)
    assert np.abs(sample["condition"].numpy() - expected).max() < 0.15
    assert not sample["condition"][12:].any()


def test_the_smallest_lesion_survives() -> None:
    mask = np.zeros((1, 20, 20, 20), np.float32)
    mask[0, 10, 10, 10] = 1
    sample = windows({"image": MetaTensor(mask, affine=torch.eye(4))})
    # half a voxel of the scan, in voxels of a window that no lesion makes smaller than 3 mm
    assert sample["sphere_radius"] == pytest.approx(0.8 * 24 / 2)
    assert (sample["image"] > 0).sum() > 8


def test_the_place_of_the_lesion_does_not_matter() -> None:
    mask = np.zeros((1, 30, 30, 30), np.float32)
    mask[0, 2:9, 3:8, 1:6] = 1
    turned = np.array([[0, -1.0, 0, 5], [1, 0, 0, -9], [0, 0, 1, 40], [0, 0, 0, 1]])
    moved = np.roll(mask, (15, 11, 17), (1, 2, 3))
    first, second = (
        windows({"image": MetaTensor(m, affine=torch.from_numpy(turned))}, band=3.0)
        for m in (mask, moved)
    )
    assert torch.allclose(first["image"], second["image"], atol=1e-3)
    assert torch.equal(first["condition"], second["condition"])


def test_wrong_input_is_an_error() -> None:
    empty = MetaTensor(torch.zeros(1, 8, 8, 8), affine=torch.eye(4))
    with pytest.raises(ValueError, match="mask must hold a lesion"):
        ShapeWindowd("image")({"image": empty})
    with pytest.raises(ValueError, match=r"image must hold a lesion, got none above 0.5"):
        ControlSphered("image")({"image": empty, "sphere_radius": 3.0})
    with pytest.raises(ValueError, match="band must be > 0 voxels, got 0"):
        ControlSphered("image", band=0)


def test_boundaries_cut_the_sphere_and_spare_the_lesion() -> None:
    target = torch.full((1, 16, 16, 16), -0.5)
    target[0, 7:10, 7:10, 6:9] = 1
    sphere = torch.ones(1, 16, 16, 16)
    cut = RandBoundaryd("label", prob=1.0)
    cut.set_random_state(seed=0)
    kept = []
    for _ in range(8):
        sample = cut({"label": sphere, "image": target})
        part, cut_target = sample["label"], sample["image"]
        assert (part[target > 0] == 1).all()
        assert 0 < part.sum() < sphere.sum()
        assert torch.equal(cut_target[part > 0], target[part > 0])
        assert (cut_target[part == 0] == -1).all()
        kept.append(int(part.sum()))
    assert len(set(kept)) > 4
    # the sample that came in is as it was
    assert sphere.all()
    assert target.min() == -0.5


@pytest.mark.parametrize(("prob", "sign"), [(0.0, 1), (1.0, -1)])
def test_no_boundary_at_probability_zero_or_without_a_lesion(prob: float, sign: int) -> None:
    sphere = torch.ones(1, 4, 4, 4)
    sample = RandBoundaryd("label", prob)({"label": sphere, "image": sign * sphere})
    assert torch.equal(sample["label"], sphere)
