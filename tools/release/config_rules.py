"""Rules for the JSON of a bundle: it holds choices, every one of them is read, all paths resolve.

Each rule takes parsed configs and returns its findings, one sentence each; no finding means that
the rule is kept. Nothing is instantiated here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from typing import Any

from monai.bundle.properties import InferProperties, TrainProperties

__all__ = [
    "Config",
    "dangling_references",
    "dead_keys",
    "early_tools_faults",
    "expression_faults",
    "file_macro_faults",
    "is_overlay",
    "references",
    "rule_faults",
    "strings",
    "top_key",
    "training_faults",
]

Config = dict[str, Any]

EXPRESSION_LENGTH = 80
REFERENCE = re.compile(r"[@%](\w+(?:(?:#|::)\w+)*)")
FILE_MACRO = re.compile(r"^%.*\.(json|ya?ml)\b")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
PROPERTIES = {
    str(item["id"]).replace("::", "#")  # type: ignore[index]
    for properties in (TrainProperties, InferProperties)
    for item in properties.values()
}
# entries that MONAI, MONAI Label, `synthesize` or the person at the command line reads by name
ENTRIES = {
    "imports",
    "initialize",
    "run",
    "finalize",
    "training",
    "evaluating",
    "measuring",
    "study",
    "output_dir",
    "network",
    "displayable_configs",
    "window_hu",
}
BLOCKS = ("train", "validate")


def strings(node: Any) -> Iterator[str]:
    """Yield all string values below a node of a parsed JSON, descriptions left out."""
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
    """Return the name that a key of an overlay changes.

    Example:
        >>> top_key("+train#handlers")
        'train'
    """
    return re.split("#|::", key.lstrip("+"))[0]


def is_overlay(config: Config) -> bool:
    """Tell whether a file only makes sense on top of another one: it has no bundle root."""
    return "bundle_root" not in config


def references(config: Config) -> set[str]:
    """Return ids that are read, with all their beginnings.

    Example:
        >>> sorted(references({"x": "$@a#b#0 + 1"}))
        ['a', 'a#b', 'a#b#0']
    """
    found = set()
    for text in strings(config):
        for match in REFERENCE.findall(text):
            names = match.replace("::", "#").split("#")
            found |= {"#".join(names[: i + 1]) for i in range(len(names))}
    return found


def expression_faults(config: Config) -> list[str]:
    """Find expressions that are too long, are no Python, hold an algorithm, or name ``tools``."""
    faults = []
    for text in (text for text in strings(config) if text.startswith("$")):
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


def early_tools_faults(config: Config) -> list[str]:
    """Find ``tools`` in what MONAI evaluates before the bundle root is on ``sys.path``."""
    early = (value for key, value in config.items() if top_key(key) in {"imports", "initialize"})
    return [
        f"tools is not importable yet in imports and initialize: {text}"
        for value in early
        for text in strings(value)
        if re.search(r"\btools\b", text)
    ]


def file_macro_faults(config: Config) -> list[str]:
    """Find macros that name a file: they are relative to the working directory."""
    found = filter(FILE_MACRO.match, strings(config))
    return [f"macro names a file, which depends on the working directory: {text}" for text in found]


def dead_keys(config: Config, others: Sequence[Config]) -> list[str]:
    """Return keys that nothing reads: no reference, no property of MONAI, no entry, no overlay.

    Args:
        config: the file in question.
        others: the other files of the bundle, which an overlay may change.
    """
    read = references(config) | PROPERTIES | ENTRIES
    if is_overlay(config):
        for other in others:
            read |= references(other) | {top_key(key) for key in other}
    read |= {name.split("#")[0] for name in PROPERTIES}
    dead = [key for key in config if top_key(key) not in read and key != "_desc_"]
    for block in BLOCKS:
        inner = config.get(block)
        for key in inner if isinstance(inner, dict) else ():
            if f"{block}#{key}" not in read and not key.startswith("_"):
                dead.append(f"{block}#{key}")
    return dead


def dangling_references(config: Config) -> set[str]:
    """Return references of a file that stands alone to top-level keys that it does not have."""
    used = {name for name in references(config) if "#" not in name}
    return set() if is_overlay(config) else used - {top_key(key) for key in config}


def training_faults(config: Config) -> list[str]:
    """Find what keeps ``train.json`` from running by its name and without one."""
    faults = [] if "training" in config else ["training must be a key, got none"]
    if config.get("run") != "%training":
        faults.append(f'run must be "%training", got {config.get("run")!r}')
    return faults


def rule_faults(config: Config, others: Sequence[Config]) -> list[str]:
    """Return the findings of all rules on one file.

    Args:
        config: the file in question.
        others: the other files of the bundle.

    Example:
        >>> rule_faults({"bundle_root": ".", "width": 3, "run": "$print(@bundle_root)"}, [])
        ['width is read by nothing']
    """
    return [
        *expression_faults(config),
        *early_tools_faults(config),
        *file_macro_faults(config),
        *(f"{key} is read by nothing" for key in dead_keys(config, others)),
        *(f"@{name} has no key" for name in sorted(dangling_references(config))),
    ]
