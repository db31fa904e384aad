"""Rules for the JSON of a bundle: it holds choices, each is read, all paths and targets resolve.

Nothing is instantiated. Beside the rules stands what must be the same in the files of a bundle and
in all bundles, and the form in which configs are written.
"""

from __future__ import annotations

import ast
import inspect
import json
import pydoc
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from monai.bundle import ComponentLocator
from monai.bundle.config_item import ConfigComponent
from monai.bundle.properties import InferProperties, TrainProperties

__all__ = [
    "LINE_LENGTH",
    "Config",
    "bundle_differences",
    "config_faults",
    "differences",
    "house_json",
    "with_shared_settings",
]

Config = dict[str, Any]

EXPRESSION_LENGTH = 80
LINE_LENGTH = 100
REFERENCE = re.compile(r"[@%](\w+(?:(?:#|::)\w+)*)")
FILE_MACRO = re.compile(r"^%.*\.(json|ya?ml)\b")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
PROPERTIES = {
    str(item["id"]).replace("::", "#")  # type: ignore[index]
    for properties in (TrainProperties, InferProperties)
    for item in properties.values()
}
# entries that MONAI, MONAI Label, `synthesize` or the person at the command line reads by name
ENTRIES = {"imports", "initialize", "run", "finalize", "training", "evaluating", "measuring"}
ENTRIES |= {"output_dir", "network", "displayable_configs", "window_hu"}
ENTRIES |= {"prepare", "textures", "study", "sphere_ratio", "sphere_centre", "inner_share"}
BLOCKS = ("train", "validate")

SOURCE = "train.json"
# what a network was trained with must not change between the files of a bundle
SAME_IN_ALL = re.compile(
    r"network_def|scheduler|num_train_timesteps|background|mask_input|scale_factor"
    r"|prediction_type|autoencoder_def|intensity_range|histogram_range|mask_detail|mask_channels"
    r"|(\w+_)?window(_\w+)?|(\w+_)?spacing_mm"
    r"|class_names|lesion_classes|organ_values|in_hu|intensity|patch_size"
)
# train_X.json trains a network that train.json takes as it is, under X_def, with crops of its own
SAME_IN_STAGES = re.compile(r"\w+_def|intensity_range")
STAGE = re.compile(r"train_\w+\.json")
# X.json on top of training goes with X_inference.json on top of inference
FOR_USE = "_inference.json"
SAME_FILES = ("LICENSE", "configs/logging.conf")


def config_faults(configs: Mapping[str, Config], name: str) -> list[str]:
    """Return the findings of all rules on one of the configs of a bundle.

    Example:
        >>> config = {"bundle_root": ".", "width": 3, "run": "$print(@bundle_root)"}
        >>> config_faults({"inference.json": config}, "inference.json")
        ['width is read by nothing']
        >>> config["width"] = {"_target_": "tools.losses.LesionNoiseLoss", "power": "@bundle_root"}
        >>> config["run"] = "$print(@width)"
        >>> config_faults({"inference.json": config}, "inference.json")
        ['tools.losses.LesionNoiseLoss takes no argument power']
    """
    config, others = configs[name], [each for key, each in configs.items() if key != name]
    return [
        *_expression_faults(config),
        *_early_tools_faults(config),
        *_file_macro_faults(config),
        *(f"{key} is read by nothing" for key in _dead_keys(config, others)),
        *(f"@{key} has no key" for key in sorted(_dangling_references(config))),
        *_target_faults(config),
        *(_training_faults(config) if name == SOURCE else ()),
    ]


def _expression_faults(config: Config) -> list[str]:
    """Find expressions that are too long, are no Python, hold an algorithm, or name ``tools``."""
    faults = []
    for text in (text for text in _strings(config) if text.startswith("$")):
        if len(text) > EXPRESSION_LENGTH:
            faults.append(
                f"expression of {len(text)} characters, at most {EXPRESSION_LENGTH}: {text}"
            )
        try:
            nodes = list(ast.walk(ast.parse(REFERENCE.sub("reference", text[1:]))))
        except SyntaxError:
            faults.append(f"expression is not valid Python: {text}")
            continue
        if any(isinstance(node, (ast.Lambda, *COMPREHENSIONS)) for node in nodes):
            faults.append(f"expression holds an algorithm (lambda or comprehension): {text}")
        if re.search(r"\btools\b", text):
            faults.append(f"expression names tools, which only _target_ may do: {text}")
    return faults


