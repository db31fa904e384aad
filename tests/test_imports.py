"""The shape of the package: who may import whom, names, sizes of modules and functions."""

import ast
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.release.pack import RUNTIME as PACKED

ROOT = Path(__file__).resolve().parents[1]
LEAVES = {"files", "checkpoints", "losses", "schedules", "networks", "transforms", "metrics"}
LEAVES |= {"handlers", "phantoms", "histograms", "intensity", "windows", "bundle", "kinds"}
LEAVES |= {"sentences"}
RUNTIME = LEAVES | {"packed_code", "bundle_run", "prepare_batch", "inferers"}
RUNTIME |= {"organs", "scans", "shapes", "synthesis", "dicom"}
# of the part scans, these know nothing but arrays and files
LEAF_MODULES = ("tools.scans.grid.", "tools.scans.reader.")
ABOVE = {  # what a part must not import
    "dicom": {"scans", "organs", "shapes", "inferers", "synthesis"},
    "scans": {"organs", "shapes", "inferers", "synthesis"},
    "organs": {"synthesis", "inferers"},
    "shapes": {"synthesis"},
}
WORKSHOP = {"report", "prepare", "convert", "release", "studies", "export", "benchmark"}
WORKSHOP |= {"cli", "commands", "__main__"}
RUNTIME_PACKAGES = {"torch", "numpy", "scipy", "monai", "einops", "nibabel", "ignite", "tqdm"}
RUNTIME_PACKAGES |= {"SimpleITK", "fire"}  # monai.bundle run is made of the latter
RUNTIME_PACKAGES |= {"filelock", "pydicom", "highdicom", "dicomanonymizer", "skimage"}
DATASET_NAME = re.compile(r"lidc|emidec|msd|difftumor|lefusion", re.IGNORECASE)
MODULE_LINES, BODY_LINES, BODY_LINES_WANTED = 600, 60, 40

MODULES = sorted(path for path in (ROOT / "tools").rglob("*.py"))
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def part_of(path: Path) -> str:
    """First name below ``tools``: ``tools/networks/unet.py`` -> ``networks``."""
    return path.relative_to(ROOT / "tools").with_suffix("").parts[0]


def imported_modules(tree: ast.AST, package: str = "tools") -> set[str]:
    """Absolute dotted names of all imports of a module, those inside functions included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def imports_of(path: Path) -> set[str]:
    return imported_modules(parse(path), ".".join(path.relative_to(ROOT).parent.parts))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def parts_imported(names: set[str]) -> set[str]:
    """Parts of ``tools`` among dotted names: ``tools.cli.main`` -> ``cli``."""
    return {name.split(".")[1] for name in names if name.startswith("tools.")}


def written_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each identifier and string, docstrings left out."""
    fields = ("id", "attr", "arg", "name", "asname", "module")
    prose = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and id(node) not in prose:
                yield line, node.value
            continue
        yield from (
            (line, text)
            for text in (getattr(node, f, None) for f in fields)
            if isinstance(text, str)
        )


def dataset_names(tree: ast.AST, allowed: set[str]) -> list[tuple[int, str]]:
    return [(i, s) for i, s in written_names(tree) if DATASET_NAME.search(s) and s not in allowed]


def body_lines(function: FUNCTION) -> int:
    """Lines of a function from its first statement to its end, the docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def modules(parts: set[str]) -> list[pytest.param]:
    return [
        pytest.param(path, id=path.relative_to(ROOT).as_posix())
        for path in MODULES
        if part_of(path) in parts
    ]


def test_every_part_is_declared_runtime_or_workshop() -> None:
    assert {part_of(path) for path in MODULES} <= RUNTIME | WORKSHOP | {"__init__"}


def test_what_is_packed_is_the_runtime() -> None:
    assert {Path(name).stem for name in PACKED} == RUNTIME | {"__init__"}


def test_package_file_imports_nothing() -> None:
    tree = parse(ROOT / "tools" / "__init__.py")
    now = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imported_modules(ast.Module(now, [])) == {"typing.Any"}


@pytest.mark.parametrize("path", modules(RUNTIME))
def test_runtime_never_imports_the_workshop(path: Path) -> None:
    assert parts_imported(imports_of(path)) <= RUNTIME | {"__version__"}


@pytest.mark.parametrize("path", modules(LEAVES))
def test_leaves_import_only_leaves(path: Path) -> None:
    names = {name for name in imports_of(path) if not name.startswith(LEAF_MODULES)}
    assert parts_imported(names) <= LEAVES | {"__version__"}


@pytest.mark.parametrize("path", modules(set(ABOVE)))
def test_arrows_run_downwards(path: Path) -> None:
    assert not parts_imported(imports_of(path)) & ABOVE[part_of(path)]


@pytest.mark.parametrize("path", modules(RUNTIME | WORKSHOP))
def test_images_are_read_through_one_door(path: Path) -> None:
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Attribute | ast.Name)]
    named = {ast.unparse(node) for node in calls}
    reads = {n for n in named if n == "nib.load" or n.endswith(("from_filename", "LoadImage"))}
    assert not reads or path.name == "reader.py"


@pytest.mark.parametrize("path", modules(RUNTIME))
def test_runtime_needs_few_packages(path: Path) -> None:
    packages = {name.split(".")[0] for name in imports_of(path)}
    assert packages - set(sys.stdlib_module_names) - {"tools"} <= RUNTIME_PACKAGES


# the default bundle, and a library whose files are read
@pytest.mark.parametrize("path", modules(RUNTIME))
def test_runtime_names_no_dataset(path: Path) -> None:
    assert dataset_names(parse(path), {"lefusion_lidc", "pylidc"}) == []


@pytest.mark.parametrize("path", modules(RUNTIME | WORKSHOP | {"__init__"}))
def test_modules_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES
    lengths = {n.name: body_lines(n) for n in ast.walk(parse(path)) if isinstance(n, FUNCTION)}
    assert {name: n for name, n in lengths.items() if n > BODY_LINES} == {}
    for name, length in lengths.items():
        if length > BODY_LINES_WANTED:
            where = path.relative_to(ROOT).as_posix()
            warnings.warn(f"{where}: {name} has {length} lines, wanted 40", stacklevel=1)


def test_imports_are_found_wherever_they_stand() -> None:
    tree = ast.parse("import torch\ndef f():\n    from ..cli import main\n    from . import losses")
    found = imported_modules(tree, "tools.networks")
    assert found == {"torch", "tools.cli.main", "tools.networks.losses"}
    assert parts_imported({"torch", "tools.cli.main"}) == {"cli"}


def test_dataset_names_are_found_outside_docstrings_only() -> None:
    tree = ast.parse('"""LIDC is fine here."""\nclass LidcNet:\n    path = "pylidc"\n    x = MSD')
    assert dataset_names(tree, {"pylidc"}) == [(2, "LidcNet"), (4, "MSD")]
    assert len(dataset_names(tree, set())) == 3


def test_docstring_does_not_count_as_body() -> None:
    tree = ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    a = 1\n    return a')
    assert body_lines(tree.body[0]) == 2
