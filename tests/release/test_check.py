"""The command check: each broken rule is found on a copy of a real bundle, and --fix mends."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.cli import main
from tools.release.check import check_bundles

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "lefusion_lidc"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the bundle to break."""
    ignored = shutil.ignore_patterns("output", "eval")
    return Path(shutil.copytree(BUNDLE, tmp_path / BUNDLE.name, ignore=ignored))


def edit(bundle: Path, name: str, change: Callable[[dict], object]) -> None:
    path = bundle / "configs" / name
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def findings(bundle: Path) -> list[str]:
    """Findings without the one on the form, which ``json.dumps`` above does not keep."""
    found = check_bundles([bundle], instantiate=False)
    return [line for line in found if "house form" not in line]


# test_config_rules.py has all rules; here each kind of them, and what no two files may differ in
BROKEN = [
    ("train.json", lambda c: c.update(spare=1), "spare is read by nothing"),
    ("train.json", lambda c: c["loss"].update(power=3), "takes no argument power"),
    ("inference.json", lambda c: c.update(window_hu=[0, 80]), "window_hu differs between"),
    ("inference.json", lambda c: c.update(num_train_timesteps=9), "num_train_timesteps differs"),
    ("inference.json", lambda c: c["scheduler"].clear(), "scheduler differs between"),
    ("inference.json", lambda c: c["network_def"].update(channels=[8]), "network_def differs"),
    ("metadata.json", lambda c: c.update(version="9.9"), "no entry for version 9.9"),
    ("metadata.json", lambda c: c.pop("task"), "task is missing"),
]


@pytest.mark.parametrize(("name", "change", "message"), BROKEN)
def test_broken_rule_is_found(
    bundle: Path, name: str, change: Callable[[dict], object], message: str
) -> None:
    edit(bundle, name, change)
    found = findings(bundle)
    assert any(message in line for line in found)
    assert all(line.startswith(f"{bundle.name}: configs") for line in found)


@pytest.mark.real
def test_schema_is_checked(bundle: Path, shared_dir: Path) -> None:
    edit(bundle, "metadata.json", lambda c: c.update(authors=3))
    assert any("metadata.json: schema:" in line for line in findings(bundle))


def test_files_are_looked_at(bundle: Path) -> None:
    (bundle / "docs" / "data_license.txt").unlink()
    (bundle / "scripts.py").write_text("")
    for name in ("model_large.pt", "fetched.pt"):  # the second is the user's and never ships
        with (bundle / "models" / name).open("wb") as file:
            file.truncate(26_000_000)
    assert findings(bundle) == [
        f"{bundle.name}: docs/data_license.txt is missing",
        f"{bundle.name}: models/model_large.pt has 26.0 MB, at most 25 are allowed",
        f"{bundle.name}: scripts.py is Python, which belongs in tools/",
    ]


def test_broken_json_is_one_finding(bundle: Path) -> None:
    (bundle / "configs" / "train.json").write_text("{")
    assert len(findings(bundle)) == 1


def test_bundles_are_compared(bundle: Path) -> None:
    (bundle / "LICENSE").write_text("mine")
    edit(bundle, "train.json", lambda c: c["train"]["handlers"].pop(0))
    found = check_bundles([BUNDLE, bundle], instantiate=False)
    assert any("LICENSE differs from that of" in line for line in found)
    assert any("train#handlers is" in line for line in found)


def test_fix_copies_from_training_and_restores_the_form(bundle: Path) -> None:
    before = {path.name: path.read_bytes() for path in (bundle / "configs").iterdir()}
    edit(bundle, "inference.json", lambda c: c.update(window_hu=[0, 80], background="noised"))
    edit(bundle, "published.json", lambda c: None)
    assert len(check_bundles([bundle], instantiate=False)) == 4
    assert check_bundles([bundle], fix=True, instantiate=False) == []
    assert {path.name: path.read_bytes() for path in (bundle / "configs").iterdir()} == before


@pytest.mark.slow
def test_looking_at_workflows_says_nothing_of_data(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert check_bundles([BUNDLE]) == []
    assert "dataset_dir" not in caplog.text
    logging.getLogger().info("heard again")
    assert "heard again" in caplog.text


def without_dataset_dir(config: dict) -> None:
    config["files"]["dataset_dir"] = config.pop("dataset_dir")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "text", "count"),
    [
        ("inference.json", without_dataset_dir, "Property 'dataset_dir'", 1),
        # alone, and under evaluate.json
        ("train.json", lambda c: c["train"]["trainer"].pop("optimizer"), "does not build", 2),
    ],
)
def test_workflow_that_does_not_build_is_found(
    bundle: Path, name: str, change: Callable[[dict], object], text: str, count: int
) -> None:
    edit(bundle, name, change)
    found = check_bundles([bundle], fix=True)
    assert len(found) == count
    for line in found:
        assert line.startswith(f"{bundle.name}: configs/{name}")
        assert "does not build" in line
        assert text in line


def test_command_prints_and_fails(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle / "LICENSE").unlink()
    assert main(["check", str(bundle)]) == 1
    assert capsys.readouterr().out == f"{bundle.name}: LICENSE is missing\n"
    monkeypatch.chdir(bundle)
    assert main(["check"]) == 1
    assert "bundles must be named" in capsys.readouterr().err
