"""What was missed, as requests: sizes, textures, places."""

from typing import Any

import numpy as np
import pytest

from tools.studies.downstream.cases import Case
from tools.studies.downstream.misses import Lesion, observed, requests, word_means

LEVELS = {"ground_glass": -620.0, "part_solid": -300.0, "solid": -100.0}
MEANS = {word: lambda mm, level=level: level for word, level in LEVELS.items()}


def test_lesions_get_the_mean_of_what_lies_in_them() -> None:
    image = np.full((20, 20, 20), -850.0)
    label = np.zeros(image.shape, np.uint8)
    for low, value in ((2, -600.0), (12, 30.0)):
        box = (slice(low, low + 4),) * 3
        image[box], label[box] = value, 1
    known = np.ones(image.shape, bool)
    case = Case("a", "p", image, label, np.eye(4), known)
    row: dict[str, Any] = {"name": "a", "classes": {"nodule": {"lesions": [[5.0, 0], [5.1, 1]]}}}
    found = observed([case], [row], {"nodule": 1})
    assert found == [Lesion("a", 5.0, -600.0, 0), Lesion("a", 5.1, 30.0, 1)]
    # what was not scanned is no lesion: there is one less than the row says
    known[12:] = False
    with pytest.raises(ValueError, match="zip"):
        observed([case], [row], {"nodule": 1})


def test_each_texture_has_the_sizes_of_its_own_lesions() -> None:
    shown = [Lesion("a", 5.0, -640.0, False), Lesion("a", 12.0, -500.0, False)]
    shown += [Lesion("b", 9.0, 20.0, True), Lesion("c", 45.0, 20.0, False)]
    asked = requests(shown, MEANS)
    assert {word: part["missed"] for word, part in asked["textures"].items()} == {
        "ground_glass": 2,
        "solid": 0,
    }
    mixes = {
        word: [(each["size_mm"], each["weight"]) for each in part["sizes"]]
        for word, part in asked["textures"].items()
    }
    assert len(mixes["ground_glass"]) == 2
    assert [weight for _, weight in mixes["solid"]] == [1.0]
    # too large to be drawn, but its surroundings may serve
    assert asked["places"] == {"a": 2, "c": 1}
    assert requests(shown, {})["textures"] == {}
    with pytest.raises(ValueError, match="datalist must hold lesions of up to"):
        requests(shown[3:], MEANS)


def test_words_are_those_of_bundles_with_units_and_textures() -> None:
    found = word_means({"bundle": "lefusion_lidc", "options": {"texture": "mixed"}})
    for mm in (5.0, 20.0):
        assert found["ground_glass"](mm) < found["part_solid"](mm) < found["solid"](mm) < 0
    # a small one is all rim
    assert found["solid"](5.0) < found["solid"](20.0) - 50
    assert word_means({"bundle": "lefusion_lidc", "options": {"texture": "solid"}}) == {}
    assert word_means({"bundle": "lefusion_emidec"}) == {}  # no units
    assert word_means({"bundle": "difftumor"}) == {}  # no textures
