"""What this program writes: whole or not at all, under safe names, never over what others made.

A folder that this program made holds :data:`MARK`, written before anything else. Only what carries
that mark is ever replaced or removed, and of that only files that the mark names: whatever else
lies there stops the removal. Everything is written in a hidden folder beside its place
(``.NAME.HOST.PROCESS.TOKEN.partial``, marked too), brought to the disk, and moved by one rename.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import logging
import os
import re
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools import __version__
from tools.sentences import short

__all__ = [
    "DATASET_DIR",
    "MARK",
    "claim",
    "claimed",
    "clear_leftovers",
    "different_names",
    "listed_path",
    "mark_folder",
    "new_file",
    "new_folder",
    "read_entries",
    "read_json",
    "read_mark",
    "read_object",
    "remove_ours",
    "require_apart",
    "require_new",
    "require_ours",
    "require_room",
    "safe_name",
    "safe_names",
    "write_json",
]

MARK = ".synthetic-lesions.json"
TOOL = "synthetic-lesions"
# of this process: a dead one may have had its number (containers start at 1 each time)
TOKEN = uuid.uuid4().hex[:8]
HOST = re.sub(r"[^\w-]", "_", socket.gethostname())[:40]
PARTIAL = re.compile(
    r"\.(?P<name>.+)\.(?P<host>[\w-]*)\.(?P<process>\d+)\.(?P<token>[0-9a-f]{8})-[0-9a-f]{8}\.partial"
)
FORMER = ".former"
DATASET_DIR = "dataset_dir names the folder that may be read, / for all"
LONGEST = 120  # characters; file systems take 255 bytes, and endings are added
RESERVED = frozenset(
    ["datalist.json", "report.html", "overview.png", "con", "prn", "aux", "nul"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)]
)

logger = logging.getLogger(__name__)


def safe_name(text: object, fallback: str = "unnamed") -> str:
    """Return a file name made of anything that comes from outside.

    Letters, digits, ``_``, ``-`` and inner dots stay; the rest becomes ``_``. The result is never
    empty, hidden, ``.``, ``..``, a name that a dataset or Windows reserves, or longer than 120
    characters, has no separator and ends with no dot.

    Args:
        text: a patient's name, the stem of a file, an identifier in an archive.
        fallback: where nothing is left.

    Example:
        >>> [safe_name(t) for t in ("LIDC-IDRI-0001", "../../x", "..", "a/b", "report.html", "é 1")]
        ['LIDC-IDRI-0001', '_.._x', 'unnamed', 'a_b', 'report.html_', 'é_1']
    """
    name = re.sub(r"[^\w.-]", "_", str(text)).strip(".")[:LONGEST].rstrip(".") or fallback
    # Windows reserves its devices with any ending
    reserved = name.lower() in RESERVED or name.lower().split(".")[0] in RESERVED
    return f"{name}_" if reserved else name


def safe_names(texts: Iterable[object]) -> list[str]:
    """Return a safe name for each text, all different, also where upper case does not count.

    Example:
        >>> safe_names(["a", "A", "b", "a"])
        ['a', 'A_2', 'b', 'a_3']
    """
    return different_names(map(safe_name, texts))


def different_names(stems: Iterable[str]) -> list[str]:
    """Return each name, with a number where it is taken, also where upper case does not count."""
    names: list[str] = []
    taken: set[str] = set()
    for stem in stems:
        name = stem
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def listed_path(
    value: object,
    key: str,
    base: str | Path,
    datalist: str | Path,
    hint: str = "",
    within: str | Path | None = None,
) -> Path:
    """Return the file or folder that an entry of a datalist names, below a folder.

    Whoever wrote the list decides what is read, and so what is copied into data sets and reports:
    its words, absolute paths and ``..``, do not lead out of the folder. Links in it may, which the
    user made.

    Args:
        value: of the entry; relative to ``base``, or absolute.
        key: its name in messages.
        base: the folder.
        datalist: the file, for messages.
        hint: what would help.
        within: another folder that the value may lead to.

    Raises:
        ValueError: if the value is no path, or leads elsewhere.

    Example:
        >>> listed_path("a/b.nii.gz", "image", "/data", "list.json").as_posix()
        '/data/a/b.nii.gz'
        >>> listed_path("../x.nii.gz", "image", "/data", "list.json")
        Traceback (most recent call last):
        ValueError: image of a datalist entry must lie in /data, got ../x.nii.gz in list.json ...
    """
    if not isinstance(value, str) or not value.strip("/. ") or "\0" in value:
        raise ValueError(f"{key} of a datalist entry must be one path, got {value!r} in {datalist}")
    path = Path(base) / value
    # "link/../x" lies where the system says, not where the words do
    by_words = ".." not in Path(value).parts
    if not any(_below(path, top, by_words) for top in (base, within or base)):
        raise ValueError(
            f"{key} of a datalist entry must lie in {base}, got {value} in {datalist} "
            f"({hint or 'links in that folder are followed'})"
        )
    return path


def _below(path: Path, folder: str | Path, by_words: bool) -> bool:
    words = by_words and Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))
    return words or path.resolve().is_relative_to(Path(folder).resolve())


def require_apart(out: str | Path, inputs: Iterable[str | Path]) -> None:
    """Refuse an output folder that is an input folder, lies in one, or holds one.

    Args:
        out: folder to write.
        inputs: folders that are read.

    Raises:
        ValueError: if it does.
    """
    place = Path(out).resolve()
    for folder in {Path(path).resolve(): None for path in inputs}:
        if place == folder or place in folder.parents or folder in place.parents:
            raise ValueError(
                f"out must lie outside the folders that are read and hold none of them, got "
                f"{out} with input from {folder}"
            )


def claim(folder: str | os.PathLike[str], names: Sequence[str], argument: str = "out") -> Path:
    """Make a folder ours, so that the named things in it may be written and written again.

    Args:
        folder: made if it is missing.
        names: files and folders that will be written into it; patterns of ``fnmatch``.
        argument: its name in the message.

    Returns:
        The folder.

    Raises:
        ValueError: if something of such a name is there that this program did not make.
    """
    if not str(folder).strip():
        raise ValueError(f"{argument} must name a folder, got {folder!r}")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{argument} must be a folder, got the file {folder}")
    mark = read_mark(folder)
    owned = list(mark["owns"]) if mark else []
    known = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    new = [name for name in names if name not in owned]
    foreign = sorted(entry for entry in known if _matches(entry, new))
    if foreign:
        raise ValueError(
            f"{argument} must not hold {foreign[0]} of others, which would be written over, got "
            f"{folder}; name another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{argument} must be a folder that can be made, got {folder} ({error.strerror})"
        ) from error
    if new:
        try:
            mark_folder(folder, [*owned, *new])
        except OSError as error:  # read-only, full, no right to
            raise OSError(
                f"{argument} must be a folder that can be written, got {folder} ({error})"
            ) from error
    clear_leftovers(folder)
    return folder


@contextlib.contextmanager
def claimed(
    folder: str | os.PathLike[str], names: Sequence[str], argument: str = "out"
) -> Iterator[Path]:
    """Claim a folder for the time of a block; where nothing came of it, no trace stays.

    Example:
        >>> with claimed(Path(getfixture("tmp_path")) / "out", ["a.txt"]) as folder:
        ...     pass
        >>> folder.exists()
        False
    """
    given, folder = folder, Path(folder)
    before = {path.name for path in folder.iterdir()} if folder.is_dir() else None
    claim(given, names, argument)
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            new = {path.name for path in folder.iterdir()} - (before or set())
            if new == {MARK}:
                (folder / MARK).unlink()
                if before is None:
                    folder.rmdir()


def mark_folder(folder: Path, owns: Sequence[str], request: str | None = None) -> None:
    """Write the mark of a folder: tool, version, hash of the request, and the names it owns."""
    mark = {"tool": TOOL, "version": __version__, "request": request, "owns": list(owns)}
    partial = folder / f"{MARK}.{TOKEN}"
    partial.write_text(json.dumps(mark) + "\n", encoding="utf-8")
    os.replace(partial, folder / MARK)


def read_mark(folder: Path) -> dict[str, Any] | None:
    """Return the mark of a folder, or None where this program did not make it."""
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(mark, dict) and mark.get("tool") == TOOL
    return mark if ours and isinstance(mark.get("owns"), list) else None


def require_ours(folder: Path, argument: str = "out") -> None:
    """Refuse to replace or remove a folder unless this program made it and all that is in it.

    Raises:
        ValueError: naming the first thing that it did not make.
    """
    if read_mark(folder) is None:
        raise ValueError(
            f"{argument} must not hold what others made where something is to be written, got "
            f"{folder}; move it, or name another folder"
        )
    foreign = _foreign(folder)
    if foreign:
        raise ValueError(
            f"{argument} must not hold other files where something is to be written anew, got "
            f"{foreign[0]}; move it, or name another folder"
        )


def remove_ours(folder: Path, argument: str = "out") -> None:
    """Remove a folder that this program made.

    Raises:
        ValueError: as :func:`require_ours`; nothing was removed then.
    """
    require_ours(folder, argument)
    # the mark goes last: a removal that is interrupted can be finished
    for path in sorted(folder.rglob("*"), key=lambda p: len(p.parts), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        elif path != folder / MARK:
            path.unlink()
    (folder / MARK).unlink()
    folder.rmdir()


@contextlib.contextmanager
def new_folder(
    path: str | Path,
    owns: Sequence[str],
    request: str | None = None,
    replace: bool = False,
    argument: str = "out",
) -> Iterator[Path]:
    """Give a hidden folder to write into; it takes its name when all went well and is on the disk.

    Args:
        path: of the folder; must not exist, but for an empty one, unless ``replace``.
        owns: names in it, relative patterns such as ``imagesTr/*.nii.gz``.
        request: hash of what is written, kept in the mark.
        replace: take the place of a folder that this program made.
        argument: its name in messages.

    Raises:
        ValueError: if something else is in the way; it is untouched then.

    Example:
        >>> target = Path(getfixture("tmp_path")) / "case"
        >>> with new_folder(target, ["a.txt"]) as partial:
        ...     _ = (partial / "a.txt").write_text("whole")
        >>> sorted(p.name for p in target.iterdir()), [p.name for p in target.parent.iterdir()]
        (['.synthetic-lesions.json', 'a.txt'], ['case'])
    """
    path = Path(path)
    require_room(path, replace, argument)
    with _partial(path, owns, request) as inner:
        inner.mkdir()
        mark_folder(inner, owns, request)
        yield inner
        for file in inner.rglob("*"):
            _to_disk(file)
        _to_disk(inner)
        require_room(path, replace, argument)
        former = inner.with_name(FORMER)
        if replace and path.is_dir():
            os.replace(path, former)
        try:
            os.replace(inner, path)
        except BaseException:
            if former.exists():
                os.replace(former, path)
            raise
        _to_disk(path.parent)
        if former.exists():
            remove_ours(former)


def require_room(path: Path, replace: bool = True, argument: str = "out") -> None:
    """Refuse to write a folder where something is that this program did not make.

    Args:
        path: of the folder.
        replace: whether one that it made may be replaced.
        argument: its name in the message.

    Raises:
        ValueError: naming what is there.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ValueError(f"{argument} must be a folder or new, got {path}")
    if path.is_dir() and any(path.iterdir()):
        if not replace:
            raise ValueError(f"{argument} must be empty or new, got {path} (see --overwrite)")
        require_ours(path, argument)


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Give a hidden place of the same name to write a file; it is moved when all went well.

    A file that is there is replaced: that it may be is for the caller to see to, by
    :func:`claim`, or because the user named this very file.

    Example:
        >>> target = Path(getfixture("tmp_path")) / "a.txt"
        >>> with new_file(target) as partial:
        ...     _ = partial.write_text("whole")
        >>> target.read_text(), [p.name for p in target.parent.iterdir()]
        ('whole', ['a.txt'])
    """
    path = Path(path)
    with _partial(path, [path.name]) as inner:
        yield inner
        _to_disk(inner)
        os.replace(inner, path)
        _to_disk(path.parent)


def require_new(path: str | Path, argument: str = "out") -> None:
    """Refuse a file that is there already, or whose folder cannot be written: work comes first.

    Raises:
        ValueError: if it is such.
    """
    if Path(path).exists():
        raise ValueError(f"{argument} must be a new file, got {path}, which is there already")
    place = next(parent for parent in Path(path).absolute().parents if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ValueError(f"{argument} must lie in a folder that can be written, got {path}")


def read_json(path: str | Path, argument: str) -> Any:
    """Return the content of a JSON file that was brought along.

    UTF-8, UTF-16 and UTF-32 are read, with or without the mark that Windows writes first.

    Args:
        path: of the file.
        argument: its name in messages.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no JSON, or an object in it has a key twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{argument} must be an existing JSON file, got {path}")
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_each_key_once)
    except json.JSONDecodeError as error:
        why = f"see line {error.lineno}, column {error.colno}"
    except UnicodeDecodeError:
        why = "it is no text"
    except RecursionError:
        why = "it is nested too deep"
    except ValueError as error:
        why = str(error) if "twice" in str(error) else "a number has too many digits"
    raise ValueError(f"{argument} must be JSON, got {path} ({why})")


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):  # one of two lists of scans would be lost
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has the key {twice!r} twice")
    return content


def read_object(path: str | Path, argument: str) -> dict[str, Any]:
    """Return the JSON object in a file that was brought along, see :func:`read_json`."""
    content = read_json(path, argument)
    if not isinstance(content, dict):
        raise ValueError(f"{argument} must hold a JSON object, got {short(content)} in {path}")
    return content


def read_entries(path: str | Path, argument: str, section: str = "training") -> list[dict]:
    """Return the entries of a datalist's section, which may be missing: objects all of them."""
    entries = read_object(path, argument).get(section, [])
    if isinstance(entries, list):  # the Decathlon lists its test scans as text
        entries = [{"image": each} if isinstance(each, str) else each for each in entries]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(
            f"{argument} must have a list of objects as {section}, got {short(entries)} in {path}"
        )
    return entries


def write_json(
    path: str | Path,
    content: Mapping[str, Any],
    indent: int | None = 2,
    default: Callable[[object], Any] | None = None,
) -> Path:
    """Write JSON, whole or not at all; NaN is refused.

    Returns:
        The path written.

    Raises:
        ValueError: if a number is NaN or infinite.
    """
    try:
        text = json.dumps(content, indent=indent, default=default, allow_nan=False) + "\n"
    except ValueError as error:
        raise ValueError(f"numbers of {path} must be finite, got NaN or infinity") from error
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return Path(path)


def clear_leftovers(folder: Path) -> None:
    """Remove what processes of this machine that are dead left half-written in a folder.

    A folder whose replacement was interrupted comes back. What is not all ours stays, and is named
    in the log.
    """
    for path in sorted(folder.glob(".*.partial")) if folder.is_dir() else []:
        found = PARTIAL.fullmatch(path.name)
        if not found or found["host"] != HOST or found["token"] == TOKEN:
            continue
        process = int(found["process"])
        if process == os.getpid() or not _runs(process):
            former, place = path / FORMER, folder / found["name"]
            with contextlib.suppress(OSError):  # another process clears too
                if former.exists() and not place.exists() and read_mark(path):
                    os.replace(former, place)
            _clear(path)


@contextlib.contextmanager
def _partial(path: Path, owns: Sequence[str], request: str | None = None) -> Iterator[Path]:
    """Give a place of the name of ``path`` in a marked hidden folder beside it; clear up after."""
    name = path.name
    token = f"{TOKEN}-{uuid.uuid4().hex[:8]}"
    folder = path.with_name(f".{name}.{HOST}.{os.getpid()}.{token}.partial")
    missing = [parent for parent in folder.parents if not parent.exists()]
    folder.mkdir(parents=True)
    inside = [name, *(f"{name}/{own}" for own in (*owns, MARK))]
    try:
        mark_folder(folder, inside, request)
        yield folder / name
    finally:
        _clear(folder)
        with contextlib.suppress(OSError):  # of what failed, no folder that was made for it stays
            for parent in missing:
                parent.rmdir()


def _clear(partial: Path) -> None:
    """Remove a hidden folder, or say why it stays."""
    try:
        if read_mark(partial) is None:  # its process died before it had the mark
            for path in partial.glob(f"{MARK}.????????"):
                path.unlink()
            partial.rmdir()
        else:
            if (partial / FORMER).exists():
                remove_ours(partial / FORMER)
            remove_ours(partial)
    except FileNotFoundError:  # another process was faster
        return
    except (ValueError, OSError) as error:
        logger.warning("%s, half-written, stays: %s", partial, error)


def _foreign(folder: Path) -> list[Path]:
    mark = read_mark(folder)
    owns = [MARK, f"{MARK}.????????", *(mark["owns"] if mark else [])]
    return [
        path
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or not path.is_dir())
        and not _matches(path.relative_to(folder).as_posix(), owns)
    ]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a relative path has a pattern's number of parts, each fitting."""
    parts = name.split("/")
    return any(
        len(parts) == len(wanted := pattern.split("/"))
        and all(fnmatch.fnmatchcase(part, want) for part, want in zip(parts, wanted, strict=True))
        for pattern in patterns
    )


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _to_disk(path: Path) -> None:
    """Let what was written survive a power cut; where that cannot be asked for, go on."""
    if path.is_symlink():
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
