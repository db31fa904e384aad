"""Killed at any moment (SIGKILL): nothing half under a final name, nothing of others touched.

``KILLS=50 make test PYTEST_ARGS=tests/test_kill.py`` kills each command fifty times.
"""

import contextlib
import gzip
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tqdm import tqdm

from tests.export.tiny import box_label, save, scan_values
from tests.prepare.test_lidc import write_download
from tests.prepare.test_scans import write_crops
from tests.synthesis.test_run import write_scans
from tests.test_checkpoints import train
from tools.cli import main
from tools.files import PARTIAL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system"),
]
KILLS = int(os.environ.get("KILLS", "6"))
TEXTS = (".json", ".html")
SECONDS = re.compile(r'"seconds": [\d.]+|>[\d.]+ s<')
LONGEST = 300.0  # seconds for a command that nobody kills; it takes some two


def hidden(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return any(PARTIAL.fullmatch(p) or p.startswith(".synthetic-lesions") for p in parts)


def require_whole(root: Path) -> None:
    """Every file under a final name can be read to its end."""
    for path in root.rglob("*"):
        if not path.is_file() or hidden(path, root):
            continue
        if path.name.endswith(".nii.gz"):
            with gzip.open(path) as stream:
                assert len(stream.read()) > 348
            assert np.asarray(nib.load(path).dataobj).size
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")
        elif path.suffix == ".zip":
            assert zipfile.ZipFile(path).testzip() is None
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)


def plant(root: Path) -> None:
    """Put a file of others into every folder, hidden ones too."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        with contextlib.suppress(OSError):
            (folder / "thesis.txt").write_bytes(b"precious")


def planted(root: Path) -> set[Path]:
    found = set(root.rglob("thesis.txt"))
    assert all(path.read_bytes() == b"precious" for path in found)
    return found


def contents(root: Path) -> dict[str, bytes]:
    """What lies under final names, but for the seconds that the work took and the folder's name."""
    files = (path for path in root.rglob("*") if path.is_file() and not hidden(path, root))
    found = {path.relative_to(root).as_posix(): path for path in files}
    return {
        name: path.read_bytes() if path.suffix not in TEXTS else settled(path, root)
        for name, path in sorted(found.items())
        if path.name != "thesis.txt"
    }


def settled(path: Path, root: Path) -> bytes:
    text = path.read_text().replace(str(root), "OUT")
    return SECONDS.sub("SECONDS", text).encode()


def in_child(run: Callable[[], object], kill_after: float = LONGEST) -> bool:
    """Run in a process of its own, killed after so many seconds; return whether it was."""

    def quiet() -> None:
        torch.set_num_threads(1)  # threads do not survive a fork
        # tqdm's own lock is shared with the parent, which would wait for the dead for ever
        tqdm.set_lock(threading.RLock())
        for number in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        os._exit(int(run() or 0))

    process = multiprocessing.get_context("fork").Process(target=quiet)
    process.start()
    process.join(kill_after)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def command(*words: object) -> Callable[[], int]:
    return lambda: main([str(word) for word in words])


def synthesize(tmp_path: Path, out: Path) -> Callable[[], int]:
    scans = write_scans(tmp_path / "scans")
    options = ["--count", 1, "--steps", 2, "--attempts", 1, "--diameter_mm", 6, "--device", "cpu"]
    return command("synthesize", "--scan", scans, "--out", out, "--shape", "ellipsoid", *options)


def prepare_scans(tmp_path: Path, out: Path) -> Callable[[], int]:
    datalist = write_crops(tmp_path / "in")
    return command("prepare", "scans", "--datalist", datalist, "--out", out)


def prepare_lidc(tmp_path: Path, out: Path) -> Callable[[], int]:
    download = tmp_path / "download"
    if not download.exists():
        write_download(download)
    size = ["--size", "24,24,16", "--normal_rois", 1, "--workers", 1]
    return command("prepare", "lidc", "--dicom", download, "--out", out, *size)


def export(tmp_path: Path, out: Path) -> Callable[[], int]:
    for name in "abcdef":
        save(tmp_path / "real" / f"{name}_image.nii.gz", scan_values(ord(name)))
        save(tmp_path / "real" / f"{name}_label.nii.gz", box_label(2))
    made = tmp_path / "made"
    if not made.exists():
        assert not in_child(synthesize(tmp_path, made))
    words = ["export", "nnunet", made, "--real", tmp_path / "real", "--out", out, "--folds", 2]
    write = command(*words, "--dataset_id", 501, "--name", "X", "--copy")

    def once() -> int:
        """Export, which refuses to write a data set that is there."""
        return 0 if (out / "Dataset501_X").exists() else write()

    return once


def pack(tmp_path: Path, out: Path) -> Callable[[], int]:
    return command("pack", "bundles/diffmask", "--out", out)


def training(tmp_path: Path, out: Path) -> Callable[[], None]:
    return lambda: train(out, 60, [60 - i for i in range(60)], "auto")


def test_the_dead_hold_no_lock_of_the_living() -> None:
    def hold() -> None:
        tqdm.get_lock().acquire()
        time.sleep(LONGEST)

    shared = tqdm.get_lock().locks
    in_child(hold, 1.0)
    assert all(lock.acquire(True, 5) for lock in shared)
    for lock in shared:
        lock.release()


JOBS = [synthesize, prepare_scans, prepare_lidc, export, pack, training]


def killed_until_done(
    run: Callable[[], object], out: Path, wanted: dict[str, bytes], moment: Callable[[], float]
) -> int:
    """Kill a command, and start it again, until all is written; return how many kills struck."""
    out.mkdir()
    foreign: set[Path] = set()
    finished: set[str] = set()
    struck = 0
    while in_child(run, moment()):
        struck += 1
        require_whole(out)
        there = contents(out)
        gone = {name for name in finished - there.keys() if not name.endswith(".pt")}
        assert not gone, f"after kill {struck}"
        finished = set(there)
        assert foreign <= planted(out), f"after kill {struck}"
        plant(out)
        foreign = planted(out)
    assert foreign <= planted(out)
    made = contents(out)
    assert made.keys() == wanted.keys()
    assert [name for name in wanted if made[name] != wanted[name]] == []
    return struck


@pytest.mark.parametrize("make", JOBS, ids=lambda make: make.__name__)
def test_a_kill_loses_nothing(
    tmp_path: Path, make: Callable[[Path, Path], Callable[[], object]]
) -> None:
    run = make(tmp_path, tmp_path / "whole")
    started = time.monotonic()
    assert not in_child(run)
    longest, wanted = time.monotonic() - started, contents(tmp_path / "whole")
    rng = random.Random(0)
    struck = folders = 0
    while struck < KILLS:
        out = tmp_path / f"out{folders}"
        run = make(tmp_path, out)
        struck += killed_until_done(run, out, wanted, lambda: rng.uniform(0, longest))
        folders += 1
        shutil.rmtree(out)
    print(f"{make.__name__}: {struck} kills in {folders} folders")
