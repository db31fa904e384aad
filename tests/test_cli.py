"""The command line: help for every command, one sentence for bad input, exit codes."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tools.cli import COMMANDS, main


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
    for argument in function.__code__.co_varnames[: function.__code__.co_argcount]:
        assert f"{argument}:" in documented, f"{names} does not explain {argument}"


def test_wrong_usage_exits_with_two() -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["synthesize", "--scan", "a.nii.gz"])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--scan", "no.nii.gz"], "scan must be a NIfTI file, a DICOM series folder, a"),
        (["--scan", "{scan}", "--bundle", "none"], "bundle must be a bundle folder or one of"),
        (["--scan", "{scan}", "--texture", "granite"], "texture must be one of"),
        (["--scan", "{scan}", "--shape", "cube"], "shape must be one of"),
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
    assert main(["synthesize", *given, *organ, *out]) == 1
    assert sentence in capsys.readouterr().err
    assert not [path for path in tmp_path.glob("out/*") if path.is_file()]
