"""``monai.bundle run`` refuses options that nobody reads; its errors end in a sentence."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.data import DataLoader
from tqdm import tqdm

from tools.bundle_run import as_command, require_known_options, sentence

ROOT = Path(__file__).resolve().parents[1] / "bundles" / "lefusion_lidc" / "configs"
TRAIN, EVALUATE = ROOT / "train.json", ROOT / "evaluate.json"
INFERENCE, SYNTHESIZE = ROOT / "inference.json", ROOT / "synthesize.json"


@pytest.mark.parametrize(
    ("configs", "option", "near"),
    [
        ([TRAIN], "--maxepochs 1", "max_epochs"),
        ([TRAIN], "--maxepochs=1", "max_epochs"),
        ([TRAIN], "--train#trainer#max_epoch 1", "train#trainer#max_epochs"),
        ([TRAIN], "--train::trainer::max_epoch 1", "train#trainer#max_epochs"),
        ([TRAIN], "--network_def#channel [8]", "network_def#channels"),
        ([TRAIN], "--config_fil x", "config_file"),
        ([TRAIN], "--presets []", None),  # of a file that is not named
        ([TRAIN], "--run_name a", None),  # of a tracking that is not asked for
        ([TRAIN, EVALUATE], "--preset []", "presets"),
        ([INFERENCE], "--num_inference_steps 2", "inferer#inferer#num_inference_steps"),
        ([INFERENCE, SYNTHESIZE], "--diameter 9", "diameter_mm"),
    ],
)
def test_option_without_a_key_is_refused_with_the_nearest(
    configs: list[Path], option: str, near: str | None
) -> None:
    words = ["run", "--config_file", str([str(path) for path in configs]), *option.split(" ")]
    with pytest.raises(ValueError, match=r"options must be keys of .*json, got --") as caught:
        require_known_options(words)
    assert option.split("=")[0].split(" ")[0] in str(caught.value)
    assert (f"did you mean --{near}?" in str(caught.value)) is (near is not None)


@pytest.mark.parametrize(
    ("configs", "options"),
    [
        ([TRAIN], "--max_epochs 1 --train#trainer#max_epochs=1 --max-epochs 1 --seed -1"),
        ([TRAIN], "--meta_file a --logging_file b --tracking mlflow --run_name c --bundle_root ."),
        ([TRAIN], "--init_id a --final_id b --workflow_type train --tracking c --tracking_uri d"),
        ([TRAIN], "--train#trainer#epoch_length 2"),  # an argument that the config leaves out
        ([TRAIN], "--train#dataloader#pin_memory True"),  # of a class that takes any
        ([TRAIN], "--train#handlers#1#_disabled_ True --train#handlers#2#interval 3"),
        ([TRAIN], "--network_def {} --network_def#channels [8] --_meta_#version 1"),
        ([TRAIN, EVALUATE], "--presets [] --validate#evaluator#amp True --max_epochs 1"),
        ([INFERENCE, SYNTHESIZE], "--scan a --diameter_mm [6,9] --displayable_configs#seed 1"),
    ],
)
def test_options_that_somebody_reads_are_taken(configs: list[Path], options: str) -> None:
    files = [str(path) for path in configs]
    given = str(files) if len(files) > 1 else files[0]
    require_known_options(["run", "any", "--config_file", given, *options.split()])


@pytest.mark.parametrize("value", ["None", "null"])
def test_null_that_nobody_would_take_as_null_is_refused(value: str) -> None:
    words = ["run", "--config_file", str(TRAIN), "--resume_from"]
    with pytest.raises(ValueError, match=r"resume_from must be '\$None' where null is meant, got"):
        require_known_options([*words, value])
    require_known_options([*words, "$None"])


def test_options_in_a_file_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "args.json"
    path.write_text(f'{{"config_file": "{TRAIN}", "max_epochs": 1}}')
    require_known_options(["run", "--args_file", str(path)])
    path.write_text(f'{{"config_file": "{TRAIN}", "maxepochs": 1}}')
    with pytest.raises(ValueError, match="did you mean --max_epochs"):
        require_known_options(["run", "--args_file", str(path)])


class Broken:
    """A data set that cannot be read."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        try:
            raise ValueError("image must be whole, got half of a.nii")
        except ValueError as error:
            raise RuntimeError("applying transform <Load object at 0x1>") from error


def wrapped(error: Exception, around: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise around from error

    return fail


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        (lambda: Broken()[0], "image must be whole, got half of a.nii"),
        (lambda: list(DataLoader(Broken(), num_workers=1)), "image must be whole, got half of a."),
        (wrapped(KeyError("a"), ValueError("b must\nbe c")), "b must be c"),
        (wrapped(TypeError("no\nsuch"), RuntimeError("around")), "TypeError: no such"),
        (
            lambda: Path("none/a").read_text(),
            "files must be readable or writable, got none/a (No",
        ),
    ],
)
def test_sentence_is_that_of_the_cause(fail: Callable[[], None], expected: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        fail()
    assert sentence(caught.value).startswith(expected)
    assert "\n" not in sentence(caught.value)


def run_command(monkeypatch: pytest.MonkeyPatch, *words: object) -> BaseException:
    """What ``python -m monai.bundle`` dies of, shown as Python shows it."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "argv", ["monai.bundle", *map(str, words)])
    with pytest.raises(RuntimeError) as caught:
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    sys.excepthook(caught.type, caught.value, caught.tb)
    return caught.value


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("config", [TRAIN, INFERENCE])
def test_last_line_of_the_command_is_one_sentence(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ["run", "--config_file", config, "--logging_file", False, "--output_dir", tmp_path]
    with tqdm(total=2, leave=False) as bar:
        bar.update()
        run_command(monkeypatch, *words, "--dataset_dir", tmp_path / "none")
    expected = f"error: dataset_dir must be an existing folder, got {tmp_path / 'none'}\n"
    shown = capfd.readouterr().err
    assert shown.endswith(f"\n{expected}")
    assert "Traceback" in shown
    run_command(monkeypatch, *words, "--seeed", 1)
    assert capfd.readouterr().err.endswith("got --seeed; did you mean --seed?\n")
    run_command(monkeypatch, *words, "--seed", "x")
    assert capfd.readouterr().err.endswith("\nerror: seed must be a whole number, got 'x'\n")


@pytest.mark.parametrize(
    "option",
    [
        "--max_epochs x",
        "--max_epochs {'a':1}",
        "--train#trainer#max_epochs x",  # a reference to a number
        "--validate::inferer::num_inference_steps two",
        "--seed x",
        "--seed 1.5",
        "--seed [1]",
        "--seed True",
    ],
)
def test_what_is_no_number_is_refused(option: str) -> None:
    words = ["run", "--config_file", str(TRAIN), *option.split(" ")]
    with pytest.raises(ValueError, match=r"^\S+ must be a (whole )?number, got ") as caught:
        require_known_options(words)
    assert str(caught.value).startswith(option[2:].split(" ")[0])
    require_known_options([*words[:-1], "'$2 * 3'"])


def test_other_programs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest", "--config_file", str(TRAIN), "--maxepochs", "1"])
    before = sys.excepthook
    as_command()
    assert sys.excepthook is before


@pytest.mark.parametrize("path", sorted(ROOT.parents[1].glob("*/configs/*.json")), ids=str)
def test_every_run_list_begins_with_the_check(path: Path) -> None:
    lists = ("training", "evaluating", "inference", "synthesizing", "measuring")
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in lists:
        if name in config:
            assert config[name][0] == {"_target_": "tools.bundle_run.as_command"}
