"""The command ``python -m tools pack``: a bundle and its code in one zip that runs anywhere."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from monai.bundle import ConfigParser
from yaml import YAMLError

from tools.files import claimed, new_file, read_object

__all__ = ["LARGEST_FILE_MB", "listed_weights", "load_json", "pack_bundle", "ships"]

# Named one by one, so that output/, eval/ and what people leave lying about never travel.
RUNTIME: tuple[str, ...] = ("__init__.py", "bundle.py", "bundle_run.py", "checkpoints.py")
RUNTIME += ("files.py", "handlers.py", "histograms.py", "intensity.py", "kinds.py")
RUNTIME += (
    "packed_code.py",
    "prepare_batch.py",
    "schedules.py",
    "sentences.py",
    "windows.py",
    "dicom",
    "inferers",
    "losses",
)
RUNTIME += ("metrics", "networks", "organs", "phantoms", "scans", "shapes", "synthesis")
RUNTIME += ("transforms",)
LISTS, ZOO_LISTS = (
    [f"{name}.{suffix}" for suffix in ("json", "yaml", "yml")]
    for name in ("published_weights", "large_files")
)
PARTS = ("LICENSE", "configs", "docs", "models", *LISTS, *ZOO_LISTS)
REQUIRED = ("configs/metadata.json", "LICENSE", "models/model.pt")
LARGEST_FILE_MB = 25  # the model zoo's limit; anything larger belongs in large_files.yml
TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the earliest that the zip format knows
PERMISSIONS = 0o100644  # a plain file, rw-r--r--
# our own weights: what git keeps of models/; all else there was fetched, converted or trained
WEIGHTS = re.compile(r"(model|model_\w+|autoencoder)\.pt")
LOADED = re.compile(r"/(models/[\w.-]+)")
LEFT_OVER = {".part", ".pyc", ".tmp"}
BUNDLE_ROOT = re.compile(r'^([ \t]*"bundle_root"[ \t]*:[ \t]*)"[^"\r\n]*"', re.MULTILINE)


def pack_bundle(bundle: str | os.PathLike[str], out: str | os.PathLike[str] = "dist") -> Path:
    """Write ``<name>_v<version>.zip``: the bundle and the whole runtime part of ``tools``.

    Nothing in it differs from the repository but ``bundle_root``, which is "." in every config that
    has it. Unpacked, it runs from any folder with ``--bundle_root FOLDER`` and nothing on
    PYTHONPATH. Same input, same bytes: names are sorted, times and permissions fixed, and nothing
    is compressed, since that depends on the version of zlib (and weights hardly shrink).

    Raises:
        FileNotFoundError: if ``bundle`` is no folder or lacks a file that every bundle has, or one
            of models/ that train.json or inference.json loads.
        ValueError: if a JSON file is broken, the version is missing or has no changelog entry,
            ``bundle_root`` does not have a line of its own, or a file is over 25 MB.
    """
    folder = Path(bundle).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"bundle must be an existing folder, got {bundle}")
    for name in REQUIRED:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"bundle must hold {name}, got none in {bundle}")
    target = Path(out) / f"{folder.name}_v{_version(folder)}.zip"
    tools = Path(__file__).resolve().parents[1]
    others = listed_weights(folder)
    files = {name: path for name, path in _files(folder, PARTS) if name not in others}
    _check_loaded(folder, files)
    contents = {f"{folder.name}/{name}": _packed(path) for name, path in files.items()}
    for name, path in _files(tools, RUNTIME):
        contents[f"{folder.name}/tools/{name}"] = path.read_bytes()
    with claimed(target.parent, [target.name]):
        _write_zip(target, contents)
    return target


def _version(folder: Path) -> str:
    """Return the version of a bundle, which must have an entry in its changelog."""
    metadata = load_json(folder / "configs" / "metadata.json")
    version, changelog = metadata.get("version"), metadata.get("changelog")
    if not isinstance(version, str) or not re.fullmatch(r"\w[\w.+-]*", version):
        raise ValueError(f"version in metadata.json must be text like 0.1.0, got {version!r}")
    if not isinstance(changelog, dict) or version not in changelog:
        found = sorted(changelog) if isinstance(changelog, dict) else changelog
        raise ValueError(
            f"changelog in metadata.json must have an entry for version {version}, got {found}"
        )
    return version


def load_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or raise ValueError."""
    return read_object(path, path.name)


