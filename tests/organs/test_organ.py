"""Tables of organs: read whole or refused, and lesions measured as they say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.organs import Organ, load_organ, organ
from tools.organs.sources import make_organ_source

TABLES = Path(organ.__file__).parent.glob("*.json")
LEAST: dict[str, Any] = {
    "name": "spleen",
    "modality": "CT",
    "chart": "box",
    "classes": [{"name": "cyst", "value": 7}],
    "diameter": {"kind": "equal_volume_sphere", "range_mm": [3, 40]},
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "mine.json"
    path.write_text(json.dumps({**LEAST, **changes}))
    return path


@pytest.mark.parametrize("name", sorted(path.stem for path in TABLES))
def test_the_tables_fit_together(name: str) -> None:
    table = load_organ(name)
    assert table.name == name
    values = table.values
    assert len(set(values)) == len(values) >= 1
    names = [each.name for each in table.classes]
    for n, each in enumerate(table.classes):
        assert each.inside is None or each.inside in names[:n]
    assert not set(values) & set(table.parts.values())
    low, high = table.diameter_range_mm
    assert 0 < low < high
    assert table.placements
    assert 1 <= table.usual_count <= (table.most_lesions or np.inf)
    assert bool(table.first_values) == bool(table.region_option)
    assert table.structures or not table.region_option
    if table.chart == "wall":
        assert set(values) <= set(table.wall)
        assert not set(table.wall) & set(table.cavity)
    name = "recipe" if table.recipe else "auto"
    source = make_organ_source(table, name)
    assert source.record["source"] == ("recipe" if table.recipe else "file")


def test_an_organ_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, _desc_="for people", found_by=[], placements=["interior"])
    mine = load_organ(path)
    assert (mine.name, mine.values, mine.diameter_range_mm) == ("spleen", (7,), (3.0, 40.0))
    assert (mine.parts, mine.usual_count, mine.most_lesions) == ({}, 1, None)
    with pytest.raises(FileNotFoundError, match=r"organ must be one of \['heart', .*, got .*no.js"):
        load_organ(tmp_path / "no.json")
    with pytest.raises(FileNotFoundError, match="got spleen"):
        load_organ("spleen")


FAULTS = "organ mine.json must have all keys and no other: .*"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"placement": []}, f"{FAULTS}unknown placement"),
        ({"diameter": {"kind": "enclosing_sphere", "range": [1, 2]}}, f"{FAULTS}unknown range"),
        ({"regions": {"names": {}}}, f"{FAULTS}unknown names"),
        ({"classes": [{"name": "cyst", "value": 7, "code": "x"}]}, f"{FAULTS}code"),
        ({"classes": [{"name": "cyst"}]}, f"{FAULTS}value"),
        ({"diameter": {"kind": "enclosing_sphere"}}, f"{FAULTS}range_mm"),
        ({"chart": "ball"}, r"chart must be one of \['box', 'wall'\], got 'ball'"),
        (
            {"diameter": {"kind": "longest", "range_mm": [1, 2]}},
            r"diameter_kind must be one of .* got 'longest'",
        ),
    ],
)
def test_keys_are_all_there_and_no_other(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_organ(write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # 6 voxels of 2.5 mm3: 15 = pi / 6 d^3
        ("equal_volume_sphere", (6 * 15 / np.pi) ** (1 / 3)),
        # the middles of the voxels at both ends are 5 steps of 5 mm apart
        ("enclosing_sphere", 25.0),
    ],
)
def test_diameters_are_what_the_table_says(kind: str, expected: float) -> None:
    rod = np.zeros((3, 3, 9), bool)
    rod[1, 1, 2:8] = True
    affine = np.diag([-1.0, 0.5, 5.0, 1.0])
    table = Organ("any", "CT", "box", load_organ("lung").classes, diameter_kind=kind)
    assert table.measure_mm(rod, affine) == pytest.approx(expected, abs=1e-3)
    turned = affine @ [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]
    again = table.measure_mm(rod.transpose(1, 2, 0), turned)
    assert again == pytest.approx(expected, abs=1e-3)
