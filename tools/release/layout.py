"""Files and metadata that the model zoo asks of a bundle."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.release.pack import LARGEST_FILE_MB, listed_weights, ships

__all__ = ["find_schema", "layout_faults", "metadata_faults", "schema_faults"]

REQUIRED_FILES = (
    "LICENSE",
    "configs/inference.json",
    "configs/logging.conf",
    "configs/metadata.json",
    "configs/train.json",
    "docs/README.md",
    "docs/data_license.txt",
    "models/model.pt",
)
REQUIRED_KEYS = (
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
)
NOT_SHIPPED = {"output", "eval"}
REPOSITORY = Path(__file__).resolve().parents[2]


def layout_faults(bundle: Path) -> list[str]:
    """Find files that are missing, empty, too large, or Python.

    Args:
        bundle: folder of the bundle; ``output/``, ``eval/`` and weights that a user fetched never
            ship, and are left out.
    """
    faults = [f"{name} is missing" for name in REQUIRED_FILES if not (bundle / name).is_file()]
    others = listed_weights(bundle)
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        name = path.relative_to(bundle)
        if NOT_SHIPPED & set(name.parts) or not ships(name) or name.as_posix() in others:
            continue
        size = path.stat().st_size
        if size > LARGEST_FILE_MB * 10**6:
            faults.append(
                f"{name.as_posix()} has {size / 1e6:.1f} MB, at most {LARGEST_FILE_MB} are allowed"
            )
        if size == 0 and name.as_posix() in REQUIRED_FILES:
            faults.append(f"{name.as_posix()} is empty")
        if path.suffix == ".py":
            faults.append(f"{name.as_posix()} is Python, which belongs in tools/")
    return faults


def metadata_faults(metadata: Mapping[str, Any]) -> list[str]:
    """Find missing keys, a version without changelog entry, and tensors under other names.

    Example:
        >>> metadata_faults(dict.fromkeys(REQUIRED_KEYS, {}) | {"version": "0.2.0"})[0]
        'changelog has no entry for version 0.2.0'
    """
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


def find_schema(metadata: Mapping[str, Any], schema: str | Path | None = None) -> Path | None:
    """Return a local copy of the schema that the metadata name, None if there is none.

    Args:
        metadata: whose ``schema`` is the address that ends in the file's name.
        schema: the copy; None looks in ``../shared/reference`` beside the checkout.

    Raises:
        FileNotFoundError: if ``schema`` is given and is no file.
    """
    if schema is not None:
        if not Path(schema).is_file():
            raise FileNotFoundError(f"schema must be an existing JSON file, got {schema}")
        return Path(schema)
    name = str(metadata.get("schema", "")).rsplit("/", 1)[-1]
    path = REPOSITORY.parent / "shared" / "reference" / name
    return path if name and path.is_file() else None


def schema_faults(metadata_file: Path, schema: Path) -> list[str]:
    """Find what MONAI's ``verify_metadata`` objects to, without a download.

    Args:
        metadata_file: ``metadata.json`` of a bundle.
        schema: local copy of the schema.
    """
    from monai.bundle import verify_metadata

    with tempfile.TemporaryDirectory() as folder:
        # MONAI downloads the schema unless the file is there already
        copy = Path(folder) / "schema.json"
        shutil.copy(schema, copy)
        logging.disable(logging.INFO)
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that no checksum was given
                verify_metadata(meta_file=str(metadata_file), filepath=str(copy))
        except (ValueError, json.JSONDecodeError) as error:
            cause = error.__cause__ or error
            return [f"schema: {getattr(cause, 'message', None) or str(cause).splitlines()[0]}"]
        finally:
            logging.disable(logging.NOTSET)
    return []
