"""``python -m monai.bundle run``: options that no config has are refused, errors end in a sentence.

Run lists of the configs begin with :func:`as_command`. It reads the command line, since a config
cannot tell which of its keys were typed, and does so only in a process that is that command: a
program that runs a bundle (``ConfigWorkflow``, MONAI Label, a test) is left alone.

What MONAI does before the run list stays in its words: an option whose parent is misspelt
(``--trian#x``: ``KeyError: 'query key: trian'``). ``initialize`` comes before it too, so it takes
any seed.
"""

from __future__ import annotations

import difflib
import inspect
import pydoc
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import fire
from monai.bundle import ConfigParser, ConfigWorkflow, run
from monai.bundle.config_item import ConfigComponent
from monai.bundle.reference_resolver import ReferenceResolver
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS
from monai.utils import ensure_tuple
from tqdm import tqdm

from tools.sentences import error_text

__all__ = ["as_command", "require_known_options", "sentence"]

COMMAND = "monai.bundle.__main__"
MONAI_OPTIONS = {"workflow_name", *inspect.signature(run).parameters}
MONAI_OPTIONS |= set(inspect.signature(ConfigWorkflow).parameters)
TRACKING: dict[str, Any] = DEFAULT_EXP_MGMT_SETTINGS
TRACKING_OPTIONS = {key for settings in TRACKING.values() for key in settings["configs"]}
# what a worker of a DataLoader raised comes as the text of its traceback
RAISED = re.compile(r"^(?:\w+\.)*(?:ValueError|FileNotFoundError): (.+)$", re.MULTILINE)


def as_command() -> None:
    """Check the options of this process and let its errors end in a sentence, see the module."""
    if getattr(sys.modules["__main__"].__spec__, "name", None) == COMMAND:
        sys.excepthook = _show
        require_known_options(sys.argv[1:])


def require_known_options(words: Sequence[str]) -> None:
    """Refuse an override whose key no config has, null, or text where the config has a number.

    MONAI would add the key, and nothing would read it.

    Args:
        words: ``run``, its run id and its options, as typed.

    Raises:
        ValueError: naming the option, and the key that is nearest to it, or the text.
    """
    given: dict[str, Any] = {}
    fire.Fire(lambda *_, **options: given.update(options), command=list(words))
    if "args_file" in given:
        given = {**ConfigParser.load_config_file(given["args_file"]), **given}
    parser = ConfigParser()
    parser.read_config(given.get("config_file", []))
    known = MONAI_OPTIONS | (TRACKING_OPTIONS if "tracking" in given else set())
    for option in given.keys() - known:
        key = ReferenceResolver.normalize_id(option)
        if key.startswith(parser.meta_key):
            continue
        if given[option] in (None, "null"):  # MONAI drops the one, the other is a text
            raise ValueError(f"{option} must be '$None' where null is meant, got {given[option]}")
        if problem := _no_number(parser, key, given[option]):
            raise ValueError(f"{option} must be {problem}, got {given[option]!r}")
        if not _has_key(parser, key):
            near = difflib.get_close_matches(option, [*_keys(parser.config), *known], 1)
            hint = f"did you mean --{near[0]}?" if near else "see the config for its keys"
            files = ", ".join(str(file) for file in ensure_tuple(given["config_file"]))
            raise ValueError(f"options must be keys of {files}, got --{option}; {hint}")


def sentence(error: BaseException) -> str:
    """Return what went wrong in one line: the first error of ours, or of a file, behind an error.

    Without one it is the error that began it all, with its type.
    """
    chain = [error]
    while (cause := _cause(chain[-1])) is not None:
        chain.append(cause)
    for each in chain:
        if isinstance(each, ValueError | OSError):
            return " ".join(error_text(each).split())
        if found := RAISED.search(str(each)):
            return found[1]
    return " ".join(traceback.format_exception_only(chain[-1])[-1].split())


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    for bar in list(tqdm._instances):  # else they are drawn once more, after the last line
        bar.close()
    sys.__excepthook__(kind, error, trace)
    if issubclass(kind, Exception):
        print(f"error: {sentence(error)}", file=sys.stderr, flush=True)


def _no_number(parser: ConfigParser, key: str, value: Any) -> str:
    """Return what a value must be where the config has a number; empty if it is, or there is none.

    What MONAI evaluates (``$``, ``@``, ``%``) is not looked at.
    """
    before = parser.get(key)
    while isinstance(before, str) and before.startswith("@"):
        before = parser.get(before[1:])
    evaluated = isinstance(value, str) and value.startswith(("$", "@", "%"))
    if evaluated or isinstance(before, bool) or not isinstance(before, int | float):
        return ""
    if key == "seed":  # ``initialize`` has taken 0 for what is none
        return "" if type(value) is int else "a whole number"
    values = value if isinstance(value, list | tuple) else [value]  # one for each axis
    return "a number" if any(isinstance(each, str | list | tuple | dict) for each in values) else ""


def _has_key(parser: ConfigParser, key: str) -> bool:
    """Tell whether a key is there, or is an argument that a component may be given."""
    *above, last = ReferenceResolver.split_id(key)
    node: Any = parser.config
    for part in above:
        node = _inside(node).get(part)
    if not isinstance(node, dict | list):  # typed too, or a reference: MONAI says what it is
        return True
    return last in _inside(node) or _takes(node, last)


def _inside(node: Any) -> dict[str, Any]:
    if isinstance(node, list):
        return {str(number): item for number, item in enumerate(node)}
    return node if isinstance(node, dict) else {}


def _takes(node: Any, name: str) -> bool:
    """Tell whether a component has an argument of a name; with ``**`` it says so itself."""
    if not isinstance(node, dict) or "_target_" not in node:
        return False
    target: Any = pydoc.locate(str(ConfigComponent(node).resolve_module_name()))
    parameters = inspect.signature(target).parameters
    more = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
    return more or name in ConfigComponent.non_arg_keys | parameters.keys()


def _keys(node: Any, above: str = "") -> Iterator[str]:
    """Yield all keys of a config as they are typed: ``train#trainer#max_epochs``."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{above}{key}"
        yield from _keys(value, f"{above}{key}#")
