"""Synthetic cases never validate, and never train where their own scan is validated."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.export.tiny import SHAPE, Tiny, box_label, edit, named, save, scan_values
from tools.cli import main
from tools.export.cases import read_cases
from tools.export.dataset import ExportChoice
from tools.synthesis.records import RECORD_FILE


def folds(dataset: object, kind: str = "real_case", count: int = 4) -> list[int | None]:
    return [named(dataset, f"{kind}_{index}").fold for index in range(count)]


def said(key: str, *values: object) -> Callable[[dict], object]:
    """A change of the datalist: the entries of training say this."""

    def change(content: dict) -> None:
        for entry, value in zip(content["training"], values, strict=True):
            entry[key] = value

    return change


def test_folds_are_real_and_whole(tiny: Tiny) -> None:
    tiny.real()
    tiny.synthetic(a=None, b=None)
    dataset = tiny.read()
    real = [case for case in dataset.cases if not case.synthetic and not case.testing]
    assert sorted(case.fold for case in real) == [0, 0, 1, 1]
    assert [case.name for case in dataset.cases if case.testing] == ["real_case_4"]
    made = [(case.name, case.fold, case.blocked) for case in dataset.cases if case.synthetic]
    assert made == [("synthetic_a", None, None), ("synthetic_b", None, None)]
    assert (dataset.folds, dataset.classes, dataset.modality) == (2, ("lesion",), "CT")


def test_a_case_is_blocked_where_its_scan_validates(tiny: Tiny) -> None:
    tiny.real()
    tiny.synthetic(copy=tiny.scan(2), case_1=None, tested=tiny.scan(4))
    dataset = tiny.read(4)
    assert named(dataset, "synthetic_copy").blocked == named(dataset, "real_case_2").fold
    # a name says nothing, the content of the file does
    assert named(dataset, "synthetic_case_1").blocked is None
    assert list(dataset.left_out) == ["tested"]
    assert "tested on" in dataset.left_out["tested"]


def test_another_scan_of_the_patient_blocks_too(tiny: Tiny) -> None:
    normal = [{"image": "images/case_4.nii.gz", "patient": "p1"}]
    tiny.real(change=said("patient", "p0", "p0", "p1", "p1"), normal=normal, test=[])
    tiny.synthetic(a=tiny.scan(4))
    dataset = tiny.read()
    found = folds(dataset)
    assert found[0] == found[1] != found[2] == found[3]
    assert named(dataset, "synthetic_a").blocked == found[2]
    assert named(dataset, "synthetic_a").source_label is None


def test_a_scan_listed_twice_has_one_patient(tiny: Tiny) -> None:
    test = [{"image": "images/case_4.nii.gz", "patient": "p9"}]
    healthy = [{"image": f"images/case_{index}.nii.gz"} for index in (0, 4)]
    tiny.real(change=said("patient", "p0", "p1", "p2", "p3"), test=test, normal=healthy)
    tiny.synthetic(tested=tiny.scan(4), copy=tiny.scan(0))
    dataset = tiny.read()
    assert list(dataset.left_out) == ["tested"]
    assert named(dataset, "synthetic_copy").blocked == named(dataset, "real_case_0").fold
    assert named(tiny.read(keep_derived=True), "real_case_0").fold is None
    edit(tiny.datalist, lambda x: x["normal"][1].update(patient="another"))
    with pytest.raises(ValueError, match=r"must be of one patient, got .* of p9 and .* of another"):
        tiny.read()


def test_a_folder_of_pairs_may_hold_left_overs(
    tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny.folder / "pairs"
    for index in range(2):
        save(folder / f"{index}_image.nii.gz", scan_values(index))
        save(folder / f"{index}_label.nii.gz", box_label(1))
    for name in ("._0_image.nii.gz", ".DS_Store", "Thumbs.db"):
        (folder / name).write_bytes(b"of another system")
    (folder / "2_image.nii.gz").symlink_to(folder / "nowhere")
    found = read_cases(tiny.synthetic(), folder, ExportChoice(folds=2))
    assert [case.name for case in found.cases if not case.synthetic] == ["real_0", "real_1"]
    assert "(and 2 more) is a left-over of another system" in caplog.text
    assert "2_image.nii.gz is a link to a file that is not there" in caplog.text


def test_scans_of_unknown_patients_are_not_one_patient(tiny: Tiny) -> None:
    tiny.real(change=said("patient", None, None, None, None))
    tiny.synthetic()
    assert sorted(folds(tiny.read(4))) == [0, 1, 2, 3]


def test_sources_can_leave_validation_but_no_fold_may_lose_all_its_scans(tiny: Tiny) -> None:
    tiny.real()
    tiny.synthetic(copy=tiny.scan(0))
    dataset = tiny.read(3, keep_derived=True)
    assert named(dataset, "synthetic_copy").blocked is None
    assert folds(dataset)[0] is None
    assert sorted(folds(dataset)[1:]) == [0, 1, 2]
    edit(tiny.datalist, said("fold", 0, 1, 2, 3))
    with pytest.raises(ValueError, match=r"folds must each keep a scan .* none in \[0\]"):
        tiny.read(keep_derived=True)


def test_folds_and_validation_lists_are_kept(tiny: Tiny) -> None:
    tiny.real(change=said("fold", 1, 0, 1, 2))
    made = tiny.synthetic(a=None, copy=tiny.scan(0))
    dataset = read_cases(made, tiny.datalist)
    assert folds(dataset) == [1, 0, 1, 2]
    assert dataset.folds == 3
    tiny.real(change=lambda x: x.update(validation=[x["training"].pop(0)]))
    dataset = read_cases(made, tiny.datalist)
    assert folds(dataset) == [0, None, None, None]
    assert dataset.folds == 1
    assert list(dataset.left_out) == ["copy"]  # there is no other fold to train it in


def test_nothing_but_synthetic_cases(tiny: Tiny, tmp_path: Path) -> None:
    scan = (tiny.synthetic() / "a/image.nii.gz").rename(tmp_path / "s.nii.gz")
    made = tiny.synthetic(c_0=scan, c_1=scan, c_2=None)
    with pytest.raises(ValueError, match="--allow_synthetic_validation"):
        read_cases(made, None)
    dataset = read_cases(made, None, ExportChoice(folds=2, allow_synthetic_validation=True))
    first, second, other = folds(dataset, "synthetic_c", 3)
    assert first == second != other  # copies of one scan are on one side


@pytest.mark.parametrize("seed", range(4))
def test_one_patient_is_on_one_side_where_all_are_synthetic(tiny: Tiny, seed: int) -> None:
    normal = [{"image": f"images/case_{i}.nii.gz", "patient": f"p{i // 2}"} for i in range(4)]
    tiny.real(normal=normal, training=[], test=[])
    tiny.synthetic(**{f"c_{i}": tiny.scan(i) for i in range(4)})
    found = folds(tiny.read(seed=seed, allow_synthetic_validation=True), "synthetic_c")
    assert found[0] == found[1] != found[2] == found[3]


def test_cases_without_lesion_are_left_out(tiny: Tiny) -> None:
    tiny.real()
    tiny.synthetic(lesions=0)
    with pytest.raises(ValueError, match="may be trained on"):
        tiny.read()


@pytest.mark.parametrize("kind", ["real", "synthetic"])
@pytest.mark.parametrize("form", ["auto3dseg", "nnunet"])
def test_labels_that_are_all_empty_are_refused(
    tiny: Tiny, tmp_path: Path, form: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", form, str(tiny.synthetic()), "--real", str(tiny.real()), "--folds", "2"]
    words += ["--out", str(tmp_path / "out")]
    words += ["--dataset_id", "1", "--name", "a"] if form == "nnunet" else []
    labels = sorted((tmp_path / kind).rglob("*label*/*" if kind == "real" else "label*"))
    for path in labels[1:]:
        save(path, np.zeros(SHAPE, np.uint8))
    assert main(words) == 0  # one that is marked will do
    save(labels[0], np.zeros(SHAPE, np.uint8))
    assert main([*words, "--overwrite"]) == 1
    assert f"labels of {kind} cases must mark lesion in one at least" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: x["training"][0].update(fold=0), "1 of 4 entries with a fold and no validation"),
        (said("fold", 0, 2, 4, 6), "without gaps"),
        (lambda x: x["training"][0].update(fold="first"), "fold must be a whole number"),
        (lambda x: x["training"][0].update(image=["a.nii.gz", "b.nii.gz"]), "one channel"),
        (lambda x: x["training"][0].update(image="../synthetic/a/image.nii.gz"), "must lie in"),
        (lambda x: x["training"][0].update(image="images/none.nii.gz"), "must exist"),
        (lambda x: x["training"][0].pop("label"), "label of an entry must be one image file"),
        (lambda x: x["training"][0].update(synthetic=True), "must list no synthetic case"),
        (lambda x: x["test"].append(x["training"][0]["image"]), "must be listed once"),
        (lambda x: x.update(modality={"0": "MR"}), "modality of real and synthetic must agree"),
        (lambda x: x.update(modality={"0": "T1", "1": "T2"}), "must have one channel"),
        (lambda x: x.update(labels={"1": "tumour"}), "--rename lesion:tumour"),
        (lambda x: x.update(training=[]), "must have cases to validate on"),
    ],
)
def test_real_lists_that_cannot_be_used(tiny: Tiny, change: Callable, sentence: str) -> None:
    tiny.real(change=change)
    tiny.synthetic()
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        tiny.read()


def test_synthetic_files_under_another_name_are_found(tiny: Tiny) -> None:
    tiny.real()
    tiny.scan(0).write_bytes((tiny.synthetic() / "a/image.nii.gz").read_bytes())
    with pytest.raises(ValueError, match=r"must list no synthetic case, got \['case_0'\]"):
        tiny.read()


def test_synthetic_folders_that_cannot_be_used(tiny: Tiny, tmp_path: Path) -> None:
    tiny.real()
    with pytest.raises(FileNotFoundError, match="synthetic must be an existing JSON file"):
        read_cases(tmp_path, tiny.datalist)
    made = tiny.synthetic()
    edit(made / "datalist.json", lambda x: x["training"][0].update(synthetic=False))
    with pytest.raises(ValueError, match="synthetic cases only"):
        tiny.read()
    (tiny.synthetic() / "a" / RECORD_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="a record per case"):
        tiny.read()


def test_a_folder_of_pairs_will_do(tiny: Tiny) -> None:
    folder = tiny.real(testing=0).parent
    for index in range(4):
        for kind in ("image", "label"):
            place = folder / f"{kind}s/case_{index}.nii.gz"
            place.rename(folder / f"case_{index}_{kind}.nii.gz")
    tiny.datalist.unlink()
    made = tiny.synthetic()
    dataset = read_cases(made, folder, ExportChoice(folds=2))
    assert len([case for case in dataset.cases if case.label and not case.synthetic]) == 4
    (folder / "case_0_label.nii.gz").unlink()
    with pytest.raises(ValueError, match="without a label"):
        read_cases(made, folder, ExportChoice(folds=2))


def test_names_are_safe_and_unique(tiny: Tiny) -> None:
    tiny.real()
    tiny.synthetic(**{"Ä 1": None, "ä/../1".replace("/", "-"): None})
    names = [case.name for case in tiny.read().cases]
    assert len({name.lower() for name in names}) == len(names) == 7
    safe = [name.replace("_", "").replace("-", "") for name in names]
    assert all(name.isascii() and name.isalnum() for name in safe)
