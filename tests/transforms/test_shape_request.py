"""From a request to a window and back: the diameter asked for, on any grid, through a loader."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, EnsureTyped
from nibabel.affines import apply_affine

from tools.transforms.shape_grid import half_voxel_mm
from tools.transforms.shape_request import LoadMaskd, ShapeRequestd, ShapeToScand
from tools.transforms.sphere import enclosing_sphere

GRIDS = {
    "1mm": (np.eye(4), (40, 44, 48)),
    "thick": (np.diag([-0.7, -0.7, 2.5, 1.0]), (60, 62, 20)),
    "oblique": (
        np.array([[0.8, 0.2, 0, -9], [-0.2, 0.8, 0.3, 5], [0, -0.3, 1.2, 70], [0, 0, 0, 1.0]]),
        (52, 54, 36),
    ),
}
grids = pytest.mark.parametrize("name", GRIDS)


def scan(name: str = "1mm") -> dict:
    affine, shape = GRIDS[name]
    return {"image": MetaTensor(torch.zeros(1, *shape), affine=torch.from_numpy(affine))}


def mask_of(values: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(values.astype(np.uint8))[None], affine=torch.eye(4))


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
    found = enclosing_sphere(np.asarray(label[0]), affine)
    back = 2 * (found.radius_mm + half_voxel_mm(affine))
    voxel = float(np.linalg.norm(affine[:3, :3], axis=0).max())
    assert diameter_mm - 0.8 * voxel < back < diameter_mm + 1e-4
    centre = sample["control"]["centre_mm"].numpy()
    assert np.linalg.norm(np.subtract(found.centre_mm, centre)) < 0.5 * voxel


def test_a_prediction_that_misses_its_sphere_is_fitted_to_it() -> None:
    sample = ShapeRequestd("image", 16.0)(scan())
    sample["pred"] = ball_in(sample, 0.75).roll(2, dims=1)
    diameters, centres = [], []
    for fit in (True, False):
        label = ShapeToScand("pred", fit=fit)(sample)["pred"]
        found = enclosing_sphere(np.asarray(label[0]), np.eye(4))
        diameters.append(2 * found.radius_mm + 1)
        centres.append(found.centre_mm[0] - float(sample["control"]["centre_mm"][0]))
    assert diameters[0] == pytest.approx(16, abs=0.8)
    assert diameters[1] < 14
    assert abs(centres[0]) < 0.5 < abs(centres[1])


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
    fitted, plain = (ShapeToScand("pred", fit=fit)(cut)["pred"] for fit in (True, False))
    assert torch.equal(fitted, plain)
    assert plain.sum() < whole.sum()


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
    everywhere = MetaTensor(torch.ones(1, *shape), affine=affine)
    assert (
        np.abs(apply_affine(np.linalg.inv(affine), centre({"boundary": everywhere})) - middle).max()
        < 12
    )


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
        found = enclosing_sphere(np.asarray(label[0]), affine)
        assert 2 * (found.radius_mm + half_voxel_mm(affine)) == pytest.approx(9.0, abs=1.6)


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


def test_a_mask_is_loaded_where_there_is_one(tmp_path: Path) -> None:
    affine = np.diag([0.7, 0.7, 1.25, 1.0])
    path = tmp_path / "lung.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.uint8), affine), path)
    load = LoadMaskd("boundary")
    for given in (path, str(path)):
        mask = load({"boundary": given})["boundary"]
        assert tuple(mask.shape) == (1, 4, 5, 6)
        assert np.allclose(mask.affine, affine)
        assert load({"boundary": mask})["boundary"] is mask
    assert load({"image": 1}) == {"image": 1}
    assert load({"boundary": None}) == {"boundary": None}
