"""The command line: help for every command, one sentence for bad input, exit codes."""

import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.cli import COMMANDS, main
from tools.commands.arguments import UsageError, find, understood
from tools.commands.result import Result
from tools.synthesis.records import read_record

ROOT = Path(__file__).resolve().parents[1]


def leaves() -> dict[str, Callable]:
    found: dict[str, Callable] = {}
    for name, command in COMMANDS.items():
        group = command if isinstance(command, dict) else {"": command}
        found |= {f"{name} {word}".strip(): function for word, function in group.items()}
    return found


@pytest.mark.parametrize(("name", "command"), leaves().items(), ids=leaves())
def test_help_explains_every_option(
    name: str, command: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*name.split(), "--help"]) == main([*name.split(), "--made-up", "-h"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith(f"python -m tools {name} ")
    for option in inspect.signature(command).parameters.values():
        shown = option.name.upper() if option.kind is option.VAR_POSITIONAL else f"--{option.name}"
        assert re.search(rf"\n  {shown} \(.+\)\n {{6}}\w", printed.out), f"{shown} is not explained"
    written = set(re.sub(r"(?m)^ {4}\w+:|^Args:", "", inspect.getdoc(command) or "").split())
    assert written <= set(printed.out.split())


def test_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    page = capsys.readouterr().out
    for name in leaves():
        assert f"  {name}  " in page
    for code in (0, 1, 2, 130):
        assert f"\n  {code}  " in page
    assert main(["convert"]) == 0
    assert "\n  lefusion  " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["synthesise", "--help"], "'synthesise' is no command, perhaps synthesize"),
        (["prepare", "phantoms"], "'prepare phantoms' is no command, perhaps phantom"),
        (["prepare", "--out", "x"], "'prepare --out' is no command"),
        (["demo", "--sede", "1"], "'--sede' is no option, perhaps --seed"),
        (["demo", "--sede=1"], "'--sede=1' is no option, perhaps --seed"),
        (["demo", "x", "more"], "'more' is one word too many"),
        (["demo", "--out"], "--out: expected one argument"),
        (["synthesize", "--scan", "a"], "--out must be given; see python -m tools synthesize"),
        (["export", "nnunet", "a", "b"], "--dataset_id and --name must be given"),
    ],
)
def test_wrong_usage_is_one_sentence_before_the_work(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {sentence}")
    assert printed.err.count("\n") == 1
    assert printed.err == f"error: {json.loads(printed.out)['error']}\n"


def everything(
    name: str,
    count: int | None = None,
    share: float | tuple[float, float] | None = None,
    classes: Sequence[int] | None = None,
    site: tuple[float, float, float] = (0, 0, 0),
    outside: float | str = "auto",
    dry_run: bool = False,
) -> Result:
    given = {"count": count, "share": share, "classes": classes, "site": site, "outside": outside}
    return Result("", {"name": name, "dry_run": dry_run} | given)


@pytest.mark.parametrize(
    ("words", "argument", "value"),
    [
        ("1e3", "name", "1e3"),
        ("--name None", "name", "None"),
        ("(1,2)", "name", "(1,2)"),
        ("-7 --count -3", "name", "-7"),
        ("-7 --count -3", "count", -3),
        ("x --share 6,20", "share", (6, 20)),
        ("x --share=0.5 --share (1,2)", "share", (1, 2)),
        ("x --share 7", "share", 7),
        ("x --classes 2", "classes", [2]),
        ("x --classes 3,4", "classes", [3, 4]),
        ("--site -62.5,-20,140 x", "site", (-62.5, -20, 140)),
        ("x --outside -1", "outside", -1),
        ("x --outside auto", "outside", "auto"),
        ("--dry_run x", "dry_run", True),
        ("--dry-run true x", "dry_run", True),
        ("x --dry-run=False", "dry_run", False),
        ("--dry_run False x", "name", "x"),
        ("--dry_run --nodry_run x", "dry_run", False),
        ("x --count 2.5", None, "count must be a whole number, got '2.5'"),
        ("x --share nan", None, "share must be a number or 2 numbers with commas, got 'nan'"),
        ("x --classes a,2", None, "classes must be whole numbers with commas, got 'a,2'"),
        ("x --site 1,2", None, "site must be 3 numbers with commas, got '1,2'"),
        ("x --dry_run=maybe", None, "dry_run must be true or false, got 'maybe'"),
    ],
)
def test_words_are_what_the_signature_says(words: str, argument: str | None, value: object) -> None:
    if argument is None:
        with pytest.raises(ValueError, match=re.escape(str(value))):
            understood(everything, words.split())
    else:
        assert understood(everything, words.split())().facts[argument] == value


def written_commands() -> dict[str, bool]:
    """Command lines of the documentation, and whether they are whole rather than mentioned."""
    found: dict[str, bool] = {}
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]
    for page in [*pages, *ROOT.glob("bundles/*/docs/README.md")]:
        text = page.read_text(encoding="utf-8").replace("\\\n", "")
        found |= dict.fromkeys(re.findall(r"`python -m tools ([^`]+)`", text), False)
        found |= dict.fromkeys(re.findall(r"(?m)^python -m tools (.+)$", text), True)
    for command in leaves().values():
        documented = inspect.getdoc(command) or ""
        examples = re.findall(r"(?s)Example: python -m tools (.+?)\n\n", documented)
        found |= dict.fromkeys(examples, True)
    return found


