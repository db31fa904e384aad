"""Catalogues of subtypes: read, checked, refused in one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.synthesis.jobs import row
from tools.synthesis.catalogue import read_subtypes

BINS = 40


SMALL, LARGE = row(20), row(30)


def good() -> dict:
    entry = {"number": 0, "frequency": 1.0, "diameters_mm": [5.0, 9.0]}
    return {
        "bins": BINS,
        "subtypes": {"solid": entry | {"histograms": [SMALL, LARGE], "medoid": SMALL}},
    }


def test_rows_are_normalised(tmp_path: Path) -> None:
    content = good()
    content["subtypes"]["solid"]["histograms"][0] = [2.0] * BINS
    (tmp_path / "s.json").write_text(json.dumps(content))
    (solid,) = read_subtypes(tmp_path / "s.json").values()
    assert solid.histograms.sum(1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"histograms": [SMALL]}, "diameters_mm of 'solid' in .* must be one number above 0"),
        ({"diameters_mm": [5.0, 0.0]}, "diameters_mm of 'solid' in .* must be one number above 0"),
        ({"histograms": [[1.0], [1.0]], "medoid": [1.0]}, "must be rows of 40 non-negative"),
        ({"histograms": [SMALL, [0.0] * BINS]}, "must be rows of 40 non-negative numbers, not all"),
        ({"frequency": -1.0}, "frequency and number of 'solid' in .* must be at least 0"),
        ({"frequency": 0.0}, "must hold a subtype with a frequency above 0"),
    ],
)
def test_files_that_break_a_rule_are_named(tmp_path: Path, change: dict, message: str) -> None:
    content = good()
    content["subtypes"]["solid"] |= change
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_subtypes(tmp_path / "s.json")


def test_missing_files_and_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="subtypes must be an existing JSON file, got"):
        read_subtypes(tmp_path / "none.json")
    content = good()
    del content["subtypes"]["solid"]["medoid"]
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"must have every key, got no \['medoid'\]"):
        read_subtypes(tmp_path / "s.json")


def test_the_bundles_library_reads(repository: Path) -> None:
    found = read_subtypes(repository / "bundles" / "hr_ldm" / "configs" / "subtypes.json")
    assert {name: subtype.number for name, subtype in found.items()} == {
        "solid": 0,
        "part_solid": 1,
        "ground_glass": 2,
    }
    assert sum(subtype.frequency for subtype in found.values()) == pytest.approx(1, abs=1e-4)
    middles = -1000 + 35 * (np.arange(BINS) + 0.5)
    means = [subtype.histograms.mean(0) @ middles for subtype in found.values()]
    assert means[0] > means[1] > means[2]
