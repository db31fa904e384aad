"""The command ``python -m tools check``: is a bundle what the house and the model zoo ask for?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.files import new_file
from tools.release.config_format import house_json
from tools.release.config_rules import Config, rule_faults, training_faults
from tools.release.config_targets import target_faults
from tools.release.layout import find_schema, layout_faults, metadata_faults, schema_faults
from tools.release.pack import load_json
from tools.release.sameness import bundle_differences, differences, with_shared_settings

__all__ = ["check_bundles", "find_bundles", "read_configs"]

DATA_FILES = {"histograms.json", "metadata.json", "published_histograms.json", "subtypes.json"}
WORKFLOWS = (
    ("train", ("train.json",)),
    ("inference", ("inference.json",)),
    ("train", ("train.json", "evaluate.json")),
    # a second organ: overlays on top of the same files
    ("train", ("train.json", "cardiac.json")),
    ("inference", ("inference.json", "cardiac_inference.json")),
    ("train", ("train.json", "cardiac.json", "cardiac_evaluate.json")),
)


def find_bundles(
    bundles: Sequence[str | os.PathLike[str]] = (), root: str = "bundles"
) -> list[Path]:
    """Return the named bundles, or all in a folder if none is named.

    Args:
        bundles: folders.
        root: folder of bundles.

    Raises:
        FileNotFoundError: if none is named and ``root`` holds none.
    """
    folders = [Path(bundle) for bundle in bundles]
    folders = folders or [path.parents[1] for path in Path(root).glob("*/configs/metadata.json")]
    if not folders:
        raise FileNotFoundError(f"bundles must be named, or lie in {root}/, got none")
    return sorted(folders) if not bundles else folders


def read_configs(bundle: Path) -> dict[str, Config]:
    """Return the parsed configs of a bundle by file name, metadata and presets left out.

    Args:
        bundle: folder of the bundle.

    Raises:
        ValueError: if a file is not a JSON object.
    """
    configs = {}
    for path in sorted(bundle.glob("configs/*.json")):
        if path.name not in DATA_FILES:
            configs[path.name] = _read(path)
    return configs


def check_bundles(
    bundles: Sequence[str | os.PathLike[str]],
    fix: bool = False,
    schema: str | os.PathLike[str] | None = None,
    instantiate: bool = True,
) -> list[str]:
    """Return all findings, one line each; none means that the bundles are ready to be released.

    Looked at are layout, sizes, metadata and their schema, the rules for configs, targets and
    their arguments, the properties of MONAI's workflows, the form of the JSON, what must be the
    same in the files of a bundle, and what must be the same in all bundles.

    Args:
        bundles: folders. The first is what the others are compared with.
        fix: first copy shared settings from ``train.json`` to the other files that stand alone, and
            write the configs in the house form.
        schema: local copy of the metadata schema; None looks beside the checkout, and where there
            is none the schema is not checked.
        instantiate: also build the workflows, which takes seconds and needs the data they name.

    Raises:
        FileNotFoundError: if a bundle is no folder, or ``schema`` is given and is no file.

    Example:
        >>> check_bundles(["bundles/nowhere"])
        Traceback (most recent call last):
        FileNotFoundError: bundle must be an existing folder, got bundles/nowhere
    """
    folders = [Path(bundle) for bundle in bundles]
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"bundle must be an existing folder, got {folder}")
    findings: list[str] = []
    trains: dict[Path, Config] = {}
    for folder in folders:
        try:
            configs = read_configs(folder)
            metadata = _read(folder / "configs" / "metadata.json")
        except (ValueError, FileNotFoundError) as error:
            findings.append(f"{folder.name}: {error}")
            continue
        if fix:
            configs = _fix(folder, configs)
        trains[folder] = configs.get("train.json", {})
        found = [*layout_faults(folder), *_metadata(folder, metadata, schema)]
        found += _configs(folder, configs)
        if instantiate and not found:  # a broken file fails here too, with less to say
            found = _properties(folder)
        findings += [f"{folder.name}: {text}" for text in found]
    for folder in list(trains)[1:]:
        first = next(iter(trains))
        others = bundle_differences(folder, trains[folder], first, trains[first])
        findings += [f"{folder.name}: {text}" for text in others]
    return findings


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"configs/{path.name} is missing")
    return load_json(path)


def _fix(folder: Path, configs: dict[str, Config]) -> dict[str, Config]:
    """Write what the configs ought to be, and return it."""
    mended = with_shared_settings(configs)
    for name, config in mended.items():
        path, text = folder / "configs" / name, house_json(config)
        if path.read_text(encoding="utf-8") != text:
            with new_file(path) as partial:
                partial.write_text(text, encoding="utf-8")
    return mended


def _metadata(folder: Path, metadata: dict[str, Any], schema: Any) -> list[str]:
    copy = find_schema(metadata, schema)
    path = folder / "configs" / "metadata.json"
    found = [*metadata_faults(metadata), *(schema_faults(path, copy) if copy else ())]
    return [f"configs/metadata.json: {text}" for text in found]


def _configs(folder: Path, configs: dict[str, Config]) -> list[str]:
    """Return the findings on each config and between them."""
    found = [f"configs: {text}" for text in differences(configs)]
    for name, config in configs.items():
        others = [other for key, other in configs.items() if key != name]
        faults = [*rule_faults(config, others), *target_faults(config)]
        if name == "train.json":
            faults += training_faults(config)
        if (folder / "configs" / name).read_text(encoding="utf-8") != house_json(config):
            faults.append("is not in the house form, which --fix writes")
        found += [f"configs/{name}: {text}" for text in faults]
    return found


def _properties(folder: Path) -> list[str]:
    """Build the workflows as MONAI does and return the properties that they lack."""
    from monai.bundle import ConfigWorkflow

    found = []
    for kind, names in WORKFLOWS:
        paths = [folder / "configs" / name for name in names]
        if not all(path.is_file() for path in paths):
            continue
        label = " + ".join(names)
        with tempfile.TemporaryDirectory() as output_dir:
            options: dict[str, Any] = {"bundle_root": str(folder), "output_dir": output_dir}
            options |= _uncached(paths[0])
            try:
                workflow = ConfigWorkflow(
                    config_file=[str(path) for path in paths],
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


def _uncached(path: Path) -> dict[str, int]:
    """Return what keeps a workflow from loading all its data to be looked at."""
    config = _read(path)
    datasets = {part: config.get(part, {}).get("dataset", {}) for part in ("train", "validate")}
    return {
        f"{part}#dataset#cache_num": 0
        for part, dataset in datasets.items()
        if dataset.get("_target_") == "CacheDataset"
    }
