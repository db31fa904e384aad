"""Every ``_target_`` of a config names something that exists and takes the arguments given."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Iterator
from functools import cache
from typing import Any

from monai.bundle import ComponentLocator
from monai.bundle.config_item import ConfigComponent

__all__ = ["target_faults"]


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()


def _components(node: Any) -> Iterator[dict[str, Any]]:
    """Yield all dictionaries with ``_target_`` below a node."""
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node
        for value in node.values():
            yield from _components(value)
    elif isinstance(node, list):
        for value in node:
            yield from _components(value)


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


def target_faults(config: dict[str, Any]) -> list[str]:
    """Find targets that do not exist, and arguments that their signatures do not have.

    Args:
        config: parsed JSON. Targets that are references or expressions are left alone.

    Returns:
        One sentence per finding.

    Example:
        >>> target_faults({"a": {"_target_": "DataLoader", "batch": 1}})
        []
        >>> target_faults({"a": {"_target_": "tools.losses.LesionNoiseLoss", "power": 2}})
        ['tools.losses.LesionNoiseLoss takes no argument power']
        >>> target_faults({"a": {"_target_": "tools.nowhere.Loss"}})
        ['_target_ tools.nowhere.Loss does not exist']
    """
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
