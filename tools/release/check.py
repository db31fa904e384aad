"""The command ``python -m tools check``: is a bundle what the house and the model zoo ask for?"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow, verify_metadata

from tools.files import new_file
from tools.release.config_rules import (
    Config,
    bundle_differences,
    config_faults,
    differences,
    house_json,
    with_shared_settings,
)
from tools.release.pack import LARGEST_FILE_MB, listed_weights, load_json, ships

__all__ = ["check_bundles", "find_bundles", "find_schema"]

REQUIRED_FILES: tuple[str, ...] = ("LICENSE", "configs/inference.json", "configs/logging.conf")
REQUIRED_FILES += ("configs/metadata.json", "configs/train.json", "docs/README.md")
REQUIRED_FILES += ("docs/data_license.txt", "models/model.pt")
REQUIRED_KEYS: tuple[str, ...] = ("schema", "version", "changelog", "monai_version", "authors")
REQUIRED_KEYS += ("pytorch_version", "numpy_version", "required_packages_version", "task")
REQUIRED_KEYS += ("description", "copyright", "network_data_format")
NOT_SHIPPED = {"output", "eval"}
DATA_FILES = {"histograms.json", "metadata.json", "published_histograms.json", "subtypes.json"}
WORKFLOWS = (
    ("train", ("train.json",)),
    ("inference", ("inference.json",)),
    ("train", ("train.json", "evaluate.json")),
    # a second organ: overlays on top of the same files
    ("train", ("train.json", "cardiac.json")),
    ("inference", ("inference.json", "cardiac_inference.json")),
    ("train", ("train.json", "cardiac.json", "cardiac_evaluate.json")),
    *(("train", ("train.json", f"{name}.json")) for name in ("heart", "liver")),
    *(("inference", ("inference.json", f"{name}_inference.json")) for name in ("heart", "liver")),
    ("train", ("train.json", "heart.json", "heart_wall.json")),
    ("inference", ("inference.json", "heart_inference.json", "heart_wall_inference.json")),
)
REPOSITORY = Path(__file__).resolve().parents[2]


def find_bundles(
    bundles: Sequence[str | os.PathLike[str]] = (), root: str = "bundles"
) -> list[Path]:
    """Return the named bundles, or all in a folder if none is named."""
    if bundles:
        return [Path(bundle) for bundle in bundles]
    folders = sorted(path.parents[1] for path in Path(root).glob("*/configs/metadata.json"))
    if not folders:
        raise FileNotFoundError(f"bundles must be named, or lie in {root}/, got none")
    return folders


def check_bundles(
    bundles: Sequence[str | os.PathLike[str]],
    fix: bool = False,
    schema: str | os.PathLike[str] | None = None,
    instantiate: bool = True,
) -> list[str]:
    """Return all findings, one line each; none means that the bundles are ready to be released.

    Options are those of the command; the first bundle is what the others are compared with.
    ``instantiate`` also builds the workflows, which takes seconds and needs the data they name.

    Raises:
        FileNotFoundError: if a bundle is no folder, or ``schema`` is given and is no file.
    """
    folders = [Path(bundle) for bundle in bundles]
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"bundle must be an existing folder, got {folder}")
    findings: list[str] = []
    trains: dict[Path, Config] = {}
    for folder in folders:
        try:
            configs, metadata = _read(folder)
        except (ValueError, FileNotFoundError) as error:
            findings.append(f"{folder.name}: {error}")
            continue
        if fix:
            configs = _fix(folder, configs)
        trains[folder] = configs.get("train.json", {})
        about = [*_metadata_faults(metadata), *_schema_faults(folder, metadata, schema)]
        found = _layout_faults(folder) + [f"configs/metadata.json: {text}" for text in about]
        found += _config_findings(folder, configs)
        if instantiate and not found:  # a broken file fails here too, with less to say
            found = _workflow_findings(folder, configs)
        findings += [f"{folder.name}: {text}" for text in found]
    for folder in list(trains)[1:]:
        first = next(iter(trains))
        others = bundle_differences(folder, trains[folder], first, trains[first])
        findings += [f"{folder.name}: {text}" for text in others]
    return findings


def _read(bundle: Path) -> tuple[dict[str, Config], dict[str, Any]]:
    """Return the configs of a bundle by file name, presets left out, and its metadata."""
    paths = sorted(bundle.glob("configs/*.json"))
    configs = {path.name: load_json(path) for path in paths if path.name not in DATA_FILES}
    path = bundle / "configs" / "metadata.json"
    if not path.is_file():
        raise FileNotFoundError(f"configs/{path.name} is missing")
    return configs, load_json(path)


def _layout_faults(bundle: Path) -> list[str]:
    """Find files that are missing, empty, too large, or Python, among those that ship."""
    faults = [f"{name} is missing" for name in REQUIRED_FILES if not (bundle / name).is_file()]
    others = listed_weights(bundle)
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        relative = path.relative_to(bundle)
        name = relative.as_posix()
        if NOT_SHIPPED & set(relative.parts) or not ships(relative) or name in others:
            continue
        size = path.stat().st_size
        if size > LARGEST_FILE_MB * 10**6:
            faults.append(f"{name} has {size / 1e6:.1f} MB, at most {LARGEST_FILE_MB} are allowed")
        if size == 0 and name in REQUIRED_FILES:
            faults.append(f"{name} is empty")
        if path.suffix == ".py":
            faults.append(f"{name} is Python, which belongs in tools/")
    return faults


def _metadata_faults(metadata: Mapping[str, Any]) -> list[str]:
    """Find missing keys, a version without changelog entry, and tensors under other names."""
    faults = [f"{key} is missing" for key in REQUIRED_KEYS if key not in metadata]
    version, changelog = metadata.get("version"), metadata.get("changelog")
    if not isinstance(changelog, dict) or not changelog.get(str(version)):
        faults.append(f"changelog has no entry for version {version}")
    data_format = metadata.get("network_data_format")
    for side, name in (("inputs", "image"), ("outputs", "pred")):
        tensors = data_format.get(side) if isinstance(data_format, dict) else None
        # viewers take the first input as reference image
        if not isinstance(tensors, dict) or next(iter(tensors), None) != name:
            faults.append(f"network_data_format: the first of {side} must be {name}")
    return faults


def find_schema(
    metadata: Mapping[str, Any], schema: str | os.PathLike[str] | None = None
) -> Path | None:
    """Return the given schema, else the one that the metadata name in ``../shared/reference``."""
    if schema is not None:
        if not Path(schema).is_file():
            raise FileNotFoundError(f"schema must be an existing JSON file, got {schema}")
        return Path(schema)
    name = str(metadata.get("schema", "")).rsplit("/", 1)[-1]
    path = REPOSITORY.parent / "shared" / "reference" / name
    return path if name and path.is_file() else None


def _schema_faults(folder: Path, metadata: Mapping[str, Any], schema: Any) -> list[str]:
    """Find what MONAI's ``verify_metadata`` objects to, where there is a copy of the schema."""
    source = find_schema(metadata, schema)
    if source is None:
        return []
    with tempfile.TemporaryDirectory() as work, _silence():
        # MONAI downloads the schema unless the file is there already
        copy = shutil.copy(source, Path(work) / "schema.json")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                verify_metadata(str(folder / "configs" / "metadata.json"), filepath=copy)
        except (ValueError, json.JSONDecodeError) as error:
            cause = error.__cause__ or error
            return [f"schema: {getattr(cause, 'message', None) or str(cause).splitlines()[0]}"]
    return []


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what is logged while something is only looked at, such as which data it would read."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _fix(folder: Path, configs: dict[str, Config]) -> dict[str, Config]:
    """Write what the configs ought to be, and return it."""
    mended = with_shared_settings(configs)
    for name, config in mended.items():
        path, text = folder / "configs" / name, house_json(config)
        if path.read_text(encoding="utf-8") != text:
            with new_file(path) as partial:
                partial.write_text(text, encoding="utf-8")
    return mended


