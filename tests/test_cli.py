"""The command line: help for every command, one sentence for bad input, exit codes."""

import inspect
import json
import re
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.cli import COMMANDS, main
from tools.commands.completion import PROGRAM, bash_script
from tools.commands.result import Result
from tools.synthesis.records import read_record


def leaves() -> list[tuple[str, ...]]:
    names: list[tuple[str, ...]] = []
    for name, command in COMMANDS.items():
        names += [(name, sub) for sub in command] if isinstance(command, dict) else [(name,)]
    return names


@pytest.mark.parametrize("names", leaves(), ids=" ".join)
def test_every_command_explains_its_arguments(names: tuple[str, ...]) -> None:
    command = COMMANDS[names[0]]
    function = command[names[1]] if isinstance(command, dict) else command
    documented = function.__doc__ or ""
    for argument in inspect.signature(function).parameters:
        assert f"{argument}:" in documented, f"{names} does not explain {argument}"


def test_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    page = capsys.readouterr().out
    for names in leaves():
        assert f"  {' '.join(names)}  " in page
    for code in (0, 1, 2, 130):
        assert f"\n  {code}  " in page


@pytest.mark.parametrize(
    "words",
    [
        ["--devise", "cpu"],
        ["surplus", "more"],
        ["--shape", "chest"],
    ],
)
def test_words_that_mean_nothing_stop_before_the_work(tmp_path: Path, words: list[str]) -> None:
    out = tmp_path / "out"
    assert main(["prepare", "phantom", "--out", str(out), "--kind", "lesion_rois", *words]) == 2
    assert not out.exists()


def test_group_without_command_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert"]) == 0
    assert "lefusion" in capsys.readouterr().out


@pytest.mark.parametrize("names", leaves(), ids=" ".join)
def test_help_holds_every_word_of_the_docstring(
    names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*names, "--help"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"python -m tools {' '.join(names)} - " in printed.out
    command = COMMANDS[names[0]]
    function = command[names[1]] if isinstance(command, dict) else command
    description, _, arguments = (inspect.getdoc(function) or "").partition("Args:\n")
    described = re.sub(r"(?m)^ {4}\w+:", "", arguments)  # their names are set in capitals
    missing = set(f"{description} {described}".split()) - set(printed.out.split())
    assert {word.rstrip(".") for word in missing} <= set(printed.out.replace(".", " ").split())


def test_help_of_an_unknown_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesise", "--help"]) == 2
    assert "synthesise" in capsys.readouterr().err


def test_json_is_all_there_is_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(size: int) -> Result:
        print("progress")
        return Result("for people", {"size": size}, exit_code=size - 1)

    monkeypatch.setitem(COMMANDS, "measure", measure)
    assert main(["measure", "--size", "1", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"ok": True, "size": 1}
    assert printed.err == "progress\n"
    assert main(["--json", "measure", "2"]) == 1
    assert json.loads(capsys.readouterr().out) == {"ok": False, "size": 2}
    assert main(["measure", "1"]) == 0
    assert capsys.readouterr().out == "progress\nfor people\n"


def test_json_of_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", "no/bundle", "--json"]) == 1
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["ok"] is False
    assert answer["error"].startswith("bundle must be an existing folder")
    assert answer["error"] in printed.err


def test_text_stays_as_it_was_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def name(out: str, url: str | None = "x", size: int = 1) -> Result:
        return Result("", {"given": [out, url, size]})

    name.__annotations__ = {"out": "str", "url": "str | None", "size": "int"}
    monkeypatch.setitem(COMMANDS, "name", name)
    for words, given in (
        (["1e3", "--size", "2"], ["1e3", "x", 2]),
        (["--out", "007", "--url", "12"], ["007", "12", 1]),
        (["(1,2)", "None"], ["(1,2)", None, 1]),
    ):
        assert main(["name", *words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["given"] == given
    assert main(["name", "--out"]) == 1
    assert "out must have a value" in capsys.readouterr().err


def test_classes_may_be_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "auto3dseg", str(tmp_path), "--out", str(tmp_path / "out"), "--classes", "5"]
    assert main(words) == 1
    assert "synthetic must have a datalist" in capsys.readouterr().err


def test_interrupt_has_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "wait", wait)
    assert main(["wait"]) == 130


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ([""], {"synthesize", "prepare", "--help"}),
        (["syn"], {"synthesize"}),
        (["prepare", ""], {"scans", "lidc"}),
        (["prepare", "scans", "--dat"], {"--datalist"}),
        (["synthesize", "--scan", "a.nii.gz", "--dia"], {"--diameter_mm"}),
        (["pack", "bundles/diffmask", "--js"], {"--json"}),
        (["check", "--f"], {"--fix"}),
        (["synthesize", "--scan", ""], set()),
    ],
)
def test_bash_completes(typed: list[str], offered: set[str], tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion"
    script.write_text(bash_script(COMMANDS))
    words = " ".join(f"'{word}'" for word in [PROGRAM, *typed])
    lines = f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed)}; "
    lines += '_synthetic_lesions; echo "${COMPREPLY[*]}"'
    done = subprocess.run([bash, "-c", lines], capture_output=True, text=True, check=True)
    assert offered <= set(done.stdout.split())
    if typed[-1] or not offered:
        assert set(done.stdout.split()) == offered


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert PROGRAM in script
    assert "diameter" in script
    assert ("bashcompinit" in script) == (shell == "zsh")


