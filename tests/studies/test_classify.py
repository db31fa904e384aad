"""Classifiers find what is there to find, and nothing in identical sets."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tools.studies import classify
from tools.studies.classify import (
    Discriminator,
    SubtypeClassifier,
    forest_test,
    lesion_features,
    network_test,
    patient_folds,
)
from tools.studies.statistics import mean_and_error, standard_error

PATIENTS = [f"patient{i // 2}" for i in range(20)]


def crops(seed: int = 0, mean: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((20, 1, 8, 8, 8), generator=generator) * 0.1 + mean


def rows(seed: int = 0, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.1, (20, 3))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "TREES", 20)
    monkeypatch.setattr(classify, "FOLDS", 2)


@pytest.mark.parametrize(("test", "make"), [(network_test, crops), (forest_test, rows)])
def test_sets_are_told_apart_if_they_differ(test: object, make: object) -> None:
    # enough steps for the running means of batch normalisation to arrive
    result = test(make(), make(mean=0.5), PATIENTS)
    assert result["accuracy"]["mean"] > 0.9
    assert result["auc"]["mean"] > 0.9
    assert len(result["accuracy"]["folds"]) == 2
    assert result["pairs"] == 20
    same = test(make(), make(), PATIENTS)
    assert same["accuracy"] == {"mean": 0.5, "sd": 0.0, "folds": [0.5, 0.5]}
    assert same["auc"]["mean"] == 0.5
    with pytest.raises(ValueError, match="must match real"):
        test(make(), make()[:10], PATIENTS)
    assert test(make(), make(), ["one"] * 20) == {}


def test_seed_decides_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = (network_test(crops(), crops(1, 0.05), PATIENTS, epochs=1) for _ in range(2))
    assert first == second
    assert torch.equal(torch.rand(1), expected)


def test_patients_stay_whole_and_folds_even() -> None:
    patients = ["a"] * 5 + ["b", "b", "c", "d", "e", "f", "f"] + [f"p{i}" for i in range(8)]
    fold_of = patient_folds(patients, folds=4)
    assert all(len({fold_of[i] for i, p in enumerate(patients) if p == q}) == 1 for q in patients)
    # 20 lesions in 4 folds, the largest patient has 5
    assert np.bincount(fold_of).tolist() == [5, 5, 5, 5]


def test_discriminator_is_small_and_gives_one_logit() -> None:
    network = Discriminator()
    assert 10_000 < sum(p.numel() for p in network.parameters()) < 100_000
    assert network(torch.zeros(2, 1, 24, 24, 24)).shape == (2, 1)


def lesion(subtype: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, subtype])
    image = rng.normal(-850, 40, (16, 16, 16)).astype(np.float32)
    mask = np.zeros(image.shape, bool)
    mask[5:11, 5:11, 5:11] = True
    image[mask] = rng.normal((0.0, -300.0, -650.0)[subtype], 40, mask.sum())
    return image, mask


def test_clear_subtypes_are_known_and_wrong_ones_noticed() -> None:
    numbers = [0, 1, 2] * 8
    made = [lesion(number, seed) for seed, number in enumerate(numbers)]
    images, masks = ([pair[k] for pair in made] for k in (0, 1))
    classifier = SubtypeClassifier(images[:15], masks[:15], numbers[:15])
    right = classifier.measure(images[15:], masks[15:], numbers[15:])
    assert right["balanced_accuracy"] == 1
    assert right["chance"] == pytest.approx(1 / 3)
    assert right["named"]["solid"] == "3 of 3"
    wrong = classifier.measure(images[15:], masks[15:], [(n + 1) % 3 for n in numbers[15:]])
    assert wrong["balanced_accuracy"] == 0
    with pytest.raises(ValueError, match="got an empty mask"):
        lesion_features(images[0], np.zeros_like(masks[0]))


def test_standard_error_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=400)
    found = mean_and_error(values.tolist(), seed=1)
    assert found["error"] == pytest.approx(values.std() / 20, rel=0.2)
    both = standard_error(400, lambda chosen: values[chosen].mean() * np.array([1, 2]), 1)
    assert both == pytest.approx([found["error"], 2 * found["error"]])
    assert mean_and_error([3.0], 0) == {"mean": 3.0, "error": 0.0, "n": 1}
    assert mean_and_error([], 0)["n"] == 0
