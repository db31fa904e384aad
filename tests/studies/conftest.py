"""Cases made up, and bundles small enough to be sampled in a test."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from tools.studies.cases import Case, class_histograms
from tools.studies.methods import Method
from tools.studies.study import Run
from tools.transforms.spheres import Sphere, sphere_mask

SMALL = {
    "lefusion_lidc": {},
    "lefusion_emidec": {"window_size": [48, 48], "window_spacing_mm": 2.4},
}


def made_case(number: int, size: int = 8) -> Case:
    """A lesion of 100 voxels in noise; the mean rises with the number."""
    rng = np.random.default_rng(number)
    image = np.clip(rng.normal(0.15 * (number - 2), 0.1, (size,) * 3), -1, 1)
    masks = np.zeros((1, size, size, size), bool)
    masks[0, 1:6, 2:7, 1:5] = True
    own = class_histograms(image, masks, 16, (-1.0, 1.0))
    names = f"case{number}", f"patient{number}"
    return Case(*names, image, masks, scale=(-1000.0, 400.0), histograms=own)


def ball(
    sphere: Sphere,
    affine: np.ndarray,
    shape: Sequence[int],
    seed: int = 0,
    within: np.ndarray | None = None,
) -> np.ndarray:
    """The simplest source of shapes."""
    mask = sphere_mask(sphere, affine, shape)
    return mask if within is None else mask & within


def study_of(
    cases: list[Case], method: Method, made: list | None = None, library: list[Case] | None = None
) -> Any:
    """A study with one method, ``m``, which made this; else what it generates."""
    made = list(method.generate(cases, 0)) if made is None else made
    run = Run([[each] for each in made], [0.0] * len(made))
    parts = {"cases": cases, "methods": {"m": method}, "runs": {"m": run}, "classes": ["all"]}
    return SimpleNamespace(training_cases=lambda: library, device="cpu", seed=0, **parts)


@pytest.fixture
def cases() -> list[Case]:
    return [made_case(i, size) for i, size in enumerate((8, 16, 8, 8, 16))]


@pytest.fixture(scope="session")
def shrunk(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, dict[str, torch.Tensor]]]:
    """The configs of a bundle with a tiny untrained network, and its weights."""

    def make(name: str) -> tuple[Path, dict[str, torch.Tensor]]:
        folder = tmp_path_factory.mktemp("bundle") / name
        shutil.copytree(repository / "bundles" / name / "configs", folder / "configs")
        (folder / "models").mkdir()
        path = folder / "configs" / "inference.json"
        config = json.loads(path.read_text(encoding="utf-8")) | SMALL[name] | {"amp_dtype": None}
        config["network_def"] |= {"channels": [8, 16]}
        path.write_text(json.dumps(config), encoding="utf-8")
        torch.manual_seed(0)
        state = ConfigParser(config).get_parsed_content("network_def").state_dict()
        torch.save({"model": state}, folder / "models" / "model.pt")
        return folder, state

    return make


@pytest.fixture(scope="module")
def small_forests() -> Iterator[None]:
    """Let forests, bootstraps and halvings be few: enough for sets that are far apart or alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tools.studies.two_sample.TREES", 10)
        patch.setattr("tools.studies.statistics.INTERVAL_DRAWS", 30)
        patch.setattr("tools.studies.judge.SPLITS", 5)
        yield
