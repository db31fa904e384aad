"""Adaptation: folds by patient, what is trained on what, what is told before and after."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.bundle import find_bundle, sha256_file
from tools.cli import main
from tools.files import read_entries
from tools.studies import adapt as module
from tools.studies.adapt import MEASURES
from tools.studies.downstream import train_bundle as training
from tools.studies.downstream.train_bundle import train_bundle

BUNDLE = find_bundle("lefusion_lidc")


def write_lesions(folder: Path, patients: int = 4) -> Path:
    """Write two scans of each patient with a lesion each."""
    entries, grid = [], np.indices((24,) * 3) - 12
    for number in range(2 * patients):
        ball = (grid**2).sum(0) < 16
        values = np.where(ball, 0, -850) + np.random.default_rng(number).normal(0, 30, ball.shape)
        entry = {"patient": f"p{number // 2}"}
        for key, array in (("image", values.astype(np.int16)), ("label", ball.astype(np.uint8))):
            entry[key] = f"s{number}_{key}.nii.gz"
            folder.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / entry[key])
        entries.append(entry)
    (folder / "datalist.json").write_text(json.dumps({"training": entries}))
    return folder / "datalist.json"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[set[str], set[str], dict]]:
    """Train and compare nothing; keep the patients of each training, those tested, the changes."""
    seen: list = []

    def fake_training(bundle: str, data: Path, out: Path, changes: dict) -> Path:
        sections = [
            {each["patient"] for each in read_entries(data / "datalist.json", "x", section)}
            for section in ("training", "validation")
        ]
        for entry in read_entries(data / "datalist.json", "x"):
            assert (data / entry["image"]).is_file()
        seen.append((*sections, changes))
        return BUNDLE / "models" / "model_repaint.pt"

    def fake_compare(real: Path, out: Path, settings: module.Settings) -> dict:
        def row(value: float) -> dict:
            each = {"mean": value, "value": value}
            parts = {"inside": each, "border": each}
            distances = {"frechet_radiomics_inside": {"value": float("nan")}}
            return {"jsd": each, "psnr": each, "ssim": each, "told_apart": parts} | {
                "distances": distances
            }

        names = ["healed", *(Path(method).name for method in settings.methods)]
        return {"methods": {name: row(0.5 + k / 10) for k, name in enumerate(names)}}

    monkeypatch.setattr(module, "train_bundle", fake_training)
    monkeypatch.setattr(module, "compare", fake_compare)
    return seen


def test_folds_are_of_patients_and_the_last_training_is_of_all(
    tmp_path: Path, trained: list, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--datalist", str(write_lesions(tmp_path / "in")), "--out", str(out), "--folds", "2"]
    assert main(["adapt", *words, "--epochs", "3"]) == 0
    everybody = {"p0", "p1", "p2", "p3"}
    for patients, tested, changes in trained[:2]:
        assert not patients & tested
        assert patients | tested == everybody
        assert changes["max_epochs"] == 3
        assert Path(changes["start_weights"]).name == "model.pt"
    assert trained[0][1] | trained[1][1] == everybody
    assert trained[2][0] == everybody
    # what is kept is a bundle of its own, with what was trained
    weights = sha256_file(out / "adapted" / "models" / "model.pt")
    assert weights == sha256_file(BUNDLE / "models" / "model_repaint.pt")
    assert (out / "adapted" / "configs" / "synthesize.json").is_file()
    readme = (out / "adapted" / "docs" / "README.md").read_text()
    assert readme.startswith("# lefusion_lidc, adapted\n")
    assert "| JSD (nats) | 0.600 (0.600, 0.600) | 0.700 (0.700, 0.700) |" in readme
    assert (BUNDLE / "docs" / "README.md").read_text() in readme
    found = json.loads((out / "adapt.json").read_text())
    assert found["lesions"] == 8
    assert [fold["before"]["JSD (nats)"] for fold in found["folds"]] == [0.6, 0.6]
    assert [fold["after"]["JSD (nats)"] for fold in found["folds"]] == [0.7, 0.7]
    assert set(found["folds"][0]["after"]) == set(MEASURES)
    assert "0.700 (0.700, 0.700)" in capsys.readouterr().out
    # what is there was trained for 3 epochs, and is not taken for something else
    assert main(["adapt", *words, "--epochs", "4"]) == 1
    assert "out must hold one request only" in capsys.readouterr().err


def test_before_and_after_differ_in_their_training_alone(
    tmp_path: Path, trained: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal steps, and before is what the training began with."""
    judged: list[module.Settings] = []
    compared = module.compare
    monkeypatch.setattr(
        module,
        "compare",
        lambda real, out, settings: judged.append(settings) or compared(real, out, settings),
    )
    out, own = tmp_path / "out", BUNDLE / "models" / "model_repaint.pt"
    words = ["--datalist", str(write_lesions(tmp_path / "in")), "--folds", "2"]
    assert main(["adapt", *words, "--out", str(out)]) == 0
    preset = json.loads((Path(module.__file__).parent / "compare_lung.json").read_text())
    assert [settings.steps for settings in judged] == [preset["steps"]["lefusion_lidc"]] * 2
    again = tmp_path / "again"
    assert main(["adapt", *words, "--out", str(again), "--weights", str(own)]) == 0
    assert {changes["start_weights"] for *_, changes in trained[3:]} == {str(own)}
    for settings in judged[2:]:
        before = Path(settings.methods[0])
        assert sha256_file(before / "models" / "model.pt") == sha256_file(own)
        assert (before / "configs" / "synthesize.json").is_file()


