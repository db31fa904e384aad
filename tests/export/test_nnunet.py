"""nnU-Net's folder: names, dataset.json, splits. Its own checks: make nnunet-test."""

import json
from pathlib import Path

import pytest

from tests.export.tiny import Tiny
from tools.cli import main
from tools.export.dataset import ExportChoice
from tools.export.nnunet import export_nnunet


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_is_as_nnunet_wants_it(tiny: Tiny, tmp_path: Path) -> None:
    given = (tiny.synthetic(), tiny.real(count=2), tmp_path / "raw", 7, "Lungs")
    facts = export_nnunet(*given, choice=ExportChoice(folds=2))
    folder = tmp_path / "raw" / "Dataset007_Lungs"
    assert facts["out"] == str(folder)
    cases = ["real_case_0", "real_case_1", "synthetic_a"]
    assert files(folder / "imagesTr") == [f"{name}_0000.nii.gz" for name in cases]
    assert files(folder / "labelsTr") == [f"{name}.nii.gz" for name in cases]
    assert files(folder / "imagesTs") == ["real_case_2_0000.nii.gz"]
    content = json.loads((folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT"}
    assert content["labels"] == {"background": 0, "lesion": 1}
    assert (content["numTraining"], content["file_ending"]) == (3, ".nii.gz")
    assert files(tmp_path / "raw") == ["Dataset007_Lungs"]  # nothing half done lies about


def test_splits_validate_real_scans_and_train_no_copy_of_them(tiny: Tiny, tmp_path: Path) -> None:
    real, place = tiny.real(), tmp_path / "preprocessed"
    given = (tiny.synthetic(a=None, copy=tiny.scan(1)), real, tmp_path / "raw", 501, "Lesions")
    facts = export_nnunet(*given, place, choice=ExportChoice(folds=4))
    path = place / "Dataset501_Lesions" / "splits_final.json"
    splits = json.loads(path.read_text())
    beside = tmp_path / "raw" / "Dataset501_Lesions" / "splits_final.json"
    assert json.loads(beside.read_text()) == splits
    validated = sorted(name for split in splits for name in split["val"])
    assert validated == [f"real_case_{index}" for index in range(4)]
    for split in splits:
        assert not set(split["train"]) & set(split["val"])
        assert "synthetic_a" in split["train"]
        assert ("synthetic_copy" in split["train"]) == ("real_case_1" in split["train"])
    assert list(facts["not_in_fold"]) == ["synthetic_copy"]
    # those in use are not changed unasked
    with pytest.raises(ValueError, match="preprocessed must hold no other splits"):
        export_nnunet(*given, place, choice=ExportChoice(folds=2))
    assert json.loads(path.read_text()) == splits
    export_nnunet(*given, place, choice=ExportChoice(folds=2), overwrite=True)
    assert len(json.loads(path.read_text())) == 2


@pytest.mark.parametrize(
    ("number", "name", "sentence"),
    [
        (0, "Lesions", "dataset_id must be a whole number from 1 to 999, got 0"),
        (1000, "Lesions", "got 1000"),
        ("five", "Lesions", "got 'five'"),
        (5, "../Lesions", "name must be letters, digits and _"),
        (6, "Lesions", "dataset_id must be free"),
    ],
)
def test_numbers_and_names_that_cannot_be(
    tiny: Tiny, tmp_path: Path, number: object, name: str, sentence: str
) -> None:
    raw = tmp_path / "raw"
    (raw / "Dataset006_Others").mkdir(parents=True)
    with pytest.raises(ValueError, match=sentence):
        export_nnunet(tiny.synthetic(), tiny.real(), raw, number, name)
    assert files(raw) == ["Dataset006_Others"]


def test_the_command_says_where_the_splits_belong(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tiny.real()
    made = tiny.synthetic(copy=tiny.scan(0))
    words = ["export", "nnunet", str(made), "--real", str(real), "--folds", "2", "--out"]
    words += [str(tmp_path / "raw"), "--dataset_id", "501", "--name", "Lesions"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 synthetic case sits out the fold that validates its scan" in said
    assert "before training: cp" in said
    assert "$nnUNet_preprocessed/Dataset501_Lesions/" in said
