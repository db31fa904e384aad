"""Lesions inside a training loop: what is refused, and what is left as it is."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.synthesis.on_the_fly.sample import sample, transform
from tools.synthesis.on_the_fly import SynthesizeLesiond
from tools.synthesis.sizes import draw_range, size_mix


@pytest.fixture(scope="module")
def synthesize() -> SynthesizeLesiond:
    return transform()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"keys": ["image", "other"]}, "keys must be one image"),
        ({"prob": 1.5}, "prob must be from 0 to 1, got 1.5"),
        ({"count": 0}, "count must be one or two whole numbers"),
        ({"count": (3, 1)}, "count must be one or two whole numbers"),
        ({"diameter_mm": [(4, 8), (8, 90)]}, "diameter_mm must be two numbers from 2 to 60"),
        ({"size_weights": [1, 2]}, "size_weights one number for each"),
        ({"diameter_mm": [(4, 8), (8, 9)], "size_weights": [0, 0]}, "size_weights must be 0 or"),
        ({"diameter_mm": []}, "diameter_mm must be pairs of numbers"),
        ({"diameter_mm": [(4, 8), 8]}, "diameter_mm must be pairs of numbers"),
        ({"diameter_mm": (4, 8), "size_weights": "1"}, "size_weights one number for each"),
        ({"diameter_mm": (4, 8), "size_weights": [float("nan")]}, "size_weights must be 0 or"),
        ({"lesion_value": 300}, "lesion_value must be a whole number from 1 to 255, got 300"),
        ({"lesion_value": 0}, "lesion_value must be a whole number from 1 to 255, got 0"),
        ({"placement": "anywhere"}, "placement must be one of"),
        ({"texture": "granite"}, "texture must be one of"),
        ({"if_impossible": "cry"}, "if_impossible must be skip or raise"),
        (
            {"bundle": "lefusion_emidec", "shape": "diffmask", "count": 2},
            "count must be 1 in a heart, got 2",
        ),
    ],
)
def test_arguments_are_checked_when_it_is_made(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        transform(**options)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: x.as_tensor(), "image must be a MetaTensor"),
        (lambda x: (x + 1000) / 1400, "image must be in HU, before intensities are scaled"),
        (lambda x: x.repeat(2, 1, 1, 1), "image must have shape \\(1, H, W, D\\)"),
    ],
)
def test_samples_that_cannot_be_right(
    synthesize: SynthesizeLesiond, change: Any, sentence: str
) -> None:
    given = sample()
    with pytest.raises(ValueError, match=sentence):
        synthesize({**given, "image": change(given["image"])})


def test_label_of_another_shape(synthesize: SynthesizeLesiond) -> None:
    with pytest.raises(ValueError, match="label must have one channel of the image's shape"):
        synthesize(sample(label=torch.zeros(1, 4, 4, 4)))


def test_organ_mask_must_be_there_and_fit(synthesize: SynthesizeLesiond) -> None:
    with pytest.raises(ValueError, match="lung must be in every sample, got keys"):
        synthesize({"image": sample()["image"]})
    with pytest.raises(ValueError, match="lung must have one channel of the image's shape"):
        synthesize({**sample(), "lung": torch.ones(1, 4, 4, 4)})


def test_masks_may_be_arrays(synthesize: SynthesizeLesiond) -> None:
    given = sample()
    label = np.zeros(given["image"].shape, np.uint8)
    made = synthesize({**given, "label": label, "lung": given["lung"].numpy()})
    assert made["label"].any()
    assert not label.any()


def test_no_room(caplog: pytest.LogCaptureFixture) -> None:
    given = sample()
    crowded = {**given, "lung": given["lung"] * 0}
    one = transform()
    for _ in range(9):
        made = one(crowded)
        assert torch.equal(made["image"], given["image"])
    assert len([line for line in caplog.messages if "without synthetic lesions" in line]) == 1
    with pytest.raises(ValueError, match="got none among the first 10"):
        one(crowded)
    lucky = transform()
    lucky(given)
    for _ in range(12):
        lucky(crowded)
    assert (lucky.made, lucky.skipped) == (1, 12)
    with pytest.raises(ValueError, match="organ_mask must mark at least one voxel"):
        transform(if_impossible="raise")(crowded)


@pytest.mark.parametrize("value", [-1024.0, 0.0])
def test_a_crop_of_padding_alone_does_not_end_the_training(value: float) -> None:
    given = sample()
    padding = {**given, "image": given["image"] * 0 + value, "lung": given["lung"] * 0}
    assert torch.equal(transform()(padding)["image"], padding["image"])


def test_missing_image() -> None:
    with pytest.raises(KeyError):
        transform()({"lung": 1})
    assert transform(allow_missing_keys=True)({"lung": 1}) == {"lung": 1}


def test_size_mix_is_drawn_by_weight() -> None:
    mix, rng = size_mix([(4, 8), (10, 20)], [3, 1]), np.random.default_rng(0)
    assert mix is not None
    drawn = np.array([rng.uniform(*draw_range(mix, rng)) for _ in range(3000)])
    small, large = drawn[drawn <= 8], drawn[drawn >= 10]
    assert len(small) + len(large) == 3000
    assert 0.71 < len(small) / 3000 < 0.79
    assert 5.8 < small.mean() < 6.2
    assert 14.5 < large.mean() < 15.5
