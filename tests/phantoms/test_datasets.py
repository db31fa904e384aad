"""Phantoms on disk: what files and datalists say, and the cache that configs run on."""

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tools.phantoms import datasets, heart_datasets
from tools.phantoms.datasets import lesion_datalist, write_chest_phantom, write_lesion_rois
from tools.phantoms.heart_datasets import heart_datalist, write_heart_dataset, write_heart_phantom

READERS = [
    pytest.param(datasets, lesion_datalist, "write_lesion_rois", "phantom", id="lung"),
    pytest.param(
        heart_datasets, heart_datalist, "write_heart_dataset", "phantom-heart", id="heart"
    ),
]


@pytest.fixture(scope="module")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cubes")
    write_lesion_rois(folder, count=6)
    return folder


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hearts, drawn coarser than the embedded ones."""
    folder = tmp_path_factory.mktemp("hearts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heart_datasets, "_SIDE", 80)
        patch.setattr(heart_datasets, "_SPACING_MM", (2.0, 2.0, 10.0))
        write_heart_dataset(folder, sections={"training": 2, "validation": 1, "normal": 1})
    return folder


def arrays(entry: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Image and label of an entry, checked for what all phantoms have."""
    image, label = nib.load(entry["image"]), nib.load(entry["label"])
    np.testing.assert_array_equal(image.affine, label.affine)
    assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
    assert image.header["descrip"].item() == label.header["descrip"].item() == b"phantom"
    assert entry["phantom"] is True
    return np.asarray(image.dataobj), np.asarray(label.dataobj)


def test_cubes_hold_a_nodule_each_of_three_textures_and_share_no_patient(cubes: Path) -> None:
    means: dict[str, list[float]] = {"ground_glass": [], "part_solid": [], "solid": []}
    training, validation = (lesion_datalist(cubes, s) for s in ("training", "validation"))
    assert (len(training), len(validation)) == (4, 2)
    assert not {e["patient"] for e in training} & {e["patient"] for e in validation}
    for entry in training + validation:
        image, label = arrays(entry)
        assert image.shape == label.shape == (32, 32, 32)
        assert nib.load(entry["image"]).header.get_zooms() == (1.0, 1.0, 1.0)
        assert set(np.unique(label)) == {0, 1}
        means[entry["texture"]].append(image[label > 0].mean())
    dense = [np.mean(values) for values in means.values()]
    assert dense[0] + 100 < dense[1] < dense[2] - 50


def test_same_seed_same_files(cubes: Path, tmp_path: Path) -> None:
    write_lesion_rois(tmp_path, count=6)
    for path in sorted(cubes.rglob("*.nii.gz")):
        same = tmp_path / path.relative_to(cubes)
        np.testing.assert_array_equal(nib.load(path).dataobj, nib.load(same).dataobj)


def test_entries_tell_where_the_heart_lies(hearts: Path) -> None:
    sections = {s: heart_datalist(hearts, s) for s in ("training", "validation", "normal")}
    patients = [entry["patient"] for entries in sections.values() for entry in entries]
    assert len(set(patients)) == len(patients) == 4
    assert not sections["normal"][0]["pathological"]
    for entry in sections["training"]:
        image, label = arrays(entry)
        assert entry["pathological"] is entry["has_no_reflow"] is True
        assert 7 <= image.shape[2] == entry["slices"] <= 10
        # a window of 144 mm round the stated middle holds the whole heart
        affine = nib.load(entry["image"]).affine
        middle = np.linalg.solve(affine, [*entry["heart_mm"], 1])[:2]
        assert (np.abs(np.argwhere(label > 0)[:, :2] - middle) <= 36).all()
        infarct = (label == 3).sum() * np.prod(entry["spacing_mm"]) / 1000
        assert entry["volumes_ml"]["infarct"] == pytest.approx(infarct, abs=1e-3)


