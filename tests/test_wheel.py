"""What ``pip install .`` gives: a command with its bundles, in any folder, next to no checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

SOURCES = ("tools", "bundles", "LICENSE", "README.md", "pyproject.toml", "requirements.txt")


def run(*words: str | Path, cwd: Path) -> str:
    """Run a command without PYTHONPATH and return what it printed."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    quick = {**kept, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=quick, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built in a copy: setuptools leaves folders, and packs what it left before."""
    source = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in (*SOURCES, "setup.py"):
        path = repository / name
        copy = shutil.copy if path.is_file() else shutil.copytree
        copy(path, source / name, **({} if path.is_file() else {"ignore": ignored}))
    (source / "bundles" / "diffmask" / "output").mkdir(exist_ok=True)
    for name in ("output/log.json", "models/published.pt"):
        (source / "bundles" / "diffmask" / name).write_bytes(b"not to be shipped")
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist", "."]
    run(sys.executable, "-m", "pip", *build, cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment with the wheel, and the packages that this one has."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    place = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (place / "shared.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    install = ["--python", folder / "bin" / "python", "install", "--no-deps", "--no-index"]
    run(sys.executable, "-m", "pip", *install, wheel, cwd=folder)
    return folder / "bin"


def bundle_files(bin_folder: Path) -> dict[str, int]:
    """Names and times of what is installed of the bundles."""
    (folder,) = bin_folder.parent.rglob("tools/_bundles")
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow
def test_wheel_holds_what_ships_of_each_bundle_and_nothing_else(
    wheel: Path, repository: Path
) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    held = {name.removeprefix("tools/_") for name in names if name.startswith("tools/_bundles/")}
    listed = ["git", "ls-files", "bundles"]
    assert held == set(run(*listed, cwd=repository).split())
    assert not [name for name in names if name.startswith(("tests/", "bundles/", "ecosystem/"))]


@pytest.mark.slow
def test_command_makes_lesions_in_any_folder_and_leaves_its_installation_alone(
    installed: Path, tmp_path: Path
) -> None:
    before, command = bundle_files(installed), installed / "synthetic-lesions"
    shown = "import tools; print(tools.__file__)"
    assert str(installed.parent) in run(installed / "python", "-c", shown, cwd=tmp_path)
    assert "3 lesion(s)" in run(command, "demo", cwd=tmp_path)
    assert (tmp_path / "out" / "demo" / "report.html").is_file()
    scan = tmp_path / "out" / "demo" / "scans" / "phantom_chest_image.nii.gz"
    latent = ["--bundle", "hr_ldm", "--out", "latent", "--count", "1", "--steps", "50"]
    run(command, "synthesize", "--scan", scan, *latent, cwd=tmp_path)
    (record,) = (tmp_path / "latent").glob("*/lesions.json")
    assert json.loads(record.read_text(encoding="utf-8"))["bundle"]["name"] == "hr_ldm"
    assert bundle_files(installed) == before


@pytest.mark.slow
def test_unknown_bundle_is_answered_with_the_names(
    installed: Path, repository: Path, tmp_path: Path
) -> None:
    words = [installed / "synthetic-lesions", "evaluate", "--bundle", "none"]
    words += ["--dataset_dir", tmp_path, "--out", tmp_path / "out"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    names = sorted(path.parents[1].name for path in repository.glob("bundles/*/configs/train.json"))
    assert f"one of {names}" in done.stderr
