"""What a shape model is trained on: scale-free windows, true spheres, boundaries that spare."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from tools.transforms.shape_window import ControlSphered, RandBoundaryd, ShapeWindowd
from tools.transforms.sphere import attribute_condition


def ball(radius_mm: float, spacing: tuple[float, float, float]) -> dict:
    """A ball in the middle of a grid of 60 mm."""
    shape = [int(60 / s) for s in spacing]
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    mask = (x**2 + y**2 + z**2 <= radius_mm**2).astype(np.float32)
    return {"label": MetaTensor(mask[None], affine=torch.diag(torch.tensor([*spacing, 1.0])))}


def windows(sample: dict) -> dict:
    steps = [ShapeWindowd("label"), ControlSphered("label", "sphere")]
    return Compose(steps)(sample)


@pytest.mark.parametrize("radius_mm", [3.0, 6.0, 14.0])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 1.5)])
def test_a_ball_fills_its_sphere_whatever_its_size(
    radius_mm: float, spacing: tuple[float, float, float]
) -> None:
    sample = windows(ball(radius_mm, spacing))
    inside, sphere = sample["label"] > 0, sample["sphere"] > 0
    assert sample["label"].shape == (1, 32, 32, 32)
    assert set(sample["label"].unique().tolist()) == {-1.0, 1.0}
    assert not (inside & ~sphere).any()
    assert inside.sum() / sphere.sum() > 0.75
    assert sphere.any((0, 2, 3)).sum().item() == pytest.approx(24, abs=4)


def test_condition_tells_the_size_and_the_scores() -> None:
    sample = ShapeWindowd("label")({**ball(6.0, (1.0, 1.0, 1.0)), "spiculation": 4.0})
    expected = attribute_condition(13.0, spiculation=4.0)
    assert np.abs(sample["condition"].numpy() - expected).max() < 0.15
    assert not sample["condition"][12:].any()


def test_the_smallest_lesion_survives() -> None:
    mask = np.zeros((1, 20, 20, 20), np.float32)
    mask[0, 10, 10, 10] = 1
    sample = windows({"label": MetaTensor(mask, affine=torch.eye(4))})
    assert (sample["label"] > 0).sum() > 8


def test_empty_masks_are_an_error() -> None:
    empty = MetaTensor(torch.zeros(1, 8, 8, 8), affine=torch.eye(4))
    with pytest.raises(ValueError, match="mask must hold a lesion"):
        ShapeWindowd("label")({"label": empty})


def test_boundaries_cut_the_sphere_and_spare_the_lesion() -> None:
    target = torch.full((1, 16, 16, 16), -1.0)
    target[0, 7:10, 7:10, 6:9] = 1
    sphere = torch.ones(1, 16, 16, 16)
    cut = RandBoundaryd("label", prob=1.0)
    cut.set_random_state(seed=0)
    parts = [cut({"label": sphere, "image": target})["label"] for _ in range(8)]
    for part in parts:
        assert (part[target > 0] == 1).all()
        assert 0 < part.sum() < sphere.sum()
    assert len({int(part.sum()) for part in parts}) > 4


def test_no_boundary_at_probability_zero() -> None:
    sphere = torch.ones(1, 4, 4, 4)
    sample = RandBoundaryd("label", prob=0.0)({"label": sphere, "image": sphere})
    assert torch.equal(sample["label"], sphere)
