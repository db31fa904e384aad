"""What is written is whole or not there, has a safe name, and is never put over others' files."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import files
from tools.files import (
    MARK,
    claim,
    claimed,
    clear_leftovers,
    new_file,
    new_folder,
    read_mark,
    remove_ours,
    require_apart,
    require_new,
    safe_name,
    safe_names,
)

OUTSIDE = [
    "",
    ".",
    "..",
    "...",
    "/",
    "../../../x",
    "a/b",
    "a\\b",
    "x.",
    ".hidden",
    "CON",
    "nul.txt",
]
OUTSIDE += ["report.html", "DATALIST.JSON", "a\0b", "-", "é 1", "x" * 500, 7]


@pytest.mark.parametrize("text", OUTSIDE)
def test_a_name_from_outside_is_a_file_below_its_folder(tmp_path: Path, text: object) -> None:
    name = safe_name(text)
    assert name not in ("", ".", "..")
    assert not name.startswith(".")
    assert not name.endswith(".")
    assert name.lower() not in ("con", "nul", "report.html", "datalist.json")
    assert not set(name) & set('/\\\0:*?"<>| ')
    path = tmp_path / name
    path.write_text("x")
    assert list(tmp_path.iterdir()) == [path]


def test_names_differ_on_every_file_system() -> None:
    names = safe_names(OUTSIDE * 3)
    assert len({name.casefold() for name in names}) == len(names)
    assert safe_names(["a/1", "a_1"]) == ["a_1", "a_1_2"]


def test_output_and_input_lie_apart(tmp_path: Path) -> None:
    inner = tmp_path / "scans" / "p1"
    inner.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "scans")
    for out in ("scans", "scans/p1/out", ".", "scans/../scans", "link", "link/new"):
        with pytest.raises(ValueError, match="out must lie outside the folders that are read"):
            require_apart(tmp_path / out, [tmp_path / "scans"])
    require_apart(tmp_path / "scans_out", [tmp_path / "scans"])


def test_a_claim_spares_what_others_made(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("thesis")
    with pytest.raises(ValueError, match=r"out must not hold report.html of others"):
        claim(tmp_path, ["report.html", "datalist.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    claim(tmp_path, ["datalist.json"])
    (tmp_path / "datalist.json").write_text("{}")
    claim(tmp_path, ["datalist.json"])  # ours, again
    with pytest.raises(ValueError, match=r"report.html of others"):
        claim(tmp_path, ["datalist.json", "report.html"])
    with pytest.raises(ValueError, match="out must be a folder, got the file"):
        claim(tmp_path / "report.html", ["a"])


def test_a_claim_without_result_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), claimed(tmp_path / "out", ["a"]):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with claimed(tmp_path / "out", ["a"]):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "dataset"
    with pytest.raises(RuntimeError), new_folder(target, ["a"]) as partial:  # noqa: PT012
        (partial / "a").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_folder(target, ["a", "sub/*"], "1234") as partial:
        assert read_mark(partial) is not None  # written before anything else
        (partial / "sub").mkdir()
        (partial / "a").touch()
    mark = read_mark(target)
    assert mark is not None
    assert (mark["tool"], mark["request"]) == ("synthetic-lesions", "1234")
    with pytest.raises(ValueError, match="out must be empty or new"), new_folder(target, ["a"]):
        pass
    with new_folder(target, ["b"], replace=True) as partial:
        (partial / "b").touch()
    assert sorted(path.name for path in target.iterdir()) == [MARK, "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_folders_made_for_what_failed_go_with_it(tmp_path: Path) -> None:
    for new in (new_file(tmp_path / "a" / "b.txt"), new_folder(tmp_path / "a" / "b", ["c.txt"])):
        with pytest.raises(ZeroDivisionError), new as partial:
            (partial / "x").write_text(str(1 / 0))
        assert not any(tmp_path.iterdir())


def test_a_new_file_needs_a_folder_to_lie_in(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("file")
    require_new(tmp_path / "b" / "c.html")
    with pytest.raises(ValueError, match=r"out must lie in a folder that can be written, got .*c$"):
        require_new(tmp_path / "a" / "c")
    with pytest.raises(ValueError, match="dst must be a new file"):
        require_new(tmp_path / "a", "dst")


@pytest.mark.parametrize("make", [new_file, lambda path: new_folder(path, ["a"])])
def test_all_is_on_the_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable
) -> None:
    target, seen = tmp_path / "result", list[tuple[int, bool]]()
    monkeypatch.setattr(os, "fsync", lambda n: seen.append((os.fstat(n).st_ino, target.exists())))
    with make(target) as partial:
        path = partial / "a" if partial.is_dir() else partial
        path.write_text("whole")
        written = path.stat().st_ino
    assert (written, False) in seen
    assert seen[-1] == (tmp_path.stat().st_ino, True)  # and the name itself


@pytest.mark.parametrize("planted", ["chapter.txt", "sub/chapter.txt", "sub/deep/a"])
def test_what_others_put_into_our_folder_keeps_it(tmp_path: Path, planted: str) -> None:
    target = tmp_path / "dataset"
    with new_folder(target, ["a", "sub/a"]) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "a").touch()
    path = target / planted
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("precious")
    before = {item: item.stat().st_mtime_ns for item in target.rglob("*") if item.is_file()}
    with pytest.raises(ValueError, match=r"must not hold other files .*(chapter\.txt|deep/a)"):
        remove_ours(target)
    replacing = new_folder(target, ["a"], replace=True)
    with pytest.raises(ValueError, match="must not hold other files"), replacing:
        pass
    assert {item: item.stat().st_mtime_ns for item in before} == before
    path.unlink()
    remove_ours(target)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_our_mark_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "a").touch()
    (tmp_path / "forged").mkdir()
    (tmp_path / "forged" / MARK).write_text('{"tool": "another"}')
    for name in ("thesis", "forged"):
        replacing = new_folder(tmp_path / name, ["a"], replace=True)
        with pytest.raises(ValueError, match="must not hold what others made"), replacing:
            pass
        with pytest.raises(ValueError, match="must not hold what others made"):
            remove_ours(tmp_path / name)
    assert (tmp_path / "thesis" / "a").is_file()
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    with (
        pytest.raises(ValueError, match="must be a folder or new"),
        new_folder(tmp_path / "link", ["a"], replace=True),
    ):
        pass


def test_the_earlier_folder_comes_back_if_the_new_one_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rename = tmp_path / "dataset", os.replace
    with new_folder(target, ["a"]) as partial:
        (partial / "a").write_text("earlier")

    def refuse(source: Path, place: Path) -> None:
        if source.name == place.name == "dataset" and place == target:
            raise OSError("no space left")
        rename(source, place)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space left"), new_folder(target, ["a"], replace=True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    assert (target / "a").read_text() == "earlier"


def in_a_process_that_dies(code: str, folder: Path) -> None:
    lines = f"import os, signal\nfrom pathlib import Path\nfrom tools.files import *\n{code}"
    kill = "\nos.kill(os.getpid(), signal.SIGKILL)"
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", lines.replace("KILL", kill.strip())], cwd=root, check=False,
        env={**os.environ, "PYTHONPATH": str(root), "F": str(folder)},
    )  # fmt: skip
    assert done.returncode == -9


def test_leftovers_of_dead_processes_go_and_nothing_else(tmp_path: Path) -> None:
    in_a_process_that_dies("with new_file(Path(os.environ['F']) / 'report.html') as p:\n"
                           "  p.write_text('half'); KILL", tmp_path)  # fmt: skip
    in_a_process_that_dies("with new_folder(Path(os.environ['F']) / 'case', ['a']) as p:\n"
                           "  (p / 'a').write_text('half'); KILL", tmp_path)  # fmt: skip
    ours = sorted(path.name for path in tmp_path.iterdir())
    assert len(ours) == 2
    assert all(f".{files.HOST}." in name and name.endswith(".partial") for name in ours)
    foreign = tmp_path / ".case.partial"
    foreign.mkdir()
    (foreign / "image.nii.gz").write_text("precious")
    (tmp_path / ".report.html.1234").write_text("precious")
    alien = (
        tmp_path / ".x.otherhost.1.0123abcd-0123abcd.partial"
    )  # of another machine, alive or not
    alien.mkdir()
    planted = tmp_path / next(name for name in ours if "case" in name) / "case" / "thesis.txt"
    planted.write_text("precious")
    with new_file(tmp_path / "mine") as partial:  # of this process, which lives
        partial.write_text("x")
        clear_leftovers(tmp_path)
        assert partial.is_file()
    assert planted.read_text() == "precious"  # in a leftover: so that one stays as it is
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != planted.parts[-3]) == [
        ".case.partial",
        ".report.html.1234",
        alien.name,
        "mine",
    ]
    planted.unlink()
    clear_leftovers(tmp_path)
    assert not planted.parents[1].exists()


def test_a_folder_whose_replacement_was_killed_comes_back(tmp_path: Path) -> None:
    with new_folder(tmp_path / "dataset", ["a"]) as partial:
        (partial / "a").write_text("earlier")
    in_a_process_that_dies(
        "import tools.files as f\n"
        "real = os.replace\n"
        "def dying(a, b):\n"
        "  real(a, b)\n"
        "  if str(b).endswith('.former'): KILL\n"
        "os.replace = dying\n"
        "with new_folder(Path(os.environ['F']) / 'dataset', ['a'], replace=True) as p:\n"
        "  (p / 'a').write_text('new')",
        tmp_path,
    )
    assert not (tmp_path / "dataset").exists()
    clear_leftovers(tmp_path)
    assert (tmp_path / "dataset" / "a").read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_numbers_that_json_cannot_hold_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"numbers of .*a\.json must be finite, got NaN"):
        files.write_json(tmp_path / "a.json", {"modality": float("inf")})
    assert list(tmp_path.iterdir()) == []
