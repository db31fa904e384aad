"""MSD tasks and KiTS out of download trees that the tests write."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.prepare.pairs import array, content
from tools.cli import main

AFFINE = np.diag([-0.8, 0.8, 2.5, 1.0])
SHAPE = (20, 18, 12)


def organ(tumour: int | None = 2, cyst: bool = False) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[4:16, 4:14, 2:10] = 1
    if tumour is not None:
        label[6:10, 6:9, 4:6] = tumour
    if cyst:
        label[12:14, 10:12, 4:6] = 3
    return label


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-100, 200, SHAPE).astype(np.int16)


def write_task(root: Path, maps: dict[str, np.ndarray], **changes: Any) -> Path:
    entries = []
    for number, (name, label) in enumerate(maps.items()):
        entry = {key: f"./{key}sTr/{name}.nii.gz" for key in ("image", "label")}
        entries.append(entry)
        save(root / entry["image"], scan(number))
        save(root / entry["label"], label)
    names = {"0": "background", "1": "liver", "2": "cancer"}
    facts = {"name": "Liver", "labels": names, "training": entries, "test": ["./imagesTs/x.nii.gz"]}
    (root / "dataset.json").write_text(json.dumps(facts | changes))
    return root


def write_kits(root: Path, number: int, label: np.ndarray | None, image: bool = True) -> None:
    folder = root / f"case_{number:05d}"
    folder.mkdir(parents=True)
    if image:
        save(folder / "imaging.nii.gz", scan(number))
    if label is not None:
        save(folder / "segmentation.nii.gz", label)


LABELS = {"liver_0": organ(), "liver_1": organ(), "liver_2": organ(None)}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return write_task(tmp_path / "Task03_Liver", LABELS)


def prepare(kind: str, source: Path, out: Path, *more: str) -> int:
    return main(["prepare", kind, "--source", str(source), "--out", str(out), *more])


def test_a_task_becomes_scans_with_masks_and_their_datalist(task: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare("msd", task, out, "--validation_fraction", "0") == 0
    listed = json.loads((out / "scans.json").read_text())
    assert [entry["name"] for entry in listed["training"]] == ["liver_0", "liver_1"]
    assert [entry["name"] for entry in listed["normal"]] == ["liver_2"]
    assert listed["training"][0]["tumour_ml"] == pytest.approx(24 * 0.8 * 0.8 * 2.5 / 1000)
    assert listed["labels"]["1"] == "liver"
    assert "MSD" in listed["licence"]
    found = content(out)
    assert [len(found[name]) for name in ("training", "validation", "normal")] == [2, 0, 1]
    entry = found["training"][0]
    assert entry["patient"] == "liver_0"
    assert np.array_equal(array(out, entry, "image"), scan(0))
    assert np.array_equal(array(out, entry, "label"), organ())
    assert np.array_equal(array(out, entry, "organ_mask"), organ() > 0)
    assert np.allclose(nib.load(out / entry["label"]).affine, AFFINE)


def test_what_is_listed_goes_to_other_bundles_too(task: Path, tmp_path: Path) -> None:
    assert prepare("msd", task, tmp_path / "out", "--bundle", "diffmask") == 0
    found = content(tmp_path / "out")
    assert len(found["training"] + found["validation"]) == 2
    assert array(tmp_path / "out", found["training"][0], "label").any()


def test_kidneys_hold_cysts_and_cases_without_a_file_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "kits" / "data"
    write_kits(root, 0, organ(cyst=True))
    write_kits(root, 1, organ(), image=False)
    write_kits(root, 210, None)
    out = tmp_path / "out"
    assert prepare("kits", root.parent, out, "--validation_fraction", "0") == 1
    said = capsys.readouterr()
    assert "1 cases could not be prepared" in said.err
    assert "case_00001: " in said.err
    assert "'unlabelled': 1" in said.out
    (entry,) = content(out)["training"]
    assert np.array_equal(array(out, entry, "label"), organ())  # the cyst is kidney
    # the image arrives: the next run needs no more than that
    save(root / "case_00001" / "imaging.nii.gz", scan(1))
    assert prepare("kits", root.parent, out, "--validation_fraction", "0") == 0
    assert len(content(out)["training"]) == 2


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        (organ(7), "label must hold [0, 1, 2] only, got [7]"),
        (np.zeros(SHAPE, np.uint8), "label must hold the organ, got 0 only"),
    ],
)
def test_labels_that_cannot_be_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], label: np.ndarray, sentence: str
) -> None:
    task = write_task(tmp_path / "task", {"a": organ(), "b": label})
    assert prepare("msd", task, tmp_path / "out", "--validation_fraction", "0") == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": {"0": "background", "1": "cancer"}}, "a task with an organ (1) and its tumour"),
        ({"training": []}, "training must be a list of cases, got []"),
        ({"training": [{"image": "a.nii.gz"}]}, "cases must have an image and a label, got"),
        (
            {"training": [{"image": "../a.nii.gz", "label": "b.nii.gz"}]},
            "image of a datalist entry must lie in",
        ),
    ],
)
def test_tasks_that_cannot_be_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict, sentence: str
) -> None:
    task = write_task(tmp_path / "task", {"a": organ()}, **changes)
    assert prepare("msd", task, tmp_path / "out") == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
