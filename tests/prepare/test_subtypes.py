"""Training lesions by subtype: what is counted, what is kept, and that it can be read back."""

from pathlib import Path

import numpy as np
import pytest

from tests.prepare.pairs import write_cube, write_list
from tools.cli import main
from tools.prepare.subtypes import collect_subtypes
from tools.synthesis.catalogue import read_subtypes

LEVELS = {5.0: 50.0, 3.0: -300.0, 1.0: -650.0}  # HU by texture rating
SIDES = (4, 5, 6, 7, 8, 9)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six solid lesions of all sizes, three part-solid, one ground-glass, one without rating."""
    folder = tmp_path_factory.mktemp("rated")
    entries = []
    plan = [(5.0, s) for s in SIDES] + [(3.0, s) for s in (4, 5, 6)] + [(1.0, 6), (0.0, 6)]
    for number, (rating, side) in enumerate(plan):
        entry = write_cube(folder, f"n{number}", LEVELS.get(rating, 0.0), side, 16, noise=20)
        entries.append(entry | {"texture": rating})
    write_list(folder, {"training": entries})
    return folder


def test_subtypes_are_counted_and_kept_by_rating(dataset: Path, tmp_path: Path) -> None:
    content = collect_subtypes(str(dataset), tmp_path / "s.json", min_voxels=27)
    assert content["lesions"] == 10
    counts = {name: entry["count"] for name, entry in content["subtypes"].items()}
    assert counts == {"solid": 6, "part_solid": 3, "ground_glass": 1}
    assert content["subtypes"]["solid"]["frequency"] == 0.6
    for number, (name, level) in enumerate(
        zip(("solid", "part_solid", "ground_glass"), LEVELS.values(), strict=True)
    ):
        entry = content["subtypes"][name]
        assert entry["number"] == number
        assert entry["mean_hu"] == pytest.approx(level, abs=6)
        assert len(entry["histograms"]) == len(entry["diameters_mm"]) == counts[name]
        # bins of 35 HU from -1000 on
        assert abs(int(np.argmax(entry["medoid"])) - int((level + 1000) // 35)) <= 1
    spheres = [(6 * side**3 / np.pi) ** (1 / 3) for side in SIDES]
    kept = content["subtypes"]["solid"]
    assert sorted(kept["diameters_mm"]) == pytest.approx(spheres, abs=0.01)
    # cubes of 1 mm: all but the inner side - 2 voxels along each axis are rim
    shares = [1 - (side - 2) ** 3 / side**3 for side in SIDES]
    pairs = sorted(zip(kept["diameters_mm"], kept["rim_shares"], strict=True))
    assert [share for _, share in pairs] == pytest.approx(shares, abs=1e-3)


def test_the_library_is_in_order_of_brightness_and_knows_its_outline(tmp_path: Path) -> None:
    levels = (40.0, -60.0, 140.0)
    cubes = [write_cube(tmp_path, f"n{i}", level, 6, 16) for i, level in enumerate(levels)]
    write_list(tmp_path, {"training": [cube | {"texture": 5.0} for cube in cubes]})
    content = collect_subtypes(str(tmp_path), tmp_path / "s.json", outline="readers' consensus")
    rows = np.array(content["subtypes"]["solid"]["rims"])
    assert rows.argmax(1).tolist() == [int((level + 1000) // 35) for level in sorted(levels)]
    assert read_subtypes(tmp_path / "s.json").outline == "readers' consensus"


@pytest.mark.parametrize(
    "said",
    [{"texture_sd": 1.5}, {"ratings_by_reader": {"texture": [1, 5, 0, 0]}}],
    ids=["spread", "by reader"],
)
def test_lesions_that_readers_disagree_on_are_counted_only(tmp_path: Path, said: dict) -> None:
    cubes = [write_cube(tmp_path, f"n{i}", -300.0, 6, 16) | {"texture": 3.0} for i in range(3)]
    cubes[0] |= said
    write_list(tmp_path, {"training": cubes})
    for agreement, kept in ((0.9, 2), (2.0, 3)):
        found = collect_subtypes(str(tmp_path), tmp_path / "s.json", agreement=agreement)
        entry = found["subtypes"]["part_solid"]
        assert (entry["count"], len(entry["histograms"])) == (3, kept)
        assert entry["solid_bin"] == 20  # -300 HU in bins of 35


def test_the_library_keeps_the_spread_of_sizes(dataset: Path, tmp_path: Path) -> None:
    content = collect_subtypes(str(dataset), tmp_path / "s.json", library=3, min_voxels=27)
    kept = content["subtypes"]["solid"]["diameters_mm"]
    edges = [(6 * side**3 / np.pi) ** (1 / 3) for side in (5.5, 7.5)]
    kept = sorted(kept)
    assert len(kept) == 3
    assert kept[0] < edges[0] < kept[1] < edges[1] < kept[2]
    again = collect_subtypes(str(dataset), tmp_path / "s2.json", library=3, min_voxels=27)
    assert again == content


def test_small_lesions_count_for_the_frequency_only(dataset: Path, tmp_path: Path) -> None:
    content = collect_subtypes(str(dataset), tmp_path / "s.json", min_voxels=200)
    solid = content["subtypes"]["solid"]
    assert (solid["count"], len(solid["histograms"])) == (6, 4)
    none = collect_subtypes(str(dataset), tmp_path / "s.json", min_voxels=300)["subtypes"]
    assert list(none) == ["solid"]


def test_the_limits_decide_the_subtype(dataset: Path, tmp_path: Path) -> None:
    content = collect_subtypes(
        str(dataset), tmp_path / "s.json", solid=3.0, part_solid=1.0, min_voxels=27
    )
    counts = {name: entry["count"] for name, entry in content["subtypes"].items()}
    assert counts == {"solid": 9, "part_solid": 1}
    rule = {"solid_from": 3.0, "part_solid_from": 1.0, "agreement": 0.9}
    assert content["rule"] == rule


def test_the_command_writes_what_synthesis_reads(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "configs" / "subtypes.json"
    words = ["--dataset_dir", str(dataset), "--out", str(out), "--min_voxels", "27"]
    assert main(["subtypes", *words]) == 0
    assert "solid: 6 lesions, 6 kept" in capsys.readouterr().out
    library = read_subtypes(out)
    assert list(library) == ["solid", "part_solid", "ground_glass"]
    assert library["solid"].histograms.shape == (6, 40)
    assert not list(out.parent.glob(".*"))
