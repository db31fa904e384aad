"""Rules for the JSON of a bundle: it holds choices, and every one of them is read."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monai.bundle.properties import InferProperties, TrainProperties

ROOT = Path(__file__).resolve().parents[2]
DATA_FILES = {"metadata.json", "histograms.json"}
EXPRESSION_LENGTH = 80
REFERENCE = re.compile(r"[@%](\w+(?:(?:#|::)\w+)*)")
FILE_MACRO = re.compile(r"^%.*\.(json|ya?ml)\b")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
PROPERTIES = {
    item["id"].replace("::", "#")
    for properties in (TrainProperties, InferProperties)
    for item in properties.values()
}
# entries that MONAI, MONAI Label or the person at the command line reads by name
ENTRIES = {
    "imports",
    "initialize",
    "run",
    "finalize",
    "training",
    "evaluating",
    "output_dir",
    "network",
    "displayable_configs",
}
# what a network was trained with must not change between the files of a bundle
SAME_IN_ALL = re.compile(r"^(network_def|scheduler|(\w+_)?window(_\w+)?|(\w+_)?spacing_mm)$")
BLOCKS = ("train", "validate")

Config = dict[str, Any]


def strings(node: Any) -> Iterator[str]:
    """All string values below a node of a parsed JSON, descriptions left out."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for key, value in node.items():
            if key != "_desc_":
                yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)


def top_key(key: str) -> str:
    """Name that a key of an overlay changes: ``+train#handlers`` -> ``train``."""
    return re.split("#|::", key.lstrip("+"))[0]


def is_overlay(config: Config) -> bool:
    """Tell whether a file only makes sense on top of another one: it has no bundle root."""
    return "bundle_root" not in config


def references(config: Config) -> set[str]:
    """Ids that are read, with all their beginnings: ``@a#b#0`` gives a, a#b, a#b#0."""
    found = set()
    for text in strings(config):
        for match in REFERENCE.findall(text):
            names = match.replace("::", "#").split("#")
            found |= {"#".join(names[: i + 1]) for i in range(len(names))}
    return found


def expression_faults(config: Config) -> list[str]:
    """Expressions that are too long, hold a lambda or comprehension, or name ``tools``."""
    faults = []
    for text in (text for text in strings(config) if text.startswith("$")):
        if len(text) > EXPRESSION_LENGTH:
            faults.append(f"{len(text)} characters: {text}")
        tree = ast.parse(REFERENCE.sub("reference", text[1:]))
        nodes = list(ast.walk(tree))
        if any(isinstance(node, (ast.Lambda, *COMPREHENSIONS)) for node in nodes):
            faults.append(f"algorithm in JSON: {text}")
        if re.search(r"\btools\b", text):
            faults.append(f"tools in an expression: {text}")
    return faults


def early_tools_faults(config: Config) -> list[str]:
    """Uses of ``tools`` in what MONAI evaluates before the bundle root is on ``sys.path``."""
    early = (value for key, value in config.items() if top_key(key) in {"imports", "initialize"})
    return [text for value in early for text in strings(value) if re.search(r"\btools\b", text)]


def file_macro_faults(config: Config) -> list[str]:
    """Macros that name a file: they are relative to the working directory."""
    return [text for text in strings(config) if FILE_MACRO.match(text)]


def dead_keys(config: Config, others: list[Config]) -> list[str]:
    """Keys that nothing reads: no reference, no property of MONAI, no entry, no overlay."""
    read = references(config) | PROPERTIES | ENTRIES
    if is_overlay(config):
        for other in others:
            read |= references(other) | {top_key(key) for key in other}
    read |= {beginning for name in PROPERTIES for beginning in [name.split("#")[0]]}
    dead = [key for key in config if top_key(key) not in read and key != "_desc_"]
    for block in BLOCKS:
        inner = config.get(block)
        for key in inner if isinstance(inner, dict) else ():
            if f"{block}#{key}" not in read and not key.startswith("_"):
                dead.append(f"{block}#{key}")
    return dead


def dangling_references(config: Config) -> set[str]:
    """References of a file that stands alone to top-level keys that it does not have."""
    used = {name for name in references(config) if "#" not in name}
    return set() if is_overlay(config) else used - {top_key(key) for key in config}


