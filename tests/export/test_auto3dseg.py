"""Auto3DSeg's own programs take the dataset: folds, labels, analysis."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from monai.apps.auto3dseg import AutoRunner
from monai.auto3dseg.utils import datafold_read

from tests.export.tiny import Tiny
from tools.cli import main
from tools.export.auto3dseg import export_auto3dseg
from tools.export.dataset import ExportChoice

TWO = ExportChoice(folds=2)


def fold_names(out: Path, fold: int) -> tuple[list[str], list[str]]:
    """Names of who trains and who validates, as Auto3DSeg itself reads them."""
    sides = datafold_read(str(out / "datalist.json"), str(out), fold)
    train, validate = (sorted(Path(e["image"]).name.split(".")[0] for e in side) for side in sides)
    return train, validate


def runner(out: Path) -> AutoRunner:
    return AutoRunner(work_dir=str(out.parent / "work"), input=str(out / "input.yaml"))


def test_synthetic_cases_train_in_every_fold_and_validate_in_none(
    tiny: Tiny, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_auto3dseg(tiny.synthetic(a=None, b=None), tiny.real(), out, TWO)
    content = json.loads((out / "datalist.json").read_text())
    assert {e["fold"] for e in content["training"] if e["synthetic"]} == {2}
    validated = []
    for fold in range(2):
        train, validate = fold_names(out, fold)
        assert {"synthetic_a", "synthetic_b"} <= set(train)
        validated += validate
    assert sorted(validated) == [f"real_case_{index}" for index in range(4)]
    assert [e["image"] for e in content["testing"]] == ["imagesTs/real_case_4.nii.gz"]
    assert yaml.safe_load((out / "input.yaml").read_text()) == {
        "modality": "CT",
        "datalist": str(out / "datalist.json"),
        "dataroot": str(out),
        "class_names": ["lesion"],
        "num_fold": 2,
        "multigpu": False,
    }
    assert (runner(out).num_fold, runner(out).max_fold) == (2, 3)


def test_a_validation_list_becomes_fold_0(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tiny.real(change=lambda x: x.update(validation=[x["training"].pop()]))
    export_auto3dseg(tiny.synthetic(), tiny.datalist, out)
    train, validate = fold_names(out, 0)
    assert train == ["real_case_0", "real_case_1", "real_case_2", "synthetic_a"]
    assert validate == ["real_case_3"]
    assert runner(out).num_fold == 1


def test_copies_of_validated_scans_are_left_out_or_their_scans_trained(
    tiny: Tiny, tmp_path: Path
) -> None:
    real = tiny.real()
    made = tiny.synthetic(a=None, copy=tiny.scan(1))
    facts = export_auto3dseg(made, real, tmp_path / "dropped", TWO)
    assert facts["synthetic"] == ["synthetic_a"]
    assert "is validated in fold" in facts["left_out"]["synthetic_copy"]
    assert not list((tmp_path / "dropped").rglob("*synthetic_copy*"))

    choice = ExportChoice(folds=2, keep_derived=True)
    facts = export_auto3dseg(made, real, tmp_path / "kept", choice)
    assert facts["left_out"] == {}
    for fold in range(2):
        train, _ = fold_names(tmp_path / "kept", fold)
        assert {"synthetic_copy", "real_case_1"} <= set(train)


def test_data_analyzer_runs_on_it(tiny: Tiny, tmp_path: Path) -> None:
    out, stats = tmp_path / "out", tmp_path / "datastats.yaml"
    export_auto3dseg(tiny.synthetic(), tiny.real(count=2, testing=0), out, TWO)
    words = ["DataAnalyzer", "get_all_case_stats", "--datalist", str(out / "datalist.json")]
    words += ["--dataroot", str(out), "--output_path", str(stats), "--device", "cpu"]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "monai.apps.auto3dseg", *words, "--worker", "0"],
        check=True,
        stdout=subprocess.DEVNULL,  # it prints all it found
    )
    summary = yaml.safe_load(stats.read_text())["stats_summary"]
    assert summary["n_cases"] == 3
    assert summary["label_stats"]["labels"] == [0, 1]
    assert summary["image_stats"]["shape"]["max"] == [16, 16, 12]
    assert summary["image_stats"]["spacing"]["max"] == pytest.approx([1, 1, 2])


def test_the_command_says_what_it_did(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, real, out = tiny.synthetic(), tiny.real(name="tumour"), tmp_path / "out"
    words = ["export", "auto3dseg", str(made), "--real", str(real), "--out", str(out)]
    words += ["--folds", "2"]
    assert main(words) == 1
    assert "--rename lesion:tumour" in capsys.readouterr().err
    assert not out.exists()
    assert main([*words, "--rename", "lesion:tumour", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["real_training"], facts["synthetic_training"], facts["testing"]) == (4, 1, 1)
    assert facts["classes"] == ["tumour"]
    assert main([*words, "--rename", "lesion:tumour"]) == 1
    assert "out must be empty or new" in capsys.readouterr().err
    assert main([*words, "--rename", "lesion:tumour", "--overwrite"]) == 0
    assert "AutoRunner run" in capsys.readouterr().out


def test_hearts_keep_all_their_classes(tiny: Tiny, tmp_path: Path) -> None:
    real = tiny.real(labels={"0": "background", "2": "wall", "5": "infarct", "7": "cavity"})
    for path in (real.parent / "labels").iterdir():
        image = nib.load(path)
        values = np.asarray(image.dataobj) * np.uint8(2)
        values[0, 0, :3] = [2, 5, 7]
        nib.save(nib.Nifti1Image(values, image.affine), path)
    made, out = tiny.synthetic(class_name="infarct"), tmp_path / "out"
    facts = export_auto3dseg(made, real, out, TWO)
    assert facts["classes"] == ["wall", "infarct", "cavity"]
    assert "wall, cavity" in facts["warnings"][0]  # synthetic labels here lack them

    def values(name: str) -> list[int]:
        return np.unique(np.asarray(nib.load(out / "labelsTr" / name).dataobj)).tolist()

    assert values("real_case_0.nii.gz") == [0, 1, 2, 3]
    assert values("synthetic_a.nii.gz") == [0, 2]
    only = ExportChoice(folds=2, classes=("infarct",))
    facts = export_auto3dseg(made, real, out, only, overwrite=True)
    assert facts["warnings"] == []
    assert values("real_case_0.nii.gz") == values("synthetic_a.nii.gz") == [0, 1]
