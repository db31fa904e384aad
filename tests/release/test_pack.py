"""The zip of a bundle: same bytes each time, nothing changed but bundle_root, runs anywhere."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from tests.test_imports import WORKSHOP
from tools.files import MARK
from tools.release.pack import pack_bundle

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = ROOT / "bundles"
BUNDLE = BUNDLES / "lefusion_lidc"


@pytest.fixture
def small_bundle(tmp_path: Path) -> Path:
    """A bundle of a few bytes, with things beside it that must stay at home."""
    folder = tmp_path / "source" / "small_bundle"
    files = {
        "LICENSE": "free\n",
        "configs/metadata.json": '{"version": "1.2.3", "changelog": {"1.2.3": "first"}}\n',
        "configs/inference.json": '{\n  "bundle_root": "bundles/small_bundle",\r\n  "a": 1.50\n}\n',
        "configs/overlay.json": '{"a": "$@bundle_root + \'/x\'"}',
        "docs/README.md": "# Small\n",
        "models/model.pt": "weights",
        "models/.model.pt.77.part": "half",
        "output/metrics.csv": "1",
        "eval/schema.json": "{}",
        "notes.txt": "private",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def part(name: str) -> str:
    return Path(name).parts[0].removesuffix(".py")


def test_zip_holds_the_bundle_and_the_runtime_only(small_bundle: Path, tmp_path: Path) -> None:
    path = pack_bundle(small_bundle, tmp_path / "dist")
    assert path == tmp_path / "dist" / "small_bundle_v1.2.3.zip"
    assert sorted(item.name for item in path.parent.iterdir()) == [MARK, path.name]
    names = [name.removeprefix("small_bundle/") for name in contents(path)]
    assert names == sorted(names)
    assert [name for name in names if not name.startswith("tools/")] == [
        "LICENSE",
        "configs/inference.json",
        "configs/metadata.json",
        "configs/overlay.json",
        "docs/README.md",
        "models/model.pt",
    ]


def test_runtime_is_packed_whole_and_unchanged(small_bundle: Path, tmp_path: Path) -> None:
    packed = contents(pack_bundle(small_bundle, tmp_path))
    prefix = "small_bundle/tools/"
    tools = {k.removeprefix(prefix): v for k, v in packed.items() if k.startswith(prefix)}
    assert not {part(name) for name in tools} & WORKSHOP
    sources = {
        path.relative_to(ROOT / "tools").as_posix(): path.read_bytes()
        for path in (ROOT / "tools").rglob("*")
        if path.suffix in (".py", ".json")
    }
    runtime = {name: v for name, v in sources.items() if part(name) not in WORKSHOP}
    assert tools == runtime


def test_bundle_root_is_the_only_change(small_bundle: Path, tmp_path: Path) -> None:
    packed = contents(pack_bundle(small_bundle, tmp_path))
    config = packed["small_bundle/configs/inference.json"]
    assert config == b'{\n  "bundle_root": ".",\r\n  "a": 1.50\n}\n'
    for name in ("configs/overlay.json", "configs/metadata.json", "models/model.pt", "LICENSE"):
        assert packed[f"small_bundle/{name}"] == (small_bundle / name).read_bytes()


@pytest.mark.parametrize("name", ["configs/metadata.json", "LICENSE", "models/model.pt"])
def test_missing_file_is_named(small_bundle: Path, tmp_path: Path, name: str) -> None:
    (small_bundle / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"bundle must hold {name}"):
        pack_bundle(small_bundle, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ('{"version": "1.2.4", "changelog": {"1.2.3": "x"}}', r"entry for version 1\.2\.4, got \["),
        ('{"version": "1.2.4"}', r"entry for version 1\.2\.4, got None"),
        ('{"changelog": {}}', "version in metadata.json must be text like 0.1.0, got None"),
        ('{"version": "../1", "changelog": {"../1": "x"}}', "version in metadata.json must be"),
        ("{", "metadata.json must be JSON"),
        ("[]", "metadata.json must hold a JSON object, got"),
    ],
)
def test_bad_metadata_is_refused(
    small_bundle: Path, tmp_path: Path, metadata: str, message: str
) -> None:
    (small_bundle / "configs" / "metadata.json").write_text(metadata)
    with pytest.raises(ValueError, match=message):
        pack_bundle(small_bundle, tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        '{"a": 1, "bundle_root": "x"}',
        '{\n"bundle_root": "x",\n"b": {\n"bundle_root": "y"\n}\n}',
        '{\n"bundle_root": 3\n}',
    ],
)
def test_bundle_root_needs_its_own_line(small_bundle: Path, tmp_path: Path, config: str) -> None:
    (small_bundle / "configs" / "inference.json").write_text(config)
    with pytest.raises(ValueError, match=r"bundle_root must be .* in inference\.json"):
        pack_bundle(small_bundle, tmp_path)


def test_file_over_25_mb_is_refused(small_bundle: Path, tmp_path: Path) -> None:
    with (small_bundle / "models" / "model.pt").open("wb") as file:
        file.truncate(25_000_000)
    earlier = pack_bundle(small_bundle, tmp_path).read_bytes()
    with (small_bundle / "models" / "model.pt").open("wb") as file:
        file.truncate(25_100_000)
    with pytest.raises(ValueError, match=r"at most 25 MB, got model\.pt of 25\.1 MB"):
        pack_bundle(small_bundle, tmp_path)
    assert (tmp_path / "small_bundle_v1.2.3.zip").read_bytes() == earlier


def test_fetched_weights_stay_behind(small_bundle: Path, tmp_path: Path) -> None:
    before = contents(pack_bundle(small_bundle, tmp_path))
    with (small_bundle / "models" / "lidc.pt").open("wb") as file:
        file.truncate(26_000_000)
    for name in ("model_second.pt", "autoencoder.pt", "model_of_others.pt", "published_x.pt"):
        (small_bundle / "models" / name).write_bytes(b"weights")
    (small_bundle / "models" / "mine").mkdir()
    (small_bundle / "models" / "mine" / "model.pt").write_bytes(b"weights")
    (small_bundle / "configs" / "train.json~").write_bytes(b"of an editor")
    entry = {"path": "./models/model_of_others.pt", "url": "file:///x"}
    (small_bundle / "published_weights.yml").write_text(json.dumps({"large_files": [entry]}))
    after = contents(pack_bundle(small_bundle, tmp_path))
    added = {"models/model_second.pt", "models/autoencoder.pt", "published_weights.yml"}
    assert set(after) - set(before) == {f"small_bundle/{name}" for name in added}


@pytest.mark.parametrize(
    "text", ["large_files: 3", "- a", "large_files: [", "large_files: [x]", ""]
)
def test_broken_list_of_weights_is_one_sentence(
    small_bundle: Path, tmp_path: Path, text: str
) -> None:
    (small_bundle / "published_weights.yml").write_text(text)
    with pytest.raises(ValueError, match=r"published_weights\.yml must hold large_files") as caught:
        pack_bundle(small_bundle, tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_that_a_config_loads_must_be_packed(small_bundle: Path, tmp_path: Path) -> None:
    config = small_bundle / "configs" / "inference.json"
    config.write_text('{"path": "$@bundle_root + \'/models/lidc.pt\'"}')
    (small_bundle / "models" / "lidc.pt").write_bytes(b"weights")
    with pytest.raises(FileNotFoundError, match=r"hold models/lidc\.pt, which configs/inference"):
        pack_bundle(small_bundle, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize(
    ("bundle", "others"),
    [
        ("lefusion_lidc", {"model_cond_diffusion.pt", "model_repaint.pt"}),
        ("lefusion_emidec", set()),
        ("diffmask", {"model_cardiac.pt"}),
        ("hr_ldm", {"autoencoder.pt"}),
    ],
)
def test_weights_of_ours_and_no_list_that_the_zoo_downloads(
    bundle: str, others: set[str], tmp_path: Path
) -> None:
    packed = contents(pack_bundle(BUNDLES / bundle, tmp_path))
    names = {path.removeprefix(f"{bundle}/") for path in packed}
    assert "published_weights.yml" in names
    assert not [path for path in names if "large_files" in path]
    weights = {path.removeprefix("models/") for path in names if path.startswith("models/")}
    assert weights == {"model.pt", *others}


def test_same_bundle_gives_the_same_bytes(tmp_path: Path) -> None:
    """A copy with other times and permissions, in another folder, packs to the same bytes."""
    copy = tmp_path / "elsewhere" / BUNDLE.name
    shutil.copytree(BUNDLE, copy, ignore=shutil.ignore_patterns("output", "eval"))
    for path in copy.rglob("*.json"):
        os.utime(path, (1e9, 1e9))
        path.chmod(0o600)
    first = pack_bundle(BUNDLE, tmp_path / "first")
    second = pack_bundle(copy, tmp_path / "second")
    version = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["version"]
    assert first.name == second.name == f"lefusion_lidc_v{version}.zip"
    assert first.read_bytes() == second.read_bytes()