def _files(folder: Path, parts: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Yield name below ``folder`` and path of all files of some parts, caches left out."""
    for part in parts:
        top = folder / part
        for path in top.rglob("*") if top.is_dir() else [top]:
            name = path.relative_to(folder)
            if path.is_file() and ships(name):
                yield name.as_posix(), path


def ships(name: Path) -> bool:
    """Return whether a file travels, by its path in the bundle.

    Of ``models/`` our own weights do: ``model.pt``, ``model_*.pt`` and ``autoencoder.pt``.
    Published weights that a user fetched or converted lie beside them, and are not ours to pass on.

    Example:
        >>> [ships(Path(f"models/{name}.pt")) for name in ("model", "autoencoder", "published")]
        [True, True, False]
    """
    hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
    foreign = name.parts[0] == "models" and not WEIGHTS.fullmatch("/".join(name.parts[1:]))
    left_over = name.suffix in LEFT_OVER or name.name.endswith("~")
    return not (hidden or foreign or left_over)


def listed_weights(folder: Path) -> set[str]:
    """Return the files of others that ``published_weights.yml`` offers, which never travel.

    Example:
        >>> listed_weights(Path("bundles/hr_ldm"))
        {'models/autoencoder_epoch273.pt'}
    """
    names = set()
    for path in filter(Path.is_file, (folder / name for name in LISTS)):
        try:
            entries = ConfigParser.load_config_file(path)["large_files"]
            # "./models/x.pt" is models/x.pt
            names |= {PurePosixPath(entry["path"]).as_posix() for entry in entries}
        except (KeyError, TypeError, ValueError, YAMLError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{path.name} must hold large_files, a list with a path each, got: {reason}"
            ) from error
    return names


def _check_loaded(folder: Path, files: Mapping[str, Path]) -> None:
    """Raise FileNotFoundError unless all weights that train and inference load are packed."""
    for name in ("configs/train.json", "configs/inference.json"):
        text = files[name].read_text(encoding="utf-8") if name in files else ""
        for loaded in sorted(set(LOADED.findall(text)) - set(files)):
            raise FileNotFoundError(
                f"bundle must hold {loaded}, which {name} loads, got none that ships in {folder}"
            )


def _packed(path: Path) -> bytes:
    """Return what the zip holds for a file of the bundle."""
    size_mb = path.stat().st_size / 1e6
    if size_mb > LARGEST_FILE_MB:
        raise ValueError(
            f"files of a bundle must be at most {LARGEST_FILE_MB} MB, "
            f"got {path.name} of {size_mb:.1f} MB"
        )
    content = path.read_bytes()
    if path.parent.name == "configs" and path.suffix == ".json":
        return _with_local_root(path, content)
    return content


def _with_local_root(path: Path, content: bytes) -> bytes:
    """Return a config with ``bundle_root`` set to ".", other lines byte for byte as they were."""
    config = load_json(path)
    if "bundle_root" not in config:
        return content
    text, count = BUNDLE_ROOT.subn(r'\1"."', content.decode())
    if count != 1 or json.loads(text) != config | {"bundle_root": "."}:
        raise ValueError(
            f"bundle_root must be one text on a line of its own, got {count} such lines "
            f"in {path.name}"
        )
    return text.encode()


def _write_zip(target: Path, contents: dict[str, bytes]) -> None:
    """Write files by name into a zip, sorted and without times; all or nothing."""
    with new_file(target) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, TIMESTAMP)
            entry.create_system = 3  # Unix, also when packed on Windows
            entry.external_attr = PERMISSIONS << 16
            archive.writestr(entry, contents[name])
