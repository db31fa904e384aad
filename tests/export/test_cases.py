"""Synthetic cases never validate, and never train where their own scan is validated."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tools.export.cases import read_cases
from tools.export.dataset import ExportCase, ExportChoice, ExportSet
from tools.synthesis.records import RECORD_FILE

Write = Callable[..., Path]


def named(dataset: ExportSet, name: str) -> ExportCase:
    return next(case for case in dataset.cases if case.name == name)


def edit(path: Path, change: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_folds_are_real_and_whole(real_datalist: Write, synthetic_dir: Write) -> None:
    dataset = read_cases(
        synthetic_dir({"a": None, "b": None}), real_datalist(), ExportChoice(folds=2)
    )
    real = [case for case in dataset.cases if not case.synthetic and not case.testing]
    assert sorted(case.fold for case in real) == [0, 0, 1, 1]
    assert [case.name for case in dataset.cases if case.testing] == ["real_case_4"]
    made = [case for case in dataset.cases if case.synthetic]
    assert [(case.name, case.fold, case.blocked) for case in made] == [
        ("synthetic_a", None, None),
        ("synthetic_b", None, None),
    ]
    assert dataset.folds == 2
    assert dataset.classes == ("lesion",)
    assert dataset.modality == "CT"


def test_a_case_is_blocked_where_its_scan_validates(
    real_datalist: Write, synthetic_dir: Write
) -> None:
    real = real_datalist()
    images = real.parent / "images"
    made = synthetic_dir(
        {"copy": images / "case_2.nii.gz", "case_1": None, "tested": images / "case_4.nii.gz"}
    )
    dataset = read_cases(made, real, ExportChoice(folds=4))
    assert named(dataset, "synthetic_copy").blocked == named(dataset, "real_case_2").fold
    # a name says nothing, the content of the file does
    assert named(dataset, "synthetic_case_1").blocked is None
    assert list(dataset.left_out) == ["tested"]
    assert "tested on" in dataset.left_out["tested"]


def test_another_scan_of_the_patient_blocks_too(real_datalist: Write, synthetic_dir: Write) -> None:
    real = real_datalist()

    def two_scans_each(content: dict) -> None:
        for index, entry in enumerate(content["training"]):
            entry["patient"] = f"p{index // 2}"
        content["normal"] = [{"image": "images/case_4.nii.gz", "patient": "p1"}]
        content["test"] = []

    edit(real, two_scans_each)
    made = synthetic_dir({"a": real.parent / "images" / "case_4.nii.gz"})
    dataset = read_cases(made, real, ExportChoice(folds=2))
    folds = [named(dataset, f"real_case_{index}").fold for index in range(4)]
    assert folds[0] == folds[1] != folds[2] == folds[3]
    assert named(dataset, "synthetic_a").blocked == folds[2]
    assert named(dataset, "synthetic_a").source_label is None


def test_a_scan_listed_twice_has_one_patient(real_datalist: Write, synthetic_dir: Write) -> None:
    real = real_datalist()

    def listed_as_healthy_too(content: dict) -> None:
        for index, entry in enumerate(content["training"]):
            entry["patient"] = f"p{index}"
        content["test"] = [{"image": "images/case_4.nii.gz", "patient": "p9"}]
        content["normal"] = [{"image": f"images/case_{index}.nii.gz"} for index in (0, 4)]

    edit(real, listed_as_healthy_too)
    images = real.parent / "images"
    made = synthetic_dir({"tested": images / "case_4.nii.gz", "copy": images / "case_0.nii.gz"})
    dataset = read_cases(made, real, ExportChoice(folds=2))
    assert list(dataset.left_out) == ["tested"]
    assert named(dataset, "synthetic_copy").blocked == named(dataset, "real_case_0").fold
    dataset = read_cases(made, real, ExportChoice(folds=2, keep_derived=True))
    assert named(dataset, "real_case_0").fold is None
    edit(real, lambda x: x["normal"][1].update(patient="another"))
    with pytest.raises(ValueError, match=r"must be of one patient, got .* of p9 and .* of another"):
        read_cases(made, real, ExportChoice(folds=2))


def test_scans_of_unknown_patients_are_not_one_patient(
    real_datalist: Write, synthetic_dir: Write
) -> None:
    real = real_datalist()
    edit(real, lambda x: [entry.update(patient=None) for entry in x["training"]])
    dataset = read_cases(synthetic_dir({"a": None}), real, ExportChoice(folds=4))
    assert sorted(named(dataset, f"real_case_{i}").fold for i in range(4)) == [0, 1, 2, 3]


def test_sources_can_leave_validation(real_datalist: Write, synthetic_dir: Write) -> None:
    real = real_datalist()
    made = synthetic_dir({"copy": real.parent / "images" / "case_0.nii.gz"})
    dataset = read_cases(made, real, ExportChoice(folds=3, keep_derived=True))
    assert named(dataset, "real_case_0").fold is None
    assert named(dataset, "synthetic_copy").blocked is None
    assert sorted(named(dataset, f"real_case_{i}").fold for i in (1, 2, 3)) == [0, 1, 2]


def test_a_fold_must_not_lose_all_its_scans(real_datalist: Write, synthetic_dir: Write) -> None:
    real = real_datalist()
    edit(real, lambda x: [e.update(fold=i % 4) for i, e in enumerate(x["training"])])
    made = synthetic_dir({"copy": real.parent / "images" / "case_1.nii.gz"})
    with pytest.raises(ValueError, match=r"folds must each keep a scan .* none in \[1\]"):
        read_cases(made, real, ExportChoice(keep_derived=True))


def test_folds_and_validation_lists_are_kept(real_datalist: Write, synthetic_dir: Write) -> None:
    real = real_datalist()
    edit(real, lambda x: [e.update(fold=[1, 0, 1, 2][i]) for i, e in enumerate(x["training"])])
    made = synthetic_dir({"a": None, "copy": real.parent / "images" / "case_0.nii.gz"})
    dataset = read_cases(made, real)
    assert [named(dataset, f"real_case_{i}").fold for i in range(4)] == [1, 0, 1, 2]
    assert dataset.folds == 3

    def validate_the_first(content: dict) -> None:
        for entry in content["training"]:
            del entry["fold"]
        content["validation"] = [content["training"].pop(0)]

    edit(real, validate_the_first)
    dataset = read_cases(made, real)
    assert [named(dataset, f"real_case_{i}").fold for i in range(4)] == [0, None, None, None]
    assert dataset.folds == 1
    assert list(dataset.left_out) == ["copy"]  # there is no other fold to train it in


def test_nothing_but_synthetic_cases(synthetic_dir: Write, tmp_path: Path) -> None:
    scan = next(synthetic_dir({"seed": None}).glob("seed/image.nii.gz")).rename(
        tmp_path / "s.nii.gz"
    )
    made = synthetic_dir({"a": scan, "b": scan, "c": None})
    with pytest.raises(ValueError, match="--allow_synthetic_validation"):
        read_cases(made, None)
    dataset = read_cases(made, None, ExportChoice(folds=2, allow_synthetic_validation=True))
    folds = {case.name: case.fold for case in dataset.cases}
    # copies of one scan are on one side
    assert folds["synthetic_a"] == folds["synthetic_b"] != folds["synthetic_c"]


def test_one_patient_is_on_one_side_where_all_are_synthetic(
    real_datalist: Write, synthetic_dir: Write
) -> None:
    real = real_datalist()

    def healthy(content: dict) -> None:
        images = [entry["image"] for entry in content.pop("training")]
        content["normal"] = [{"image": x, "patient": f"p{i // 2}"} for i, x in enumerate(images)]
        content["test"] = []

    edit(real, healthy)
    made = synthetic_dir({str(i): real.parent / f"images/case_{i}.nii.gz" for i in range(4)})
    choice = ExportChoice(folds=2, allow_synthetic_validation=True)
    for seed in range(4):
        dataset = read_cases(made, real, replace(choice, seed=seed))
        folds = [named(dataset, f"synthetic_{i}").fold for i in range(4)]
        assert folds[0] == folds[1] != folds[2] == folds[3]


def test_cases_without_lesion_are_left_out(real_datalist: Write, synthetic_dir: Write) -> None:
    with pytest.raises(ValueError, match="may be trained on"):
        read_cases(synthetic_dir({"a": None}, lesions=0), real_datalist(), ExportChoice(folds=2))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: x["training"][0].update(fold=0), "1 of 4 entries with a fold and no validation"),
        (lambda x: [e.update(fold=2 * i) for i, e in enumerate(x["training"])], "without gaps"),
        (lambda x: x["training"][0].update(fold="first"), "fold must be a whole number"),
        (lambda x: x["training"][0].update(image=["a.nii.gz", "b.nii.gz"]), "one channel"),
        (lambda x: x["training"][0].update(image="../synthetic/a/image.nii.gz"), "must lie in"),
        (lambda x: x["training"][0].update(image="images/none.nii.gz"), "must exist"),
        (lambda x: x["training"][0].pop("label"), "label of an entry must be one NIfTI file"),
        (lambda x: x["training"][0].update(synthetic=True), "must list no synthetic case"),
        (lambda x: x["test"].append(x["training"][0]["image"]), "must be listed once"),
        (lambda x: x.update(modality={"0": "MR"}), "modality of real and synthetic must agree"),
        (lambda x: x.update(modality={"0": "T1", "1": "T2"}), "must have one channel"),
        (lambda x: x.update(labels={"1": "tumour"}), "--rename lesion:tumour"),
        (lambda x: x.update(training=[]), "must have cases to validate on"),
    ],
)
def test_real_lists_that_cannot_be_used(
    real_datalist: Write, synthetic_dir: Write, change: Callable, sentence: str
) -> None:
    real = real_datalist()
    edit(real, change)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        read_cases(synthetic_dir({"a": None}), real, ExportChoice(folds=2))


def test_synthetic_files_under_another_name_are_found(
    real_datalist: Write, synthetic_dir: Write
) -> None:
    real, made = real_datalist(), synthetic_dir({"a": None})
    (real.parent / "images" / "case_0.nii.gz").write_bytes((made / "a/image.nii.gz").read_bytes())
    with pytest.raises(ValueError, match=r"must list no synthetic case, got \['case_0'\]"):
        read_cases(made, real, ExportChoice(folds=2))


def test_synthetic_folders_that_cannot_be_used(
    real_datalist: Write, synthetic_dir: Write, tmp_path: Path
) -> None:
    real = real_datalist()
    with pytest.raises(FileNotFoundError, match="synthetic must be an existing JSON file"):
        read_cases(tmp_path, real)
    made = synthetic_dir({"a": None})
    edit(made / "datalist.json", lambda x: x["training"][0].update(synthetic=False))
    with pytest.raises(ValueError, match="synthetic cases only"):
        read_cases(made, real)
    made = synthetic_dir({"a": None})
    (made / "a" / RECORD_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="a record per case"):
        read_cases(made, real)


def test_a_folder_of_pairs_will_do(synthetic_dir: Write, real_datalist: Write) -> None:
    real = real_datalist(testing=0).parent
    for index in range(4):
        (real / f"images/case_{index}.nii.gz").rename(real / f"case_{index}_image.nii.gz")
        (real / f"labels/case_{index}.nii.gz").rename(real / f"case_{index}_label.nii.gz")
    (real / "datalist.json").unlink()
    dataset = read_cases(synthetic_dir({"a": None}), real, ExportChoice(folds=2))
    assert len([case for case in dataset.cases if case.label and not case.synthetic]) == 4
    (real / "case_0_label.nii.gz").unlink()
    with pytest.raises(ValueError, match="without a label"):
        read_cases(synthetic_dir({"a": None}), real, ExportChoice(folds=2))


def test_names_are_safe_and_unique(real_datalist: Write, synthetic_dir: Write) -> None:
    real, made = real_datalist(), synthetic_dir({"Ä 1": None, "ä/../1".replace("/", "-"): None})
    names = [case.name for case in read_cases(made, real, ExportChoice(folds=2)).cases]
    assert len({name.lower() for name in names}) == len(names) == 7
    assert all(
        name.isascii() and name.replace("_", "").replace("-", "").isalnum() for name in names
    )
