"""The discriminator finds what is there to find, and nothing in identical sets."""

import pytest
import torch
from torch import Tensor

from tools.evaluation.discriminator import (
    Discriminator,
    constant_fill,
    discriminate,
    lesion_crops,
    patient_folds,
)
from tools.evaluation.lesions import ValidationLesion

PATIENTS = [f"patient{i // 2}" for i in range(20)]


def crops(seed: int = 0, mean: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((20, 1, 8, 8, 8), generator=generator) * 0.1 + mean


def lesion(size: int = 24) -> ValidationLesion:
    image = torch.linspace(-1, 1, size**3).view(1, size, size, size)
    mask = torch.zeros_like(image)
    mask[:, 2:6, 10:14, 10:14] = 1
    return ValidationLesion("case", "patient", image, mask, torch.full((16,), 1 / 16))


def test_obviously_different_sets_are_told_apart() -> None:
    # enough steps for the running means of batch normalisation to arrive
    result = discriminate(crops(), crops(mean=0.5), PATIENTS, folds=2, epochs=25)
    assert result["accuracy"]["mean"] > 0.9
    assert result["auc"]["mean"] > 0.9
    assert len(result["accuracy"]["folds"]) == 2
    assert result["pairs"] == 20


def test_identical_sets_give_one_half_exactly() -> None:
    result = discriminate(crops(), crops(), PATIENTS, folds=2, epochs=1)
    assert result["accuracy"] == {"mean": 0.5, "sd": 0.0, "folds": [0.5, 0.5]}
    assert result["auc"]["mean"] == 0.5


def test_seed_decides_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = (
        discriminate(crops(), crops(1, 0.05), PATIENTS, folds=2, epochs=1) for _ in range(2)
    )
    assert first == second
    assert torch.equal(torch.rand(1), expected)


def test_sets_must_match() -> None:
    with pytest.raises(ValueError, match="must match real"):
        discriminate(crops(), crops()[:10], PATIENTS)


def test_patients_stay_whole_and_folds_even() -> None:
    patients = ["a"] * 5 + ["b", "b", "c", "d", "e", "f", "f"] + [f"p{i}" for i in range(8)]
    fold_of = patient_folds(patients, folds=4)
    assert all(len({fold_of[i] for i, p in enumerate(patients) if p == q}) == 1 for q in patients)
    # 20 lesions in 4 folds, the largest patient has 5
    assert [fold_of.count(fold) for fold in range(4)] == [5, 5, 5, 5]


def test_more_folds_than_patients_are_refused() -> None:
    with pytest.raises(ValueError, match=r"folds must be in 2\.\.2"):
        patient_folds(["a", "b"], folds=5)


def test_constant_fill_is_flat_inside_and_untouched_outside() -> None:
    source = lesion()
    filled = constant_fill(source)
    inside = source.lesion_mask > 0
    assert filled[inside].unique().numel() == 1
    assert float(filled[inside][0]) == pytest.approx(float(source.image[inside].mean()), abs=1e-6)
    assert torch.equal(filled[~inside], source.image[~inside])


def test_crop_is_about_the_lesion_and_inside_the_window() -> None:
    source = lesion()
    cut = lesion_crops([source, source], size=16)
    assert cut.shape == (2, 1, 16, 16, 16)
    # the centre (4, 12, 12) is nearer to the border than 8 voxels along the first axis
    part = source.image[:, 0:16, 4:20, 4:20]
    assert float((cut[0] - part).abs().max()) <= 0.5 / 700 + 1e-6  # rounded to whole HU
    hu = cut * 700
    assert torch.allclose(hu, hu.round(), atol=1e-3)
    assert torch.equal(lesion_crops([source], [source.image], size=16), cut[:1])


def test_discriminator_is_small_and_gives_one_logit() -> None:
    network = Discriminator()
    assert 10_000 < sum(p.numel() for p in network.parameters()) < 100_000
    assert network(torch.zeros(2, 1, 24, 24, 24)).shape == (2, 1)
