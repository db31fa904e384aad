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
from tools.studies.liver_finder import LiverFinder
from tools.studies.methods import Method, Run
from tools.transforms.spheres import Sphere, sphere_mask

SMALL = {
    "lefusion_lidc": {},
    "lefusion_emidec": {"window_size": [48, 48], "window_spacing_mm": 2.4},
}

CHANNELS = {"encoder1": (16, 1), "encoder2": (32, 16), "encoder3": (64, 32)}
CHANNELS |= {"decoder1": (32, 64), "decoder2": (16, 32), "decoder3": (8, 16)}
CHANNELS |= {f"{name[:7]}f{name[7]}": sizes for name, sizes in CHANNELS.items()}
CHANNELS |= {
    f"inter{level}_{way}": (size, size)
    for level, size in (("e1", 16), ("e2", 32), ("e3", 64), ("d1", 32), ("d2", 16))
    for way in (1, 2)
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


def norm_of(name: str) -> str:
    if name.startswith("inter"):
        return f"{name.replace('inter', 'int')}bn"
    return f"{name[:2]}{name[7:]}_bn"


@pytest.fixture(scope="session")
def kiunet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a segmenter of liver and tumour that others train."""
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    plain = {"start": (1, 1, 3), "final": (3, 8, 1), "fin": (3, 3, 1)}
    for name, (out, into, side) in plain.items() | {(n, (*s, 3)) for n, s in CHANNELS.items()}:
        state[f"{name}.weight"] = 0.1 * torch.randn(out, into, side, side, side)
        state[f"{name}.bias"] = torch.randn(out)
        if name in CHANNELS:
            keys = ("weight", "running_var", "bias", "running_mean")
            state |= {f"{norm_of(name)}.{key}": torch.rand(out) for key in keys}
    path = tmp_path_factory.mktemp("weights") / "kiunet.pth"
    torch.save({f"module.{key}": value for key, value in state.items()}, path)
    logits = LiverFinder(path)(torch.randn(1, 1, 48, 32, 32))
    state["fin.bias"] -= logits.flatten(2).median(-1).values[0]  # each class wins somewhere
    torch.save({f"module.{key}": value for key, value in state.items()}, path)
    return path
