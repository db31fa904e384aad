"""The command release: zips and an index that MONAI's own functions read."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from monai.bundle import get_all_bundles_list, get_bundle_info, get_bundle_versions, scripts

from tools.cli import main
from tools.files import MARK
from tools.release.index import INDEX, release_bundles

ROOT = Path(__file__).resolve().parents[2]


def bundle(folder: Path, version: str = "0.1.0", weights: bytes = b"weights") -> Path:
    """A bundle of a few bytes."""
    metadata = {"version": version, "changelog": {version: "x"}, "monai_version": "1.6.1"}
    files = {
        "LICENSE": b"free\n",
        "configs/metadata.json": json.dumps(metadata).encode(),
        "models/model.pt": weights,
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [bundle(tmp_path / "source" / name) for name in ("texture", "shape")]


def entries(out: Path) -> dict[str, dict[str, str]]:
    return json.loads((out / INDEX).read_text())


def everything(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != MARK}


def test_index_names_each_zip_with_checksum_and_address(two: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "dist"
    done = release_bundles(two, out, "https://example.org/files/")
    names = ["texture_v0.1.0", "shape_v0.1.0"]
    assert [path.name for path in done.zips] == [f"{name}.zip" for name in names]
    assert set(everything(out)) == {INDEX, *(path.name for path in done.zips)}
    assert done.notes == []
    assert entries(out) == {
        name: {
            "checksum": hashlib.sha1((out / f"{name}.zip").read_bytes()).hexdigest(),
            "source": f"https://example.org/files/{name}.zip",
        }
        for name in names
    }


def test_monai_finds_and_downloads_what_the_index_names(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, zoo = tmp_path / "dist", tmp_path / "zoo"
    release_bundles(two, out)
    bundle(two[0], "0.2.0")
    release_bundles(two[:1], out)

    def get(url: str, **_: object) -> SimpleNamespace:
        assert url.endswith(f"/models/{INDEX}")
        return SimpleNamespace(text=(out / INDEX).read_text(), raise_for_status=lambda: None)

    monkeypatch.setattr(scripts.requests, "get", get)
    assert get_all_bundles_list() == [("texture", "0.2.0"), ("shape", "0.1.0")]
    assert get_bundle_versions("texture")["all_versions"] == ["0.1.0", "0.2.0"]
    url = get_bundle_info("texture", "0.1.0")["browser_download_url"]
    scripts.download("texture", bundle_dir=zoo, url=url, progress=False)
    metadata = json.loads((zoo / "texture" / "configs" / "metadata.json").read_text())
    assert metadata["version"] == "0.1.0"


def test_released_again_nothing_changes(two: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "dist"
    release_bundles(two, out, "https://example.org")
    before = everything(out)
    release_bundles(two, out)
    assert everything(out) == before
    release_bundles(two[:1], out, "https://example.net")
    sources = [entry["source"] for entry in entries(out).values()]
    assert sources == [
        "https://example.net/texture_v0.1.0.zip",
        "https://example.org/shape_v0.1.0.zip",
    ]


def test_changed_bundle_needs_another_version(two: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "dist"
    release_bundles(two, out)
    before = everything(out)
    bundle(two[0], "0.2.0")
    bundle(two[1], weights=b"other weights")
    message = r"version of shape must be raised .* 0\.1\.0 is in model_info\.json with checksum"
    with pytest.raises(ValueError, match=message):
        release_bundles(two, out)
    assert everything(out) == before
    bundle(two[1], "0.1.1", b"other weights")
    release_bundles(two, out)
    assert list(entries(out)) == [
        "texture_v0.1.0",
        "shape_v0.1.0",
        "texture_v0.2.0",
        "shape_v0.1.1",
    ]


def test_order_of_versions_that_monai_mistakes_is_said(tmp_path: Path) -> None:
    source, out = tmp_path / "texture", tmp_path / "dist"
    assert release_bundles([bundle(source, "0.9.0")], out).notes == []
    (note,) = release_bundles([bundle(source, "0.10.0")], out).notes
    assert note.endswith("takes 0.9.0 of texture for the latest, not 0.10.0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "model_info.json must hold a JSON object"),
        ("{", "model_info.json must be JSON"),
        ('{"texture": {}}', "must give each NAME_vVERSION a checksum and a source"),
        ('{"texture_v1.0": {"checksum": "a"}}', "must give each NAME_vVERSION a checksum"),
        ('{"texture_v1.0": "a"}', "must give each NAME_vVERSION a checksum"),
    ],
)
def test_broken_index_stays_as_it_is(
    two: list[Path], tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ValueError, match=message):
        release_bundles(two, tmp_path)
    assert (tmp_path / INDEX).read_text() == text
    assert not list(tmp_path.glob("*.zip"))


@pytest.mark.parametrize(
    ("name", "version", "count", "message"),
    [
        ("my-bundle", "0.1.0", 1, "letters, digits and _, .* got my-bundle_v0.1.0"),
        ("texture", "beta", 1, "start with a digit, got texture_vbeta"),
        ("texture", "0.1.0", 2, "names all different, got .*texture_v0.1.0.*texture_v0.1.0"),
    ],
)
def test_names_that_the_index_cannot_hold(
    tmp_path: Path, name: str, version: str, count: int, message: str
) -> None:
    given = [bundle(tmp_path / str(n) / name, version) for n in range(count)]
    with pytest.raises(ValueError, match=message):
        release_bundles(given, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


def test_interrupted_release_leaves_nothing_half_written(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "dist"
    release_bundles(two, out)
    before = everything(out)
    for folder in two:
        bundle(folder, "0.2.0")
    (two[1] / "LICENSE").unlink()
    with pytest.raises(FileNotFoundError, match="bundle must hold LICENSE"):
        release_bundles(two, out)
    assert everything(out) == before


def test_command_writes_nothing_where_check_finds_something(
    two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dist"
    assert main(["release", str(two[0]), "--out", str(out), "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert not printed["ok"]
    assert any("configs/train.json is missing" in line for line in printed["findings"])
    assert not out.exists()


@pytest.mark.slow
def test_command_releases_a_real_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["release", str(ROOT / "bundles" / "lefusion_emidec"), "--out", str(tmp_path), "--json"]
    assert main(words) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["ok"]
    assert facts["entries"] == entries(tmp_path)
    assert [Path(path).name for path in facts["written"]] == [
        path.name for path in tmp_path.glob("*.zip")
    ]
