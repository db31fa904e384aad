"""Our bundles keep the rules of the house and of the model zoo; versions and presets are right."""

import json
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tools.release.check import check_bundles, find_schema

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = [
    pytest.param(path.parents[1], id=path.parents[1].name)
    for path in sorted(ROOT.glob("bundles/*/configs/metadata.json"))
]


def metadata(bundle: Path) -> dict:
    return json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))


def requirements() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name: requirement for requirement in parsed}


@pytest.mark.parametrize("bundle", BUNDLES)
def test_nothing_is_found(bundle: Path) -> None:
    """Layout, metadata and their schema, rules for configs; building them is a slow test."""
    assert check_bundles([bundle], instantiate=False) == []


@pytest.mark.parametrize("bundle", BUNDLES)
def test_metadata_uses_the_names_of_the_zoo(bundle: Path) -> None:
    data_format = metadata(bundle)["network_data_format"]
    for tensor in (data_format["inputs"]["image"], data_format["outputs"]["pred"]):
        # of a label map the viewers want the labels: background and one per channel of the network
        names = tensor["num_channels"] + (tensor["type"] == "segmentation")
        assert sorted(map(int, tensor["channel_def"])) == list(range(names))


@pytest.mark.parametrize("bundle", BUNDLES)
def test_stated_versions_are_those_we_test(bundle: Path) -> None:
    content, ranges = metadata(bundle), requirements()
    stated = content["required_packages_version"] | {
        "torch": content["pytorch_version"],
        "monai": content["monai_version"],
        "numpy": content["numpy_version"],
    }
    outside = {n: v for n, v in stated.items() if Version(v) not in ranges[n].specifier}
    assert outside == {}


@pytest.mark.real
@pytest.mark.parametrize("bundle", BUNDLES)
def test_schema_is_there_to_be_followed(bundle: Path, shared_dir: Path) -> None:
    assert find_schema(metadata(bundle)) is not None


@pytest.mark.parametrize("path", sorted(ROOT.glob("bundles/*/configs/histograms.json")), ids=str)
def test_histogram_presets_are_distributions(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    classes = content.get("classes", 1)
    for preset in content["presets"].values():
        assert len(preset["histogram"]) == classes * content["bins"]
        assert min(preset["histogram"]) >= 0
        for start in range(0, classes * content["bins"], content["bins"]):
            block = preset["histogram"][start : start + content["bins"]]
            assert sum(block) == pytest.approx(1, abs=1e-12)
    assert sum(preset["weight"] for preset in content["presets"].values()) == 100


def test_presets_of_nodules_are_those_that_radiologists_name() -> None:
    """The mean of the library's lesions of 8 to 20 mm, of each subtype."""
    configs = ROOT / "bundles" / "lefusion_lidc" / "configs"
    library = json.loads((configs / "subtypes.json").read_text(encoding="utf-8"))
    presets = json.loads((configs / "histograms.json").read_text(encoding="utf-8"))["presets"]
    for name, subtype in library["subtypes"].items():
        pairs = zip(subtype["histograms"], subtype["diameters_mm"], strict=True)
        rows = np.array([row for row, diameter in pairs if 8 <= diameter <= 20])
        mean = (rows / rows.sum(1, keepdims=True)).mean(0)
        assert presets[name]["histogram"] == pytest.approx(mean, abs=2e-6)
        assert presets[name]["weight"] == pytest.approx(100 * subtype["frequency"], abs=1)
