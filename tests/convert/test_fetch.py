"""The door to published weights: whole, checked, inside the bundle; over file:// URLs."""

import hashlib
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote, unquote

import pytest
import torch
from monai.bundle import ConfigParser
from tqdm import tqdm

from tests.convert.released import ARGUMENTS, DIFFMASK, write_released
from tools.cli import main
from tools.convert.fetch import fetch
from tools.convert.lefusion import load_network
from tools.networks.sphere_encoded_unet import SphereEncodedUNet

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "denoise_fn.module."


def source(folder: Path, arguments: dict = ARGUMENTS) -> Path:
    """A released checkpoint of a tiny network."""
    path = folder / "source" / "published.bin"
    path.parent.mkdir()
    write_released(path, PREFIX, arguments)
    return path


def bundle(folder: Path, url: str, path: str = "models/a.pt", hash_val: str = "") -> Path:
    root = folder / "bundle"
    (root / "configs").mkdir(parents=True)
    entry = {"path": path, "url": url, "hash_val": hash_val, "hash_type": "sha256"}
    (root / "published_weights.yml").write_text(json.dumps({"large_files": [entry]}))
    published = {"ckpt_path": "$@bundle_root + '/models/published.pt'"}
    (root / "configs" / "published.json").write_text(json.dumps(published))
    return root


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


CONFIGS = {"published_weights.yml", "configs/published.json"}


def test_file_is_fetched_recorded_and_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = source(tmp_path)
    root = bundle(tmp_path, origin.as_uri())
    assert main(["fetch", str(root)]) == 0
    models = {"models/a.pt", "models/a.pt.sha256", "models/published.pt"}
    assert files(root) == CONFIGS | models
    digest = hashlib.sha256(origin.read_bytes()).hexdigest()
    assert (root / "models" / "a.pt.sha256").read_text() == f"{digest}  a.pt\n"
    assert digest in capsys.readouterr().out
    converted = torch.load(root / "models" / "published.pt", weights_only=True)
    original = torch.load(origin, weights_only=True)["model"]
    assert {PREFIX + name for name in converted["model"]} == original.keys() - {"betas"}
    name = "init_conv.weight"
    assert torch.equal(converted["model"][name], original[PREFIX + name])


@pytest.mark.parametrize(("option", "outside"), [([], 255.0), (["--sphere_outside", "-1"], -1.0)])
def test_mask_network_is_fetched_with_its_sphere_encoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str], outside: float
) -> None:
    root = bundle(tmp_path, source(tmp_path, DIFFMASK).as_uri(), path="models/diffmask.pt")
    published = json.loads((root / "configs" / "published.json").read_text())
    published["network_def"] = {"sphere_outside": 255}
    (root / "configs" / "published.json").write_text(json.dumps(published))
    assert main(["fetch", str(root), *option]) == 0
    network = load_network(str(root / "models" / "published.pt"))
    assert isinstance(network, SphereEncodedUNet)
    assert network.sphere_outside == outside
    told = "run it with --network_def#sphere_outside=-1" in capsys.readouterr().out
    assert told == (outside != 255)


def test_second_fetch_downloads_nothing_but_notices_a_change(tmp_path: Path) -> None:
    origin = source(tmp_path)
    root = bundle(tmp_path, origin.as_uri())
    fetch(root, convert=None)
    origin.unlink()
    assert [path.name for path in fetch(root, convert=None)] == ["a.pt"]
    (root / "models" / "a.pt").write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"a\.pt must have the sha256 in .*, got "):
        fetch(root, convert=None)


def test_a_later_download_is_compared_with_the_first(tmp_path: Path) -> None:
    origin = source(tmp_path)
    root = bundle(tmp_path, origin.as_uri())
    fetch(root, convert=None)
    (root / "models" / "a.pt").unlink()
    whole = origin.read_bytes()
    origin.write_bytes(b"swapped")
    with pytest.raises(ValueError, match=r"a\.pt must have the sha256 .* remove that record"):
        fetch(root, convert=None)
    assert files(root) == CONFIGS | {"models/a.pt.sha256"}
    origin.write_bytes(whole)
    assert fetch(root, convert=None)[0].read_bytes() == whole


