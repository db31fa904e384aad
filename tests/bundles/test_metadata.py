"""What the model zoo asks of a bundle besides its configs: metadata, licences, weights."""

import json
import shutil
from pathlib import Path

import pytest
from monai.bundle import verify_metadata
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = [
    pytest.param(path.parents[1], id=path.parents[1].name)
    for path in sorted(ROOT.glob("bundles/*/configs/metadata.json"))
]
REQUIRED_KEYS = {
    "schema",
    "version",
    "changelog",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
}
REQUIRED_FILES = (
    "LICENSE",
    "configs/inference.json",
    "configs/logging.conf",
    "configs/train.json",
    "docs/README.md",
    "docs/data_license.txt",
    "models/model.pt",
)
ZOO_LIMIT_BYTES = 25 * 10**6


def metadata(bundle: Path) -> dict:
    return json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))


def requirements() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name: requirement for requirement in parsed}


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_required_file_is_there(bundle: Path, name: str) -> None:
    path = bundle / name
    assert path.is_file()
    assert 0 < path.stat().st_size <= ZOO_LIMIT_BYTES


@pytest.mark.parametrize("bundle", BUNDLES)
def test_bundle_holds_no_python(bundle: Path) -> None:
    assert list(bundle.rglob("*.py")) == []


@pytest.mark.parametrize("bundle", BUNDLES)
def test_metadata_is_complete(bundle: Path) -> None:
    content = metadata(bundle)
    assert content.keys() >= REQUIRED_KEYS
    assert content["changelog"].get(content["version"])


@pytest.mark.parametrize("bundle", BUNDLES)
def test_metadata_uses_the_names_of_the_zoo(bundle: Path) -> None:
    # first keys count: viewers take the first input as reference image
    data_format = metadata(bundle)["network_data_format"]
    assert next(iter(data_format["inputs"])) == "image"
    assert next(iter(data_format["outputs"])) == "pred"
    for tensor in (data_format["inputs"]["image"], data_format["outputs"]["pred"]):
        assert sorted(map(int, tensor["channel_def"])) == list(range(tensor["num_channels"]))


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
def test_metadata_follows_the_schema(bundle: Path, shared_dir: Path, tmp_path: Path) -> None:
    # MONAI downloads the schema unless the file is there already
    schema = tmp_path / "schema.json"
    shutil.copy(shared_dir / "reference" / "meta_schema_20240725.json", schema)
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(schema))


@pytest.mark.parametrize("path", sorted(ROOT.glob("bundles/*/configs/histograms.json")), ids=str)
def test_histogram_presets_are_distributions(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    for preset in content["presets"].values():
        assert len(preset["histogram"]) == content["bins"]
        assert min(preset["histogram"]) >= 0
        assert sum(preset["histogram"]) == pytest.approx(1, abs=1e-12)
    assert sum(preset["weight"] for preset in content["presets"].values()) == 100