@pytest.mark.parametrize(("line", "whole"), written_commands().items())
def test_commands_of_the_documentation_are_understood(line: str, whole: bool) -> None:
    words = [word for word in shlex.split(line, comments=True) if word != "--help"]
    command, path = find(COMMANDS, words)
    try:
        if callable(command):
            understood(command, words[len(path) :])
    except UsageError as error:
        if whole or "must be given" not in str(error):
            raise


def test_json_is_all_there_is_on_stdout_and_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(size: int) -> Result:
        if size == 0:
            raise KeyboardInterrupt
        print("progress")
        return Result("for people", {"size": size, "sd": float("nan")}, exit_code=size - 1)

    monkeypatch.setitem(COMMANDS, "measure", measure)
    assert main(["measure", "--size", "1", "--json"]) == 0
    printed = capsys.readouterr()
    # what could not be measured is null: NaN is no JSON
    assert json.loads(printed.out) == {"ok": True, "size": 1, "sd": None}
    assert printed.err == "progress\n"
    assert main(["--json", "measure", "2"]) == 1
    assert json.loads(capsys.readouterr().out) == {"ok": False, "size": 2, "sd": None}
    assert main(["measure", "1"]) == 0
    assert capsys.readouterr().out == "progress\nfor people\n"
    assert main(["measure", "0"]) == 130


def test_two_dashes_are_a_value_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["synthesize", "--scan", "none.nii.gz", "--out", "out"]
    for word, rule in (("--", "be a whole number from 1 to 1000, got '--'"), ("", "not be empty")):
        assert main([*words, f"--count={word}"]) == 1
        assert f"count must {rule}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ([""], {"synthesize", "prepare", "--help"}),
        (["syn"], {"synthesize"}),
        (["prepare", ""], {"scans", "lidc"}),
        (["prepare", "scans", "--dat"], {"--datalist", "--dataset_dir"}),
        (["synthesize", "--scan", "a.nii.gz", "--dia"], {"--diameter_mm"}),
        (["pack", "bundles/diffmask", "--js"], {"--json"}),
        (["check", "--f"], {"--fix"}),
        (["synthesize", "--scan", ""], set()),
    ],
)
def test_bash_completes(
    typed: list[str], offered: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    assert main(["completion", "bash"]) == 0
    (script := tmp_path / "completion").write_text(capsys.readouterr().out)
    words = " ".join(f"'{word}'" for word in ["synthetic-lesions", *typed])
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
    assert "synthetic-lesions" in script
    assert "diameter_mm" in script
    assert ("bashcompinit" in script) == (shell == "zsh")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--scan no.nii.gz", "scan must be an image file, a DICOM series folder, a"),
        ("--bundle none", "bundle must be a bundle folder or one of"),
        ("--bundle hr_ldm --steps 4", "error: num_inference_steps (steps) must be at least 50"),
        ("--texture granite", "texture must be one of"),
        ("--shape diffmask:lefusion_lidc", "bundle must have shape_window"),
        ("--lobulation 6 --shape diffmask", "lobulation must be a score from 1 to 5"),
        ("--site 9000,0,0", "must lie inside the volume"),
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, sentence: str
) -> None:
    values = np.full((20, 20, 20), -850, np.int16)
    for name, data in (("scan", values), ("organ", np.ones_like(values, np.uint8))):
        nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / f"{name}.nii.gz")
    known = {"--shape": "ellipsoid", "--count": "1", "--out": str(tmp_path / "out")}
    known |= {"--scan": f"{tmp_path}/scan.nii.gz", "--organ_mask": f"{tmp_path}/organ.nii.gz"}
    typed = words.split()
    known |= dict(zip(typed[::2], typed[1::2], strict=True))
    assert main(["synthesize", *(word for pair in known.items() for word in pair)]) == 1
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


@pytest.mark.parametrize("words", [["--help"], ["--help", "--json"]])
def test_a_reader_that_has_enough_is_no_error(words: list[str]) -> None:
    run = [sys.executable, "-m", "tools", *words]
    process = subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # type: ignore[union-attr]
    assert process.stderr.read() == b""  # type: ignore[union-attr]
    assert process.wait() == 0