class Server(BaseHTTPRequestHandler):
    """Answers as its path says."""

    def do_GET(self) -> None:
        place = self.path.strip("/")
        if place.startswith("to:"):
            self.send_response(302)
            self.send_header("Location", unquote(place.removeprefix("to:")))
        else:
            self.send_response(200)
            if place.isdecimal():
                self.send_header("Content-Length", place)
        self.end_headers()
        if place == "silent":
            time.sleep(1)
        self.wfile.write(b"weights")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on this machine; without a certificate, so plain http stands for https."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("tools.convert.fetch.WEB", "http")
    monkeypatch.setattr("tools.convert.fetch.TIMEOUT_S", 0.3)
    monkeypatch.setattr("tools.convert.fetch.LARGEST_GB", 5e-8)
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_servers_are_read_and_redirects_followed(tmp_path: Path, server: str) -> None:
    for number, place in enumerate(("7", "open", f"to:{quote(server)}/7")):
        root = bundle(tmp_path / str(number), f"{server}/{place}")
        assert fetch(root, convert=None)[0].read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("to:file%3A///etc/hostname", "url must be a file that can be read, got .*file:///etc"),
        ("to:ftp%3A//x/y", "url must start with http://, got ftp://x/y"),
        ("to:https%3A//x/y", "url must start with http://, got https://x/y"),
        ("60", "url must give at most 5e-08 GB"),
        ("open", "url must give at most 5e-09 GB"),
        ("9", "url must be a file that can be read, got .*7 of 9 bytes arrived"),
        ("silent", "url must be a file that can be read, got .*timed out"),
    ],
)
def test_servers_that_trick_are_refused(
    tmp_path: Path, server: str, place: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "open":
        monkeypatch.setattr("tools.convert.fetch.LARGEST_GB", 5e-9)
    root = bundle(tmp_path, f"{server}/{place}")
    with pytest.raises((ValueError, OSError), match=sentence):
        fetch(root, convert=None)
    assert files(root) == CONFIGS


@pytest.mark.parametrize("url", ["http://x/a.pt", "ftp://x/a.pt", "data:,a", "a.pt", "https://["])
def test_addresses_are_https_or_files(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="url must start with https:// or file://, got "):
        fetch(bundle(tmp_path, url), convert=None)


def test_out_and_url_take_the_place_of_folder_and_address(tmp_path: Path) -> None:
    root = bundle(tmp_path, "file:///nowhere/at/all")
    written = fetch(root, out=tmp_path / "out", url=source(tmp_path).as_uri())
    assert [path.name for path in written] == ["a.pt", "published.pt"]
    assert files(root) == CONFIGS
    assert files(tmp_path / "out") == {"models/a.pt", "models/a.pt.sha256", "models/published.pt"}


@pytest.mark.parametrize("upper", [False, True])
def test_known_checksum_is_checked_and_not_recorded(tmp_path: Path, upper: bool) -> None:
    origin = source(tmp_path)
    digest = hashlib.sha256(origin.read_bytes()).hexdigest()
    root = bundle(tmp_path, origin.as_uri(), hash_val=digest.upper() if upper else digest)
    fetch(root, convert=None)
    assert files(root) == CONFIGS | {"models/a.pt"}
    (root / "models" / "a.pt").write_bytes(b"changed")
    with pytest.raises(ValueError, match="hash_val must be the sha256 of the file"):
        fetch(root, convert=None)


@pytest.mark.parametrize(
    ("name", "hash_val", "sentence"),
    [
        ("published.bin", "0" * 64, "hash_val must be the sha256 of the file, 000"),
        ("absent.bin", "", "error: url must be a file that can be read, got file://"),
    ],
)
def test_failed_download_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, hash_val: str, sentence: str
) -> None:
    root = bundle(tmp_path, source(tmp_path).with_name(name).as_uri(), hash_val=hash_val)
    assert main(["fetch", str(root)]) == 1
    assert sentence in capsys.readouterr().err
    assert files(root) == CONFIGS