def test_all_lesions_are_adapted_to_or_it_is_said(
    tmp_path: Path, trained: list, capsys: pytest.CaptureFixture[str]
) -> None:
    datalist = write_lesions(tmp_path / "in")
    content = json.loads(datalist.read_text())
    for number, entry in enumerate(content["training"]):
        entry["fold"] = number // 4  # as Auto3DSeg writes them: of another training
    datalist.write_text(json.dumps(content))
    words = ["--datalist", str(datalist), "--folds", "2"]
    assert main(["adapt", *words, "--out", str(tmp_path / "out")]) == 0
    assert trained[2][0] == {"p0", "p1", "p2", "p3"}
    (tmp_path / "in" / "s0_label.nii.gz").write_bytes(b"")
    capsys.readouterr()
    assert main(["adapt", *words, "--out", str(tmp_path / "broken")]) == 1
    assert "scans must all be prepared, got 1 that cannot be: s0: " in capsys.readouterr().err


def test_another_organ_is_judged_by_its_own_bundle(
    tmp_path: Path, trained: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[tuple[Path, module.Settings]] = []
    compared = module.compare
    monkeypatch.setattr(
        module,
        "compare",
        lambda real, out, settings: (
            judged.append((real, settings)) or compared(real, out, settings)
        ),
    )
    out = tmp_path / "out"
    words = ["--datalist", str(write_lesions(tmp_path / "in")), "--out", str(out), "--folds", "2"]
    assert main(["adapt", *words, "--organ", "liver", "--window_hu=-1000,400"]) == 0
    for number, (real, settings) in enumerate(judged, 1):
        assert real == out / f"fold_{number}" / "data" / "organ_datalist.json"
        assert settings.methods == [
            str(out / name) for name in ("unadapted", f"fold_{number}/unadapted_adapted")
        ]
        assert json.loads(Path(settings.preset).read_text())["bundle"] == str(out / "unadapted")
    assert len(judged) == 2
    adapted = out / "adapted"
    assert (adapted / "configs" / "organ.json").is_file()
    # what is kept learns from further lesions of that organ, and is judged as of it
    shutil.rmtree(adapted / "docs")
    words[3] = str(tmp_path / "again")
    assert main(["adapt", *words, "--bundle", str(adapted)]) == 0
    for real, settings in judged[2:]:
        assert real.name == "organ_datalist.json"
        assert settings.methods[0] == str(adapted)
        assert json.loads(Path(settings.preset).read_text())["bundle"] == str(adapted)
    assert len(judged) == 4


def test_lesions_of_a_bundle_of_livers_are_tumours_there(
    tmp_path: Path, trained: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows call a lesion 1, label maps of a liver call the liver so."""
    seen: list[set[int]] = []

    def judged(real: Path, out: Path, settings: module.Settings) -> None:
        for entry in json.loads(real.read_text())["validation"]:
            label = nib.load(real.parent / entry["label"])
            seen.append(set(np.unique(np.asarray(label.dataobj)).tolist()))
        raise ValueError("enough seen")

    monkeypatch.setattr(module, "compare", judged)
    words = ["--datalist", str(write_lesions(tmp_path / "in")), "--out", str(tmp_path / "out")]
    assert main(["adapt", *words, "--folds", "2", "--bundle", "difftumor"]) == 1
    assert seen
    assert all(values == {0, 2} for values in seen)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--folds", "5"], "folds must be from 2 to the number of patients (4), got 5"),
        (["--folds", "4"], "folds must hold 4 lesions each, got 2 of 8"),
        (["--bundle", "diffmask"], "bundle must draw lesions into scans"),
        (["--bundle", "nodule_classification"], "bundle must draw lesions into scans"),
        (["--weights", "none.pt"], "weights must be an existing file"),
        (["--window_hu=-100,250"], "window_hu goes with organ, got (-100.0, 250.0) without one"),
    ],
)
def test_what_cannot_be_adapted(
    tmp_path: Path,
    trained: list,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    given = ["--datalist", str(write_lesions(tmp_path / "in")), "--out", str(tmp_path / "out")]
    assert main(["adapt", *given, "--folds", "2", *words]) == 1
    assert sentence in capsys.readouterr().err


def test_an_organ_that_compare_does_not_know_is_refused(
    tmp_path: Path, trained: list, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(BUNDLE, tmp_path / "mine")
    path = tmp_path / "mine" / "configs" / "synthesize.json"
    path.write_text(path.read_text().replace('"name_or_path": "lung"', '"name_or_path": "kidney"'))
    given = ["--datalist", str(write_lesions(tmp_path / "in")), "--out", str(tmp_path / "out")]
    assert main(["adapt", *given, "--folds", "2", "--bundle", str(tmp_path / "mine")]) == 1
    assert "bundle must be of an organ that compare knows, got kidney" in capsys.readouterr().err
    assert not trained


def test_a_training_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], stdout: object, **options: object) -> object:
        commands.append(command)
        stdout.write("some words\nValueError: dataset_dir must exist\n")  # type: ignore[attr-defined]
        return type("Done", (), {"returncode": 1})()

    monkeypatch.setattr(training.subprocess, "run", run)
    with pytest.raises(ValueError, match="got lefusion_lidc: ValueError: dataset_dir must exist"):
        train_bundle("lefusion_lidc", tmp_path, tmp_path / "out", {"max_epochs": 2})
    assert commands[0][-2:] == ["--max_epochs", "2"]
    assert not (tmp_path / "out" / "model.pt").exists()
