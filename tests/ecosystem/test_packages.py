"""What `make audit` says of findings, of packages that nobody knows, and of a service far away."""

import json
import sys
from pathlib import Path

import pytest

from ecosystem import packages


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment whose pip-audit prints what lies beside it."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "pip-audit"
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/answer\necho 'no such host' >&2\n")
    program.chmod(0o755)
    return tmp_path


CLEAN = {"name": "numpy", "version": "2.4.6", "vulns": []}
HURT = {"name": "torch", "version": "2.1", "vulns": [{"id": "X-1", "fix_versions": ["2.2"]}]}
UNKNOWN = {"name": "monai", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("answer", "status", "sentence"),
    [
        ([CLEAN], 0, "1 of 1 packages checked, 0 known vulnerabilities"),
        ([CLEAN, HURT], 1, "torch 2.1: X-1, mended in 2.2"),
        ([CLEAN, HURT, UNKNOWN], 2, "for each package, got none for monai"),
        (None, 2, "must reach the advisory service pypi, got: no such host; nothing is checked"),
    ],
)
def test_audit_tells_findings_from_silence(
    environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: list[dict] | None,
    status: int,
    sentence: str,
) -> None:
    content = "" if answer is None else json.dumps({"dependencies": answer})
    (environment / "answer").write_text(content)
    monkeypatch.setattr(sys, "argv", ["x", "audit", "--environment", str(environment)])
    assert packages.main() == status
    assert sentence in capsys.readouterr().out


def test_listed_is_what_the_requirements_bring_in_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("# a comment\njinja2>=3,<4  # pages\n")
    names = [line.partition("==")[0] for line in packages.installed(tmp_path / "requirements.txt")]
    assert names == ["jinja2", "markupsafe"]
    own = {line.partition("==")[0] for line in packages.installed()}
    assert {"torch", "monai", "pydicom", "sympy"} <= own
    assert "pytest" not in own
