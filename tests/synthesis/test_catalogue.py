"""Catalogues of subtypes: read, checked, refused in one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.synthesis.jobs import row
from tools.synthesis.catalogue import Subtype, lesion_rim, read_subtypes

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
        ({"rims": [SMALL], "rim_shares": [0.5, 0.5]}, "rims and rim_shares of 'solid' in .* must"),
        ({"rims": [SMALL, LARGE]}, "rims and rim_shares of 'solid' in .* must be a histogram"),
        ({"rims": [SMALL, LARGE], "rim_shares": [0.5, 1.0]}, "must be from 0 to below 1, got"),
        ({"solid_bin": 40}, "solid_bin of 'solid' in .* must be a bin from 1 to 39, got 40"),
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


@pytest.mark.parametrize(
    ("spacing", "rim"),
    [
        # 6 voxels along each axis: what is left of them is inside
        ((1.0, 1.0, 1.0), 216 - 4**3),
        ((0.5, 0.5, 0.5), 216 - 2**3),  # two voxels deep
        ((0.7, 0.7, 2.5), 216 - 4**3),  # one, where voxels are larger than 1 mm
    ],
)
def test_the_rim_is_one_millimetre_or_one_voxel(spacing: tuple, rim: int) -> None:
    mask = np.zeros((8, 8, 6), bool)
    mask[1:7, 1:7] = True
    assert lesion_rim(mask, np.diag([*spacing, 1])).sum() == rim
    assert not lesion_rim(np.zeros((3, 3, 3), bool), np.eye(4)).any()


def test_core_and_rim_are_mixed_as_the_lesion_to_make_has_them() -> None:
    """The library's lesion has a quarter of rim, in bin 0; its core is in bin 3."""
    rows, rims = np.array([[0.25, 0, 0, 0.75]]), np.array([[1.0, 0, 0, 0]])
    known = Subtype(0, 1.0, np.array([9.0]), rows, [0.25, 0, 0, 0.75], rims, np.array([0.25]))
    for share in (0.0, 0.6, 1.0):
        drawn = known.draw(9.0, np.random.default_rng(0), share)
        assert drawn == pytest.approx([share, 0, 0, 1 - share])
    assert known.draw(9.0, np.random.default_rng(0)) == pytest.approx([0.25, 0, 0, 0.75])


@pytest.mark.parametrize("bundle", ["hr_ldm", "lefusion_lidc"])
def test_a_seed_gives_words_in_their_order(repository: Path, bundle: str) -> None:
    """Solid is brighter than part-solid, part-solid than ground-glass, in 98 % of triples."""
    found = read_subtypes(repository / "bundles" / bundle / "configs" / "subtypes.json")
    assert found.outline is not None
    right = []
    for diameter in (8.0, 12.0, 20.0):
        for seed in range(100):
            means = [
                np.dot(subtype.draw(diameter, np.random.default_rng(seed), 0.5), np.arange(bins))
                for subtype in found.values()
                for bins in [subtype.histograms.shape[1]]
            ]
            right.append(means[0] > means[1] > means[2])
    assert np.mean(right) >= 0.98