def _config_findings(folder: Path, configs: dict[str, Config]) -> list[str]:
    """Return the findings on each config and between them."""
    found = [f"configs: {text}" for text in differences(configs)]
    for name, config in configs.items():
        faults = config_faults(configs, name)
        if (folder / "configs" / name).read_text(encoding="utf-8") != house_json(config):
            faults.append("is not in the house form, which --fix writes")
        found += [f"configs/{name}: {text}" for text in faults]
    return found


def _workflow_findings(folder: Path, configs: dict[str, Config]) -> list[str]:
    """Build the workflows as MONAI does and return the properties that they lack."""
    found = []
    for kind, names in WORKFLOWS:
        if not configs.keys() >= set(names):
            continue
        label = " + ".join(names)
        with tempfile.TemporaryDirectory() as output_dir, _silence():
            options: dict[str, Any] = {"bundle_root": str(folder), "output_dir": output_dir}
            options |= _unread(configs[names[0]])
            try:
                workflow = ConfigWorkflow(
                    config_file=[str(folder / "configs" / name) for name in names],
                    workflow_type=kind,
                    logging_file=False,
                    **options,
                )
                workflow.initialize()
                missing = workflow.check_properties() or []
            except Exception as error:  # a config can fail in any way there is
                found.append(f"configs/{label}: does not build: {str(error).splitlines()[0]}")
                continue
        found += [f"configs/{label}: property {name} is missing" for name in missing]
    return found


def _unread(config: Config) -> dict[str, int]:
    """Return what keeps a workflow from loading all its data to be looked at."""
    datasets = {part: config.get(part, {}).get("dataset", {}) for part in ("train", "validate")}
    few = {"ruler_lesions": 1} if "ruler_lesions" in config else {}
    return few | {
        f"{part}#dataset#cache_num": 0
        for part, dataset in datasets.items()
        if dataset.get("_target_") == "CacheDataset"
    }
