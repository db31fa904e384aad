"""Published weights on request: download what ``published_weights.yml`` names.

The list has the form of the model zoo's ``large_files.yml``, but not its name: what stands under
that name is downloaded whenever a bundle is tested or deployed, and these files are a choice.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from monai.apps.utils import SUPPORTED_HASH_TYPES
from monai.bundle import ConfigParser
from tqdm import tqdm

from tools.convert import lefusion, maisi
from tools.files import new_file

__all__ = ["fetch"]

LISTS = tuple(f"published_weights.{suffix}" for suffix in ("yml", "yaml", "json"))
AUTO = "auto"
WEB = "https"  # nothing that is sent in the open is loaded
LOCAL = "file"
LARGEST_GB = 4.0  # the published files have 0.1 to 1
TIMEOUT_S = 60.0  # without a byte
BLOCK = 2**20


class Converter(NamedTuple):
    """How published weights become what a config of the bundle loads."""

    run: Callable[..., dict[str, Any]]  # source, target, keywords -> arguments of the network
    config: str  # that loads the result
    key: str  # of it that names the result


CONVERTERS = {
    "lefusion": Converter(lefusion.convert, "published.json", "ckpt_path"),
    "maisi": Converter(maisi.convert, "published_autoencoder.json", "autoencoder_path"),
}


class LargeFile(NamedTuple):
    """One entry of ``large_files``, checked."""

    path: Path
    url: str
    hash_val: str | None  # where one is known
    hash_type: str


def fetch(
    bundle: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    url: str | None = None,
    convert: str | None = AUTO,
    sphere_outside: float | str | None = None,
) -> list[Path]:
    """Download the large files of a bundle, convert them, and return all files written.

    Addresses are https, after redirects too, or a file of this machine; nothing is written outside
    of ``models/``. A file appears under its name only when it is whole. One that is there already
    is checked, not downloaded again. Where no checksum is known, ``NAME.sha256`` (as of
    ``sha256sum``), which the first download leaves beside it, is what later ones must have. Options
    are those of the command; ``convert`` "auto" is what the list says, lefusion where it says
    nothing, and None leaves the file as it comes.

    Raises:
        FileNotFoundError: if there is no bundle or no list.
        ValueError: if the list is faulty, a path leaves ``models/``, an address is neither https
            nor file, a file is over 4 GB, or a checksum differs.
        OSError: if a download fails or breaks off; nothing is left of it.
    """
    folder = Path(bundle)
    if not folder.is_dir():
        raise FileNotFoundError(f"bundle must be an existing folder, got {bundle}")
    root = folder if out is None else Path(out)
    content = _read_list(folder)
    files = [_large_file(entry, root) for entry in content["large_files"]]
    convert = content.get("convert", "lefusion") if convert == AUTO else convert
    _check_choice(convert, sphere_outside)
    if len(files) != 1 and (url is not None or convert is not None):
        option = "url" if url is not None else "convert"
        raise ValueError(f"{option} needs a bundle with one large file, got {len(files)}")
    target = None if convert is None else _converted_path(folder, root, CONVERTERS[convert])
    for file in files:
        _download(file._replace(url=url or file.url))
    written = [file.path for file in files]
    if convert is not None and target is not None:
        options = {} if sphere_outside is None else {"sphere_outside": sphere_outside}
        definition = CONVERTERS[convert].run(str(files[0].path), str(target), **options)
        if "sphere_outside" in definition:
            _compare_encoding(folder, definition["sphere_outside"])
        written.append(target)
    return written


def _check_choice(convert: str | None, sphere_outside: float | str | None) -> None:
    """Raise ValueError unless the conversion is known and takes the option."""
    if convert not in (None, *CONVERTERS):
        raise ValueError(f"convert must be one of {sorted(CONVERTERS)} or none, got {convert!r}")
    if convert is None and sphere_outside is not None:
        raise ValueError(
            f"sphere_outside must be left out without conversion, got {sphere_outside}"
        )
    if convert == "maisi" and sphere_outside is not None:
        raise ValueError(f"sphere_outside needs a DiffMask checkpoint, got {sphere_outside}")


def _read_list(folder: Path) -> dict[str, Any]:
    """Return a bundle's list with its ``large_files``, one at least."""
    found = [folder / name for name in LISTS if (folder / name).is_file()]
    if not found:
        raise FileNotFoundError(f"bundle must hold published_weights.yml, got none in {folder}")
    content = ConfigParser.load_config_file(found[0])
    entries = content.get("large_files")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"large_files must be a list of files, got {entries!r} in {found[0]}")
    return content


def _large_file(entry: Any, root: Path) -> LargeFile:
    entry = entry if isinstance(entry, dict) else {}
    for key in ("path", "url"):
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise ValueError(f"large_files must give each file a {key}, got {entry}")
    path = _in_models(root, entry["path"])
    hash_type = str(entry.get("hash_type") or "sha256").lower()
    if hash_type not in SUPPORTED_HASH_TYPES:
        choices = ", ".join(SUPPORTED_HASH_TYPES)
        raise ValueError(f"hash_type must be one of {choices}, got {entry['hash_type']!r}")
    hash_val = str(entry.get("hash_val") or "").lower() or None
    return LargeFile(path, entry["url"], hash_val, hash_type)


