"""Records survive a round trip, keep to the agreed keys and refuse nonsense."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.bundle import sha256_file
from tools.synthesis.datalist import write_datalist
from tools.synthesis.records import (
    BundleRecord,
    LesionRecord,
    ScanRecord,
    read_record,
    write_record,
)

LESION_KEYS = {
    *("label", "class", "site_mm", "diameter_mm", "volume_mm3", "texture", "shape_source"),
    *("histogram_requested", "histogram_achieved", "histogram_jsd", "diameter_requested_mm"),
    *("seed", "sampler", "attempts", "seconds", "diameter_kind"),
}


def lesion(**changes: Any) -> LesionRecord:
    values = {
        "label": 1,
        "class_name": "nodule",
        "site_mm": np.array([1.5, -2.0, 3.0]),
        "diameter_mm": np.float32(6.5),
        "volume_mm3": 143.8,
        "texture": "solid",
        "shape_source": "ellipsoid",
        "seed": np.int64(7),
        "histogram_requested": np.full(4, 0.25),
        "histogram_achieved": [0.5, 0.5, 0.0, 0.0],
        "histogram_jsd": 0.2,
        "sampler": {"steps": 300, "jump_length": 2},
    }
    return LesionRecord(**{**values, **changes})


def scan(*lesions: LesionRecord) -> ScanRecord:
    bundle = BundleRecord("some_bundle", "0.1.0", "b" * 64)
    return ScanRecord("scan", "a" * 64, np.array([0.7, 0.7, 2.5]), (8, 8, 4), bundle, lesions, True)


def test_file_has_the_agreed_keys(tmp_path: Path) -> None:
    path = write_record(tmp_path / "case" / "lesions.json", scan(lesion()))
    content = json.loads(path.read_text())
    assert content["schema_version"] == "1.1"
    assert content["synthetic"] is True
    assert content["scan"] == {
        "name": "scan",
        "sha256": "a" * 64,
        "spacing_mm": [0.7, 0.7, 2.5],
        "shape": [8, 8, 4],
        "phantom": True,
    }
    assert content["bundle"] == {
        "name": "some_bundle",
        "version": "0.1.0",
        "weights_sha256": "b" * 64,
    }
    (item,) = content["lesions"]
    assert set(item) == LESION_KEYS
    assert item["class"] == "nodule"
    assert item["site_mm"] == [1.5, -2.0, 3.0]
    assert item["seed"] == 7


def test_round_trip_is_a_fixed_point(tmp_path: Path) -> None:
    first = read_record(write_record(tmp_path / "a.json", scan(lesion(), lesion(seed=8))))
    second = read_record(write_record(tmp_path / "b.json", first))
    assert first == second
    assert [item.seed for item in second.lesions] == [7, 8]
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_record(tmp_path / "lesions.json", scan(lesion()))
    old = path.read_bytes()
    with pytest.raises(TypeError, match="JSON values"):
        write_record(path, scan(lesion(sampler={"scheduler": object()})))
    assert path.read_bytes() == old
    assert [item.name for item in tmp_path.iterdir()] == ["lesions.json"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"label": 0}, "label must be from 1 to 255, got 0"),
        ({"attempts": 0}, "attempts must be 1 or more, got 0"),
        ({"site_mm": (1.0, 2.0)}, "site_mm must be three numbers"),
        ({"histogram_jsd": float("nan")}, "histogram_jsd must be finite, got nan"),
        ({"histogram_achieved": [float("inf")]}, "histogram_achieved must be finite"),
    ],
)
def test_lesion_refuses(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        lesion(**changes)


def test_reader_names_file_and_fault(tmp_path: Path) -> None:
    content = scan(lesion()).to_dict()
    faults = {
        "schema_version must be 1.x, got 2.0": {**content, "schema_version": "2.0"},
        "key 'bundle' is missing": {
            key: value for key, value in content.items() if key != "bundle"
        },
        "site_mm": {**content, "lesions": [{"class": "nodule", "label": 1}]},
    }
    for sentence, broken in faults.items():
        path = tmp_path / "broken.json"
        path.write_text(json.dumps(broken, default=lambda value: value.tolist()))
        with pytest.raises(ValueError, match=f"broken.json must be.*{sentence}"):
            read_record(path)


def test_later_minor_version_is_read() -> None:
    content = {**scan(lesion()).to_dict(), "schema_version": "1.7", "novelty": 1}
    content["lesions"][0]["novelty"] = 2
    assert ScanRecord.from_dict(content).lesions[0].class_name == "nodule"


def test_datalist_is_relative_and_named_by_the_records(tmp_path: Path) -> None:
    for name, item in (("one", lesion()), ("two", lesion(label=2, class_name="scar"))):
        write_record(tmp_path / name / "lesions.json", scan(item))
    cases = [{"name": name, "folder": tmp_path / name} for name in ("one", "two")]
    cases[1]["fold"] = 3
    content = json.loads(write_datalist(tmp_path, cases, modality="MRI").read_text())
    assert content["labels"] == {"0": "background", "1": "nodule", "2": "scar"}
    assert content["modality"] == {"0": "MRI"}
    assert content["numTraining"] == 2
    assert content["training"][0] == {
        "image": "one/image.nii.gz",
        "label": "one/label.nii.gz",
        "record": "one/lesions.json",
        "synthetic": True,
        "phantom": True,
        "lesions": 1,
    }
    assert content["training"][1]["fold"] == 3


def test_datalist_refuses_other_folders_and_clashing_names(tmp_path: Path) -> None:
    write_record(tmp_path / "out" / "one" / "lesions.json", scan(lesion()))
    write_record(tmp_path / "out" / "two" / "lesions.json", scan(lesion(class_name="scar")))
    one, two = ({"folder": tmp_path / "out" / name} for name in ("one", "two"))
    with pytest.raises(ValueError, match="folder of a case must lie inside"):
        write_datalist(tmp_path / "elsewhere", [one])
    with pytest.raises(ValueError, match="label 1 must have one class, got nodule and scar"):
        write_datalist(tmp_path / "out", [one, two])


def test_hash_of_file_and_folder(tmp_path: Path) -> None:
    file = tmp_path / "series" / "slice"
    file.parent.mkdir()
    file.write_bytes(b"abc")
    assert sha256_file(file) == hashlib.sha256(b"abc").hexdigest()
    whole = sha256_file(file.parent)
    file.write_bytes(b"abd")
    assert sha256_file(file.parent) != whole