def differences(configs: dict[str, Config]) -> list[str]:
    """Keys of training geometry that differ between the files that stand alone."""
    seen: dict[str, tuple[str, Any]] = {}
    faults = []
    for name, config in configs.items():
        for key in () if is_overlay(config) else filter(SAME_IN_ALL.match, config):
            first, value = seen.setdefault(key, (name, config[key]))
            if value != config[key]:
                faults.append(f"{key} differs between {first} and {name}")
    return faults


def read_configs(bundle: Path) -> dict[str, Config]:
    paths = sorted(bundle.glob("configs/*.json"))
    return {
        path.name: json.loads(path.read_text(encoding="utf-8"))
        for path in paths
        if path.name not in DATA_FILES
    }


BUNDLES = {path: read_configs(path) for path in sorted(ROOT.glob("bundles/*")) if path.is_dir()}
FILES = [
    pytest.param(configs, name, id=f"{bundle.name}/{name}")
    for bundle, configs in BUNDLES.items()
    for name in configs
]
each_file = pytest.mark.parametrize(("configs", "name"), FILES)
each_bundle = pytest.mark.parametrize(
    "configs", [pytest.param(configs, id=bundle.name) for bundle, configs in BUNDLES.items()]
)


@each_file
def test_expressions_are_short_and_plain(configs: dict[str, Config], name: str) -> None:
    assert expression_faults(configs[name]) == []


@each_file
def test_tools_is_reached_through_targets_only(configs: dict[str, Config], name: str) -> None:
    assert early_tools_faults(configs[name]) == []


@each_file
def test_no_macro_names_a_file(configs: dict[str, Config], name: str) -> None:
    assert file_macro_faults(configs[name]) == []


@each_file
def test_every_key_is_read(configs: dict[str, Config], name: str) -> None:
    others = [config for other, config in configs.items() if other != name]
    assert dead_keys(configs[name], others) == []


@each_file
def test_every_reference_has_a_key(configs: dict[str, Config], name: str) -> None:
    assert dangling_references(configs[name]) == set()


@each_bundle
def test_training_and_use_agree(configs: dict[str, Config]) -> None:
    assert differences(configs) == []


@each_bundle
def test_training_runs_by_both_names(configs: dict[str, Config]) -> None:
    train = configs["train.json"]
    assert "training" in train
    assert train["run"] == "%training"


# The rules themselves, on small configs with one fault each.


def test_expression_faults_are_found() -> None:
    good = {"a": "$@b#0.c", "b": "$import os", "c": ["plain lambda text"]}
    assert expression_faults(good) == []
    for bad in ("$[x for x in @a]", "$lambda x: x", "$import tools", "$" + "a" * 80):
        assert len(expression_faults({"deep": [{"x": bad}]})) == 1


def test_tools_before_the_path_is_set_is_found() -> None:
    assert early_tools_faults({"initialize": ["$tools.f()"]}) == ["$tools.f()"]
    assert early_tools_faults({"+imports": [{"_target_": "tools.f"}]}) == ["tools.f"]
    assert early_tools_faults({"network_def": {"_target_": "tools.networks.X"}}) == []


def test_file_macro_is_found() -> None:
    assert file_macro_faults({"run": "%training", "x": "%train.json#a"}) == ["%train.json#a"]


def test_dead_keys_are_found() -> None:
    config = {"bundle_root": ".", "used": 1, "dead": 2, "run": "$@used", "train": {"x": 1}}
    assert dead_keys(config, []) == ["dead", "train#x"]


def test_overlay_may_change_what_another_file_has() -> None:
    base = {"bundle_root": ".", "width": 32, "run": "$@width"}
    assert dead_keys({"width": 64, "network_def#base": 64}, [base]) == []
    assert dead_keys({"breadth": 64}, [base]) == ["breadth"]


def test_dangling_reference_is_found() -> None:
    assert dangling_references({"bundle_root": ".", "run": "$@b#0 + @bundle_root"}) == {"b"}


def test_difference_between_files_is_found() -> None:
    files = {"train.json": {"bundle_root": ".", "window_hu": [-1000, 400]}}
    files["inference.json"] = {"bundle_root": ".", "window_hu": [-1000, 300]}
    files["published.json"] = {"window_hu": [0, 1]}
    assert differences(files) == ["window_hu differs between train.json and inference.json"]