def test_wrong_usage_is_one_sentence_and_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", "--scan", "a.nii.gz", "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: The function received no value for the required")
    assert printed.err.count("\n") == 1
    assert "argument: out" in json.loads(printed.out)["error"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--scan", "no.nii.gz"], "scan must be a NIfTI file, a DICOM series folder, a"),
        (["--scan", "{scan}", "--bundle", "none"], "bundle must be a bundle folder or one of"),
        (["--scan", "{scan}", "--texture", "granite"], "texture must be one of"),
        (["--scan", "{scan}", "--shape", "cube"], "shape must be one of"),
        (["--scan", "{scan}", "--bundle", "diffmask"], "bundle must have window_hu"),
        (
            ["--scan", "{scan}", "--bundle", "hr_ldm", "--steps", "4"],
            "error: num_inference_steps must be at least 50 for ddim",
        ),
        (
            ["--scan", "{scan}", "--shape", "diffmask:lefusion_lidc"],
            "bundle must have shape_window",
        ),
        (["--scan", "{scan}", "--spiculation", "4"], "spiculation and lobulation need shape diffm"),
        (["--scan", "{scan}", "--lobulation", "6"], "lobulation must be a score from 1 to 5"),
        (["--scan", "{scan}", "--diameter_mm", "30,10"], "diameter_mm must be two numbers"),
        (["--scan", "{scan}", "--device", "abacus"], "device must be auto, cpu or cuda"),
        (["--scan", "{scan}", "--site", "9000,0,0"], "must lie inside the volume"),
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    scan = tmp_path / "scan.nii.gz"
    values = np.full((20, 20, 20), -850, np.int16)
    nib.save(nib.Nifti1Image(values, np.eye(4)), scan)
    nib.save(nib.Nifti1Image(np.ones_like(values, np.uint8), np.eye(4)), tmp_path / "organ.nii.gz")
    given = [argument.format(scan=scan) for argument in arguments]
    organ = ["--organ_mask", str(tmp_path / "organ.nii.gz"), "--count", "1"]
    out = ["--out", str(tmp_path / "out")]
    shape = [] if "--shape" in given else ["--shape", "ellipsoid"]  # needs no weights
    assert main(["synthesize", *given, *shape, *organ, *out]) == 1
    assert sentence in capsys.readouterr().err
    assert not [path for path in tmp_path.glob("out/*") if path.is_file()]


def test_learned_shapes_from_scan_to_record(tmp_path: Path, shape_bundle: Path) -> None:
    rng, affine = np.random.default_rng(0), np.diag([0.9, 0.9, 1.6, 1.0])
    values = rng.normal(-850, 30, (44, 44, 28)).astype(np.int16)
    organ = np.zeros_like(values, np.uint8)
    organ[4:-4, 4:-4, 4:-4] = 1
    (tmp_path / "scans").mkdir()
    for name, data in (("scan_image", values), ("scan_lung", organ)):
        nib.save(nib.Nifti1Image(data, affine), tmp_path / "scans" / f"{name}.nii.gz")
    words = ["--scan", str(tmp_path / "scans"), "--shape", f"diffmask:{shape_bundle}"]
    words += ["--count", "1", "--diameter_mm", "9", "--spiculation", "4", "--texture", "solid"]
    words += ["--steps", "2", "--attempts", "1", "--jump_n_sample", "1", "--device", "cpu"]
    assert main(["synthesize", *words, "--out", str(tmp_path / "one")]) == 0
    label = np.asarray(nib.load(tmp_path / "one" / "scan" / "label.nii.gz").dataobj)
    # one piece is kept, so a voxel or two may be over
    assert int(label.sum()) == pytest.approx(np.pi / 6 * 9**3 / (0.9 * 0.9 * 1.6), abs=3)
    assert not label[organ == 0].any()
    record = read_record(tmp_path / "one" / "scan" / "lesions.json")
    assert record.lesions[0].shape_source == "diffmask"
    assert record.request["shape"]["spiculation"] == 4
    assert len(record.request["shape"]["weights_sha256"]) == 64
    # a folder with other shapes is not gone on with
    assert main(["synthesize", *words, "--lobulation", "2", "--out", str(tmp_path / "one")]) == 1