def _early_tools_faults(config: Config) -> list[str]:
    """Find ``tools`` in what MONAI evaluates before the bundle root is on ``sys.path``."""
    early = (value for key, value in config.items() if _top(key) in {"imports", "initialize"})
    return [
        f"tools is not importable yet in imports and initialize: {text}"
        for value in early
        for text in _strings(value)
        if re.search(r"\btools\b", text)
    ]


def _file_macro_faults(config: Config) -> list[str]:
    """Find macros that name a file: they are relative to the working directory."""
    found = filter(FILE_MACRO.match, _strings(config))
    return [f"macro names a file, which depends on the working directory: {text}" for text in found]


def _dead_keys(config: Config, others: Sequence[Config]) -> list[str]:
    """Return keys that nothing reads: no reference, no property of MONAI, no entry, no overlay."""
    read = _references(config) | PROPERTIES | ENTRIES
    if _is_overlay(config):
        for other in others:
            read |= _references(other) | {_top(key) for key in other}
    read |= {name.split("#")[0] for name in PROPERTIES}
    dead = [key for key in config if _top(key) not in read and key != "_desc_"]
    for block in BLOCKS:
        inner = config.get(block)
        for key in inner if isinstance(inner, dict) else ():
            if f"{block}#{key}" not in read and not key.startswith("_"):
                dead.append(f"{block}#{key}")
    return dead


def _dangling_references(config: Config) -> set[str]:
    """Return references of a file that stands alone to top-level keys that it does not have."""
    used = {name for name in _references(config) if "#" not in name}
    return set() if _is_overlay(config) else used - {_top(key) for key in config}


def _training_faults(config: Config) -> list[str]:
    """Find what keeps ``train.json`` from running by its name and without one."""
    faults = [] if "training" in config else ["training must be a key, got none"]
    if config.get("run") != "%training":
        faults.append(f'run must be "%training", got {config.get("run")!r}')
    return faults


def _target_faults(config: Config) -> list[str]:
    """Find targets that do not exist, and arguments that their signatures do not have."""
    faults = []
    for component in _components(config):
        name = component["_target_"]
        if name.startswith(("@", "$", "%")):
            continue
        target = _locate(name)
        if target is None:
            faults.append(f"_target_ {name} does not exist")
            continue
        try:
            parameters = inspect.signature(target).parameters
        except (TypeError, ValueError):  # some builtins have none
            continue
        if any(item.kind is item.VAR_KEYWORD for item in parameters.values()):
            continue
        given = component.keys() - ConfigComponent.non_arg_keys - parameters.keys()
        faults += [f"{name} takes no argument {key}" for key in sorted(given)]
    return faults


def differences(configs: Mapping[str, Config]) -> list[str]:
    """Find settings that differ between the files that stand alone; overlays may change them.

    ``train.json`` is what the others are compared with; where it lacks a key, the first file that
    has it is. What an overlay ``X.json`` was trained with must stand in ``X_inference.json`` as
    well. A ``train_X.json`` for an earlier stage shares the definition of its network only.

    Example:
        >>> train = {"bundle_root": ".", "window_hu": [-1000, 400]}
        >>> differences({"train.json": train, "inference.json": train | {"window_hu": [0, 1]}})
        ['window_hu differs between train.json and inference.json']
    """
    seen: dict[str, tuple[str, Any]] = {}
    faults = []
    for name in sorted(configs, key=lambda name: name != SOURCE):
        config = configs[name]
        for key in () if _is_overlay(config) else _shared_keys(config, name):
            first, value = seen.setdefault(key, (name, config[key]))
            if value != config[key]:
                faults.append(f"{key} differs between {first} and {name}")
    for name, first in _pairs(configs).items():
        trained, used = configs[first], configs[name]
        for key in _shared_keys(trained):
            if used.get(key, trained[key]) != trained[key]:
                faults.append(f"{key} differs between {first} and {name}")
    return faults


def with_shared_settings(configs: Mapping[str, Config]) -> dict[str, Config]:
    """Return the configs with the shared settings of ``train.json`` in all that stand alone.

    Those of an overlay ``X.json`` go to ``X_inference.json``. Keys keep their places, and a file
    gains no key that it did not have.
    """
    sources = {name: SOURCE for name, config in configs.items() if not _is_overlay(config)}
    sources |= _pairs(configs)
    result = {}
    for name, config in configs.items():
        source = configs.get(sources.get(name, name), {})
        shared = {key: source[key] for key in _shared_keys(source, name)}
        result[name] = {key: shared.get(key, value) for key, value in config.items()}
    return result


