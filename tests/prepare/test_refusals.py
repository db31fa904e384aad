"""Bad input of the commands that prepare gets one sentence, and nothing is written."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.prepare.pairs import write_kinds, write_list
from tools.cli import main

CLUSTER = "cluster --dataset_dir {kinds}"
SUBTYPES = "subtypes --dataset_dir {kinds}"
SCANS = "prepare scans --datalist {listed}"
LIDC = "prepare lidc --dicom {none}"


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kinds(tmp_path_factory.mktemp("kinds"))


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (f"{CLUSTER} --clusters 1", "clusters must be a whole number from 2 to"),
        (f"{CLUSTER} --clusters 13", "different histograms (12), got 13"),
        (f"{CLUSTER} --clusters 2.5", "clusters must be a whole number, got '2.5'"),
        (f"{CLUSTER} --space hyper", "space must be one of ['histogram', 'sqrt', 'cumulative']"),
        (f"{CLUSTER} --preset mode", "preset must be one of ['mean', 'medoid'], got 'mode'"),
        (f"{CLUSTER} --section testing", "section must be a non-empty list of"),
        (f"{CLUSTER} --section normal", "dataset must hold a lesion, got 1 entries with empty"),
        (f"{CLUSTER} --bundle none", "bundle must be a bundle folder or one of"),
        ("subtypes --dataset_dir nowhere", "dataset_dir must"),
        (f"{SUBTYPES} --bins 0", "bins must be a whole number"),
        (f"{SUBTYPES} --window_hu 400,-1000", "window_hu must be two HU"),
        (f"{SUBTYPES} --solid 2", "part_solid_from and solid_from must"),
        (f"{SUBTYPES} --section normal", "dataset_dir must have a texture rating"),
        ("prepare scans --datalist {none}", "datalist must be an existing JSON file, got"),
        ("prepare scans --datalist {empty}", "datalist must have a list of scans, got none"),
        (f"{SCANS} --bundle none", "bundle must be a bundle folder or one of"),
        (f"{SCANS} --bundle diffmask --stage x", "stage must be one of the bundle diffmask"),
        (f"{SCANS} --smallest 20", "smallest must be a multiple of 8, got 20"),
        (f"{SCANS} --largest 24", "largest must be at least smallest and at most 512, got 24"),
        (f"{SCANS} --validation_fraction 1", "validation_fraction must be from 0 to below 1, got"),
        (f"{SCANS} --fill_nan dark", "fill_nan must be a number, got 'dark'"),
        (f"{SCANS} --hu_offset nan", "hu_offset must be a"),
        (f"{SCANS} --workers 0", "workers must be 1 or more, got 0"),
        (f"{LIDC} --agreement 0", "agreement must be above 0, at most 1, got 0"),
        (f"{LIDC} --min_readers 5", "min_readers must be from 1 to 4, got 5"),
        (f"{LIDC} --size 64,64", "size must be 3 whole numbers with commas, got '64,64'"),
        (LIDC, "dicom must be an existing folder, got"),
        ("prepare lidc --dicom {folder}", "dicom must hold CT series, found none"),
        ("prepare emidec --source {none}", "source must be an existing folder"),
        ("prepare emidec --source {folder}", "source must hold cases"),
        ("prepare msd --source {folder}", "source must be an unpacked task with dataset.json"),
        ("prepare kits --source {none}", "source must be an existing folder"),
        ("prepare kits --source {folder}", "source must hold cases (case_00000/imaging.nii.gz"),
        ("prepare phantom --kind brain", "kind must be one of"),
    ],
)
def test_bad_input_is_one_sentence(
    kinds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, sentence: str
) -> None:
    places = {"kinds": kinds, "none": tmp_path / "none", "folder": tmp_path}
    places["listed"] = write_list(tmp_path / "list", {"training": [{"image": "a", "label": "b"}]})
    places["empty"] = write_list(tmp_path / "empty", {})
    words = [word.format(**places) for word in command.split()]
    assert main([*words, "--out", str(tmp_path / "out")]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert sentence in said[0]
    assert not (tmp_path / "out").exists()


def test_labels_that_mark_nothing_make_no_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        image = nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4))
        nib.save(image, tmp_path / f"{name}.nii.gz")
    listed = write_list(
        tmp_path / "list", {"training": [{"image": "a.nii.gz", "label": "b.nii.gz"}]}
    )
    for name in ("a", "b"):
        (tmp_path / f"{name}.nii.gz").rename(listed.parent / f"{name}.nii.gz")
    assert main(["prepare", "scans", str(listed), str(tmp_path / "out")]) == 1
    assert (
        "datalist must list scans that give something to train on, got none"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out" / "datalist.json").exists()
