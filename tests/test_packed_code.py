"""A bundle runs on the code that it was packed with, or not at all."""

import shutil
from pathlib import Path

import pytest

import tools
from tools.packed_code import require_packed_code

RUNNING = Path(tools.__file__).parent


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """An unpacked bundle with a part of the running code."""
    for name in ("__init__.py", "losses/__init__.py", "packed_code.py"):
        target = tmp_path / "tools" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(RUNNING / name, target)
    return tmp_path


def test_bundle_without_code_of_its_own_runs_on_any(tmp_path: Path) -> None:
    assert require_packed_code(tmp_path) == RUNNING
    assert require_packed_code(RUNNING.parent) == RUNNING


def test_same_release_in_two_folders_is_fine(bundle: Path) -> None:
    (bundle / "tools" / "__pycache__").mkdir()
    (bundle / "tools" / "__pycache__" / "losses.cpython-311.pyc").write_bytes(b"other")
    assert require_packed_code(bundle) == RUNNING


@pytest.mark.parametrize("name", ["__init__.py", "losses/__init__.py", "losses/later.py"])
def test_other_release_is_one_sentence(bundle: Path, name: str) -> None:
    with (bundle / "tools" / name).open("a") as file:
        file.write("# changed\n")
    with pytest.raises(ValueError, match="root must hold the code") as caught:
        require_packed_code(bundle)
    for part in (str(RUNNING), str(bundle / "tools"), f"({name} differs)"):
        assert part in str(caught.value)