def _in_models(root: Path, name: str) -> Path:
    """Return a file to write; a link out of the folder counts as outside, ``models`` itself too."""
    models = root.resolve() / "models"
    path = root.resolve() if "\0" in name else (root / name).resolve()
    if models not in path.parents or path.is_dir():
        raise ValueError(f"path must be a file inside {models}, got {name!r}")
    return path


def _converted_path(folder: Path, root: Path, converter: Converter) -> Path:
    """Return the checkpoint that a config of the bundle loads, below the root."""
    name, key = converter.config, converter.key
    config = folder / "configs" / name
    if not config.is_file():
        raise FileNotFoundError(f"convert needs configs/{name}, got none in {folder}")
    value = ConfigParser.load_config_file(config).get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} in {name} must be the file to load, got {value!r}")
    parser = ConfigParser({"bundle_root": str(root), key: value})
    return _in_models(root, os.path.relpath(parser.get_parsed_content(key), root))


def _compare_encoding(folder: Path, found: float) -> None:
    """Print the option to run a bundle with if its config names another sphere encoding."""
    config = ConfigParser.load_config_file(folder / "configs" / "published.json")
    network = config.get("network_def")
    expected = network.get("sphere_outside", 255.0) if isinstance(network, dict) else 255.0
    if found != expected:
        print(
            f"published.json has sphere_outside {expected}: "
            f"run it with --network_def#sphere_outside={found:g}"
        )


def _download(file: LargeFile) -> None:
    """Put one file in place, whole and checked, or raise and leave nothing."""
    record = file.path.with_name(f"{file.path.name}.sha256")
    if file.path.exists():
        _check(file, file.path, str(file.path), record)
    else:
        with new_file(file.path) as partial:
            try:
                _stream(file.url, partial)
            except (OSError, HTTPException, UnicodeError) as error:
                reason = str(error) or type(error).__name__
                message = f"url must be a file that can be read, got {file.url}: {reason}"
                raise OSError(message) from error
            _check(file, partial, file.url, record)
    if file.hash_val is None and not record.is_file():
        digest = _digest(file.path, "sha256")
        with new_file(record) as partial:
            partial.write_text(f"{digest}  {file.path.name}\n", encoding="utf-8")
        print(
            f"sha256 {digest}  {file.path.name} (no checksum was known: this first use is recorded "
            f"in {record.name}, and later downloads are compared with it)"
        )


def _stream(url: str, target: Path) -> None:
    """Write what an address gives, block by block, up to the limit."""
    _check_address(url, (WEB, LOCAL))
    opener = build_opener(_Redirects)
    with opener.open(url, timeout=TIMEOUT_S) as answer, target.open("wb") as stream:
        stated = str(answer.headers.get("Content-Length") or "")
        length = int(stated) if stated.isdecimal() else None
        _check_size(length or 0, url)
        with tqdm(total=length, unit="B", unit_scale=True, desc=target.name) as bar:
            while block := answer.read(BLOCK):
                bar.update(len(block))
                _check_size(int(bar.n), url)
                stream.write(block)
    # a connection that ends early looks like the end of the file
    if length is not None and target.stat().st_size != length:
        raise OSError(f"{target.stat().st_size} of {length} bytes arrived")


class _Redirects(HTTPRedirectHandler):
    """Go where a server sends us, but not from https to anything else."""

    def redirect_request(self, req: Request, *args: Any) -> Request | None:
        _check_address(args[-1], (WEB,))
        return super().redirect_request(req, *args)


def _check_address(url: str, schemes: tuple[str, ...]) -> None:
    try:
        scheme = urlsplit(url).scheme
    except ValueError:  # "https://[": no address at all
        scheme = ""
    if scheme not in schemes:
        raise ValueError(
            f"url must start with {' or '.join(f'{s}://' for s in schemes)}, got {url}"
        )


def _check_size(size: int, url: str) -> None:
    if size > LARGEST_GB * 1e9:
        raise ValueError(
            f"url must give at most {LARGEST_GB:g} GB, got {size / 1e9:.1f} or more from {url}"
        )


def _check(file: LargeFile, path: Path, source: str, record: Path) -> None:
    """Raise ValueError unless a file has the checksum that is known or was recorded, if any."""
    if file.hash_val is not None:
        if _digest(path, file.hash_type) != file.hash_val:
            raise ValueError(
                f"hash_val must be the {file.hash_type} of the file, {file.hash_val}, "
                f"got another from {source}"
            )
    elif record.is_file():
        recorded = record.read_text(encoding="utf-8", errors="replace").split()[:1]
        digest = _digest(path, "sha256")
        if recorded != [digest]:
            raise ValueError(
                f"{file.path.name} must have the sha256 in {record}, got {digest} from {source}; "
                "remove that record to take another file"
            )


def _digest(path: Path, hash_type: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, hash_type).hexdigest()