@pytest.mark.parametrize("name", ["chest", "heart"])
def test_single_phantoms_are_healthy_and_come_with_a_record(tmp_path: Path, name: str) -> None:
    if name == "chest":
        paths = write_chest_phantom(tmp_path, 3, (48, 40, 36), 8.0)
        organ, values = paths["lung"], [0, 1]
    else:
        paths = write_heart_phantom(tmp_path, 3, (80, 80, 6), (2.0, 2.0, 15.0))
        organ, values = paths["label"], [0, 1, 2]
    _, label = arrays({"image": paths["image"], "label": organ, "phantom": True})
    assert np.unique(label).tolist() == values
    assert Path(paths["image"]).name == f"phantom_{name}_image.nii.gz"
    record = json.loads(Path(paths["record"]).read_text())
    assert (record["name"], record["phantom"], record["seed"]) == (f"phantom_{name}", True, 3)
    assert not record.get("lesions")
    assert not record.get("infarct")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("module", "read", "writer", "name"), READERS)
def test_phantom_is_made_once_and_announced_once(
    module: Any,
    read: Callable[..., list[dict[str, Any]]],
    writer: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = []

    def write_small(folder: Path) -> None:
        calls.append(folder)
        entry = {"image": "a.nii.gz", "label": "b.nii.gz"}
        content = {"training": [entry], "validation": [entry]}
        (folder / "datalist.json").write_text(json.dumps(content))

    monkeypatch.setattr(module, writer, write_small)
    folder = tmp_path / f"{name}-{datasets.PHANTOM_VERSION}"
    with caplog.at_level(logging.INFO):
        for nothing, section in ((None, "training"), ("", "validation"), (None, "validation")):
            (entry,) = read(nothing, section, tmp_path)
            assert entry["image"] == str(folder / "a.nii.gz")
    assert len(calls) == 1
    assert caplog.text.count("running on the embedded phantom data in " + str(folder)) == 1
    assert list(tmp_path.iterdir()) == [folder]
    with pytest.raises(ValueError, match=r"one of \['training', 'validation'\], got 'test'"):
        read(None, "test", tmp_path)
    with ThreadPoolExecutor(4) as pool:  # first uses at the same time
        lists = list(pool.map(lambda _: read(None, "training", tmp_path / "new"), range(4)))
    assert all(entries == lists[0] for entries in lists)
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize("read", [lesion_datalist, heart_datalist])
def test_named_dataset_is_never_replaced(read: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dataset_dir must be an existing folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"must hold datalist\.json"):
        read(tmp_path)
    (tmp_path / "datalist.json").write_text('{"training": []}')
    with pytest.raises(ValueError, match="section must be a non-empty list"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "dataset_dir must hold a JSON object"),
        ('{"training": {"image": "a"}}', "dataset_dir must have a list of objects as training"),
        ("{", "dataset_dir must be JSON"),
        ('{"training": [3]}', "dataset_dir must have a list of objects as training"),
        ('{"training": [{"image": ["a", "b"]}]}', "image of a datalist entry must be one path"),
        ('{"training": [{"image": "a", "label": 1}]}', "label of a datalist entry must be one"),
    ],
)
def test_datalist_that_cannot_be_understood_is_named(
    content: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "datalist.json").write_text(content)
    with pytest.raises(ValueError, match=said) as caught:
        lesion_datalist(tmp_path)
    assert str(tmp_path / "datalist.json") in str(caught.value)


def test_datalist_with_the_mark_that_windows_writes_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.nii").touch()
    entry = {"image": "a.nii", "label": "b.nii", "other": "c.nii", "patient": "c", "rating": 3}
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [entry]}), "utf-8-sig")
    paths = {key: str(tmp_path / entry[key]) for key in ("image", "label", "other")}
    assert lesion_datalist(tmp_path) == [entry | paths]


def test_wrong_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="count must be >= 3"):
        write_lesion_rois(tmp_path, count=2)
    with pytest.raises(ValueError, match="sections must have at least one heart each"):
        write_heart_dataset(tmp_path, sections={"training": 0})