OUTSIDE = ["../a.pt", "models/../../a.pt", "/a.pt", "models/link/a.pt", ".", "models", "a.pt"]


@pytest.mark.parametrize("path", [*OUTSIDE, "configs/published.json", "models/a\0.pt"])
def test_path_cannot_leave_models(tmp_path: Path, path: str) -> None:
    root = bundle(tmp_path, source(tmp_path).as_uri(), path=path)
    (root / "models").mkdir()
    (root / "models" / "link").symlink_to(tmp_path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"path must be a file inside .*models, got "):
        fetch(root, convert=None)
    assert files(tmp_path) == before


def test_neither_a_link_nor_a_config_leads_out_of_models(tmp_path: Path) -> None:
    root = bundle(tmp_path, source(tmp_path).as_uri())
    (tmp_path / "elsewhere").mkdir()
    (root / "models").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"path must be a file inside .*, got 'models/a\.pt'"):
        fetch(root, convert=None)
    (root / "models").unlink()
    published = {"ckpt_path": "$@bundle_root + '/../published.pt'"}
    (root / "configs" / "published.json").write_text(json.dumps(published))
    with pytest.raises(ValueError, match=r"path must be a file inside .*, got '\.\./pub"):
        fetch(root)
    assert files(root) == CONFIGS
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConnectionResetError])
def test_interrupted_download_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    root = bundle(tmp_path, source(tmp_path).as_uri())

    def breaks_off(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("tools.convert.fetch.BLOCK", 8)
        patch.setattr(tqdm, "update", breaks_off)
        with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else OSError):
            fetch(root)
    assert files(root) == CONFIGS
    assert len(fetch(root)) == 2


def test_faulty_arguments(tmp_path: Path) -> None:
    root = bundle(tmp_path, "file:///a")
    with pytest.raises(ValueError, match="convert must be one of"):
        fetch(root, convert="other")
    (root / "published_weights.yml").write_text(
        json.dumps({"convert": "auto", "large_files": [{"path": "models/a", "url": "file:///a"}]})
    )
    with pytest.raises(ValueError, match=r"convert must be one of .* got 'auto'"):
        fetch(root)
    with pytest.raises(ValueError, match="sphere_outside must be left out without conversion"):
        fetch(root, convert=None, sphere_outside=-1)
    two = [{"path": f"models/{name}", "url": "file:///a"} for name in "ab"]
    (root / "published_weights.yml").write_text(json.dumps({"large_files": two}))
    with pytest.raises(ValueError, match="url needs a bundle with one large file, got 2"):
        fetch(root, url="file:///b", convert=None)
    (root / "published_weights.yml").write_text(json.dumps({"large_files": [{"path": "a"}]}))
    with pytest.raises(ValueError, match="must give each file a url"):
        fetch(root)
    (root / "published_weights.yml").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold published_weights\.yml"):
        fetch(root)


# test_maisi.py fetches what has a converter of its own
LISTS = sorted(
    path
    for path in ROOT.glob("bundles/*/published_weights.yml")
    if "convert" not in ConfigParser.load_config_file(path)
)


@pytest.mark.parametrize("folder", LISTS, ids=lambda path: path.parent.name)
def test_bundle_names_its_published_file_and_config_loads_the_result(
    tmp_path: Path, folder: Path
) -> None:
    listed = ConfigParser.load_config_file(folder)["large_files"][0]["path"]
    written = fetch(folder.parent, out=tmp_path / "out", url=source(tmp_path).as_uri())
    names = [path.resolve().relative_to(tmp_path.resolve()).as_posix() for path in written]
    assert names == [f"out/{listed}", "out/models/published.pt"]