def bundle_differences(
    folder: Path, train: Config, other_folder: Path, other_train: Config
) -> list[str]:
    """Find where licence, logging and the order of handlers differ from those of another bundle."""
    other = other_folder.name
    faults = [
        f"{name} differs from that of {other}"
        for name in SAME_FILES
        if (folder / name).is_file()
        and (other_folder / name).is_file()
        and (folder / name).read_bytes() != (other_folder / name).read_bytes()
    ]
    for block in BLOCKS:
        mine, theirs = (
            [str(item.get("_target_")) for item in config.get(block, {}).get("handlers", [])]
            for config in (train, other_train)
        )
        if mine != theirs:
            faults.append(
                f"configs/{SOURCE}: {block}#handlers is {mine}, that of {other} is {theirs}"
            )
    return faults


def house_json(config: Config) -> str:
    """Return a config as text: two spaces, and one line for all that fits on it.

    Example:
        >>> print(house_json({"bundle_root": ".", "window_hu": [-1000, 400]}), end="")
        {
          "bundle_root": ".",
          "window_hu": [-1000, 400]
        }
    """
    return _expanded(config, 0) + "\n"


def _written(value: Any, indent: int, before: int) -> str:
    """Return a value on one line if it fits behind ``before`` characters, else on several."""
    line = json.dumps(value, ensure_ascii=False)
    # one more for the comma
    if not isinstance(value, (dict, list)) or not value or before + len(line) < LINE_LENGTH:
        return line
    return _expanded(value, indent)


def _expanded(value: dict[str, Any] | list[Any], indent: int) -> str:
    inner, lines = indent + 2, []
    if isinstance(value, dict):
        for key, item in value.items():
            name = f"{json.dumps(key, ensure_ascii=False)}: "
            lines.append(name + _written(item, inner, inner + len(name)))
    else:
        lines = [_written(item, inner, inner) for item in value]
    opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
    body = ",\n".join(" " * inner + line for line in lines)
    return f"{opening}\n{body}\n{' ' * indent}{closing}"


def _strings(node: Any) -> Iterator[str]:
    """Yield all string values below a node of a parsed JSON, descriptions left out."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for key, value in node.items():
            if key != "_desc_":
                yield from _strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value)


def _components(node: Any) -> Iterator[dict[str, Any]]:
    """Yield all dictionaries with ``_target_`` below a node."""
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _components(value)


def _top(key: str) -> str:
    """Return the name that a key of an overlay changes: ``+train#handlers`` -> ``train``."""
    return re.split("#|::", key.lstrip("+"))[0]


def _is_overlay(config: Config) -> bool:
    """Tell whether a file only makes sense on top of another one: it has no bundle root."""
    return "bundle_root" not in config


def _references(config: Config) -> set[str]:
    """Return ids that are read, with all their beginnings: ``@a#b`` reads ``a`` and ``a#b``."""
    found = set()
    for text in _strings(config):
        for match in REFERENCE.findall(text):
            names = match.replace("::", "#").split("#")
            found |= {"#".join(names[: i + 1]) for i in range(len(names))}
    return found


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()


@cache
def _locate(name: str) -> Any:
    """Return class or function of a dotted path, or of a bare MONAI name; None if there is none."""
    if "." not in name:
        module = _locator().get_component_module_name(name)
        name = f"{module[0] if isinstance(module, list) else module}.{name}"
    try:
        return pydoc.locate(name)
    except pydoc.ErrorDuringImport:
        return None


def _shared_keys(config: Config, name: str = SOURCE) -> list[str]:
    keys = [key for key in config if SAME_IN_ALL.fullmatch(key)]
    return [key for key in keys if not STAGE.fullmatch(name) or SAME_IN_STAGES.fullmatch(key)]


def _pairs(configs: Mapping[str, Config]) -> dict[str, str]:
    """Return the overlay for training that goes with each overlay for use."""
    names = {name: name.replace(FOR_USE, ".json") for name in configs if name.endswith(FOR_USE)}
    return {name: first for name, first in names.items() if first in configs}
