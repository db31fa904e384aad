"""The zips where nothing of this repository is: the zoo's verification, training, inference."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import download

from tests.bundles.runs import (
    CLASSIFICATION,
    FEW_LATENT_STEPS,
    NAMES,
    QUICK,
    RESULTS,
    SEGMENTATION,
    SHORT,
    STEPS,
    TINY_MAISI,
    UNET,
    UNREAD,
)
from tools.release.check import find_schema
from tools.release.pack import pack_bundle

VERIFICATION = str(Path(__file__).with_name("zoo_verification.py"))
# MONAI's own commands, with fewer interpreters
RUN = """
import json, sys
from monai.bundle import run

for job in json.loads(sys.argv[1]):
    run(logging_file=False, **job)
"""
ONE: dict[str, Any] = {"dataset#data": "$@files[:1]"}
FEW = STEPS | ONE
# with the autoencoder and the crops of the bundle
TRAINING = {"hr_ldm": TINY_MAISI | FEW_LATENT_STEPS | UNREAD | {"variants": 1}}
TRAINING["lesion_segmentation"] = SEGMENTATION
TRAINING["nodule_classification"] = CLASSIFICATION
TRAINING["difftumor"] = {"variants": 1, "network_def#base_channels": 8}

Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Python:
    """Runs Python in a foreign folder, offline, with no PYTHONPATH; phantoms are made once."""
    home = tmp_path_factory.mktemp("home")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.defpath, "HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}
        environment |= {"USERPROFILE": str(home), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", *words]
        return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)

    return run


def downloaded(repository: Path, name: str, folder: Path) -> Path:
    """The bundle as MONAI's own download leaves it."""
    packed = pack_bundle(repository / "bundles" / name, folder / "dist").resolve()
    download(name, bundle_dir=folder / "zoo", url=packed.as_uri(), progress=False)
    return folder / "zoo" / name


def job(bundle: Path, run_id: str, config: str, options: dict[str, Any]) -> dict[str, Any]:
    config_file = str(bundle / "configs" / config)
    return {"run_id": run_id, "config_file": config_file, "bundle_root": str(bundle), **options}


def written(bundle: Path) -> list[Path]:
    """Results of inference with the shipped weights, none of which may be empty."""
    found = sorted((bundle / "output" / "inference").glob(RESULTS[bundle.name]))
    images = [path for path in found if path.suffix == ".gz"]
    assert all(np.ptp(np.asarray(nib.load(path).dataobj)) > 0 for path in images)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_zip_is_verified_trains_and_infers(
    name: str, repository: Path, tmp_path: Path, python: Python
) -> None:
    bundle = downloaded(repository, name, tmp_path)
    schema = find_schema(json.loads((bundle / "configs" / "metadata.json").read_text()))
    small = TRAINING.get(name, UNET) | SHORT | {"val_every_nth_case": 8}
    jobs = [
        job(bundle, "training", "train.json", small),
        job(bundle, "inference", "inference.json", QUICK[name] | ONE),
    ]
    arguments = [str(bundle), json.dumps(jobs), *([] if schema is None else [str(schema)])]
    done = python(VERIFICATION, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    for said in (f"verified {name}", "ran training", "ran inference", "embedded phantom data"):
        assert said in done.stdout + done.stderr
    assert (bundle / "output" / "models" / "model.pt").is_file()
    assert len(written(bundle)) == 1
    assert (bundle / "tools" / "__pycache__").is_dir()  # the packed code ran


@pytest.mark.slow
def test_two_zips_in_one_process(repository: Path, tmp_path: Path, python: Python) -> None:
    """Of one release they work; the code of another release is refused, not exchanged."""
    first, second = (
        downloaded(repository, name, tmp_path) for name in ("lefusion_lidc", "lefusion_emidec")
    )
    third = Path(shutil.copytree(second, tmp_path / "later" / second.name))
    with (third / "tools" / "schedules.py").open("a") as file:
        file.write("# changed\n")
    jobs = [job(path, "inference", "inference.json", FEW) for path in (first, second, third)]
    done = python("-c", RUN, json.dumps(jobs))
    assert done.returncode != 0
    assert "ValueError: root must hold the code that this process runs" in done.stderr
    assert "(schedules.py differs)" in done.stderr
    assert [len(written(path)) for path in (first, second, third)] == [1, 1, 0]
