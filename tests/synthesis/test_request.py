"""What is asked of a synthesizer is checked when it is made, for every organ alike."""

from typing import Any

import pytest
import torch

from tools.organs import Organ, load_organ
from tools.organs.sources import make_organ_source
from tools.shapes import EllipsoidShapes
from tools.synthesis.records import BundleRecord
from tools.synthesis.synthesizer import Synthesizer
from tools.synthesis.texturers import NoTexture
from tools.synthesis.textures import Textures

ORGANS = [load_organ(name) for name in ("lung", "heart")]


class Nothing(NoTexture):
    """Leaves scans as they are."""

    def __init__(self) -> None:
        self.record, self.device = BundleRecord("nothing", "0"), torch.device("cpu")
        self.presets = {"none": {"histogram": [1 / 16] * 16, "weight": 1.0}}


def make(organ: Organ, **options: Any) -> Synthesizer:
    options.setdefault("diameter_mm", 40.0)
    options.setdefault("placement", organ.placements[0])
    texturer = Nothing()
    textures = Textures("none", texturer.presets, organ)
    source = make_organ_source(organ, "recipe")
    return Synthesizer(organ, texturer, EllipsoidShapes(), textures, source, **options)


@pytest.mark.parametrize("organ", ORGANS, ids=lambda organ: organ.name)
def test_numbers_may_be_words_and_one_number_is_a_range(organ: Organ) -> None:
    job = make(organ, diameter_mm="30,40", site="1,-2.5,3", inner_share=0.2)
    assert (job.diameter_mm, job.site) == ((30.0, 40.0), (1.0, -2.5, 3.0))
    assert job.inner_share == (0.2, 0.2)
    assert job.count == organ.usual_count
    assert make(organ, diameter_mm="40").diameter_mm == (40.0, 40.0)


@pytest.mark.parametrize("organ", ORGANS, ids=lambda organ: organ.name)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"diameter_mm": (50.0, 40.0)}, "diameter_mm must be two numbers from .* smallest first"),
        ({"diameter_mm": (0.0, 40.0)}, "diameter_mm must be two numbers from"),
        ({"diameter_mm": (40.0, float("nan"))}, "diameter_mm must be two numbers from"),
        ({"diameter_mm": (1.0, 2.0, 3.0)}, "diameter_mm must be one number or two with a comma"),
        ({"diameter_mm": "large"}, "diameter_mm must be a number, got 'large'"),
        ({"sizes": [(1.0, 30.0, 900.0)]}, r"diameter_mm must be .* got \(30.0, 900.0\)"),
        ({"inner_share": (0.2, 1.2)}, r"inner_share \(no_reflow_share\) must be .* from 0 to 1"),
        ({"inner_share": (0.3, 0.2)}, "inner_share"),
        ({"site": (1.0, 2.0)}, r"site must be 3 numbers with commas between, got \(1.0, 2.0\)"),
        ({"site": (1.0, 2.0, "x")}, "site must be a number, got 'x'"),
        ({"site": (1.0, 2.0, float("inf"))}, "site must be finite"),
        ({"count": 0}, "count must be a whole number of at least 1, got 0"),
        ({"count": True}, "count must be a whole number"),
        ({"placement": "outside"}, "placement must be one of .* got 'outside'"),
        ({"erosion_mm": 0}, "erosion_mm must be above 0 and at most 100, got 0"),
        ({"if_impossible": "perhaps"}, "if_impossible must be one of error, fewer, skip, got"),
    ],
)
def test_wrong_requests_are_named(organ: Organ, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(organ, **arguments)


def test_an_organ_has_room_for_so_many() -> None:
    lung, heart = ORGANS
    assert make(lung, count=7).count == 7
    with pytest.raises(ValueError, match="count must be 1 in a heart, got 2"):
        make(heart, count=2)
