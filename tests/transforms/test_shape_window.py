"""What a shape model is trained on: scale-free windows, true spheres, boundaries that spare."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from tools.transforms.shape_grid import half_voxel_mm
from tools.transforms.shape_window import ControlSphered, RandBoundaryd, ShapeWindowd
from tools.transforms.sphere import attribute_condition

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.7, 1.5)]


def ball(radius_mm: float, spacing: tuple[float, float, float]) -> dict:
    """A ball in the middle of a grid of 60 mm."""
    shape = [int(60 / s) for s in spacing]
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    mask = (x**2 + y**2 + z**2 <= radius_mm**2).astype(np.float32)
    return {"label": MetaTensor(mask[None], affine=torch.diag(torch.tensor([*spacing, 1.0])))}


def windows(sample: dict, band: float | None = None, **arguments: object) -> dict:
    steps = [ShapeWindowd("label", **arguments), ControlSphered("label", "sphere", band)]
    return Compose(steps)(sample)


@pytest.mark.parametrize("radius_mm", [3.0, 6.0, 14.0])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_ball_fills_its_sphere_whatever_its_size(
    radius_mm: float, spacing: tuple[float, float, float]
) -> None:
    sample = windows(ball(radius_mm, spacing))
    inside, sphere = sample["label"] > 0, sample["sphere"] > 0
    assert sample["label"].shape == (1, 24, 24, 24)
    assert set(sample["label"].unique().tolist()) == {-1.0, 1.0}
    assert not (inside & ~sphere).any()
    # 0.8 of the window, and a voxel of margin round it
    assert sample["sphere_radius"] == pytest.approx(0.8 * 24 / 2)
    assert sphere.any((0, 2, 3)).sum().item() == pytest.approx(0.8 * 24 + 2, abs=1)
    within = (inside.sum() * 6 / np.pi) ** (1 / 3) / (2 * sample["sphere_radius"])
    # small balls of voxels are rough: their sphere holds more than they do
    assert (0.83 if radius_mm < 6 else 0.9) < within < 1.02


def test_voxel_size_of_the_window_can_be_fixed() -> None:
    small, large = (windows(ball(r, (1.0,) * 3), size=32, spacing_mm=1.5) for r in (4.0, 9.0))
    assert small["label"].shape == (1, 32, 32, 32)
    for sample, radius in ((small, 4.5), (large, 9.5)):
        assert sample["sphere_radius"] == pytest.approx(radius / 1.5, abs=0.15)
    voxels = [int((sample["label"] > 0).sum()) for sample in (small, large)]
    assert voxels[1] / voxels[0] == pytest.approx((9 / 4) ** 3, rel=0.25)


def test_the_fill_is_as_asked() -> None:
    sample = windows(ball(6.0, (1.0,) * 3), size=30, fill=0.5)
    assert sample["sphere_radius"] == pytest.approx(0.5 * 30 / 2)


def test_target_is_the_clipped_distance_to_the_outline() -> None:
    sample = windows(ball(10.0, (1.0,) * 3), band=3.0)
    target, region = sample["label"][0], sample["sphere"][0] > 0
    assert (target.min(), target.max()) == (-1, 1)
    assert (target[~region] == -1).all()
    hard = windows(ball(10.0, (1.0,) * 3))["label"][0]
    assert torch.equal(target > 0, hard > 0)
    # along an axis it falls by a third per voxel, up to the rim of the region
    line = target[:, 12, 12]
    steps = line.diff()[(line[1:].abs() < 0.9) & (line[:-1].abs() < 0.9) & (line[1:] > -0.3)]
    assert len(steps) >= 2
    assert torch.allclose(steps.abs(), torch.tensor(1 / 3), atol=0.1)


def test_condition_tells_the_size_and_the_scores() -> None:
    sample = ShapeWindowd("label")({**ball(6.0, (1.0, 1.0, 1.0)), "spiculation": 4.0})
    expected = attribute_condition(13.0, spiculation=4.0)
    assert np.abs(sample["condition"].numpy() - expected).max() < 0.15
    assert not sample["condition"][12:].any()


def test_the_smallest_lesion_survives() -> None:
    mask = np.zeros((1, 20, 20, 20), np.float32)
    mask[0, 10, 10, 10] = 1
    sample = windows({"label": MetaTensor(mask, affine=torch.eye(4))})
    # half a voxel of the scan, in voxels of a window that no lesion makes smaller than 3 mm
    assert sample["sphere_radius"] == pytest.approx(0.8 * 24 / 2)
    assert (sample["label"] > 0).sum() > 8
    assert half_voxel_mm(np.eye(4)) == 0.5


def test_the_place_of_the_lesion_does_not_matter() -> None:
    mask = np.zeros((1, 30, 30, 30), np.float32)
    mask[0, 2:9, 3:8, 1:6] = 1
    turned = np.array([[0, -1.0, 0, 5], [1, 0, 0, -9], [0, 0, 1, 40], [0, 0, 0, 1]])
    moved = np.roll(mask, (15, 11, 17), (1, 2, 3))
    first, second = (
        windows({"label": MetaTensor(m, affine=torch.from_numpy(turned))}, band=3.0)
        for m in (mask, moved)
    )
    assert torch.allclose(first["label"], second["label"], atol=1e-3)
    assert torch.equal(first["condition"], second["condition"])


def test_wrong_input_is_an_error() -> None:
    empty = MetaTensor(torch.zeros(1, 8, 8, 8), affine=torch.eye(4))
    with pytest.raises(ValueError, match="mask must hold a lesion"):
        ShapeWindowd("label")({"label": empty})
    with pytest.raises(ValueError, match=r"label must hold a lesion, got none above 0.5"):
        ControlSphered("label")({"label": empty, "sphere_radius": 3.0})
    with pytest.raises(ValueError, match="band must be > 0 voxels, got 0"):
        ControlSphered("label", band=0)


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


def test_no_boundary_at_probability_zero_or_without_a_lesion() -> None:
    sphere = torch.ones(1, 4, 4, 4)
    sample = RandBoundaryd("label", prob=0.0)({"label": sphere, "image": sphere})
    assert torch.equal(sample["label"], sphere)
    sample = RandBoundaryd("label", prob=1.0)({"label": sphere, "image": -sphere})
    assert torch.equal(sample["label"], sphere)
