"""The table of docs/inputs.md: each input gets its sentence, and nothing is written."""

import re
import shlex
from pathlib import Path

import pytest

from tests.bad_inputs import PAGE, USUAL, Row, rows, write_inputs
from tools.cli import main


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


def test_the_page_has_the_table_that_is_tested() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"`{USUAL}`" in text
    assert len(rows()) == text.partition("## What is refused")[2].count("\n| ") - 1 >= 60


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.words.replace("synthesize … ", ""))
def test_what_is_refused_gets_its_sentence(
    row: Row, inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(inputs)
    before = sorted(inputs.rglob("*"))
    assert main(shlex.split(row.words.replace("…", USUAL))) in (1, 2)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert re.fullmatch(f"error: {row.pattern}", said[0]), said[0]
    assert sorted(inputs.rglob("*")) == before
