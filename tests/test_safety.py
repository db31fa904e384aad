"""What people have is never deleted, written over or mixed: each case was seen to happen."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from tests.prepare.test_lidc import write_download
from tests.prepare.test_scans import write_crop, write_crops, write_list
from tests.synthesis.jobs import Stub, cubes, lung_job, noise
from tests.synthesis.test_run import NAMES, SHAPE, write_scans
from tools.cli import main
from tools.export.entries import read_real
from tools.organs import load_organ
from tools.phantoms.datasets import lesion_datalist
from tools.shapes import LibraryShapes, WallLibrary
from tools.synthesis import run
from tools.synthesis.cases import Case, find_cases
from tools.synthesis.ranks import Rank, SharedFolder
from tools.synthesis.records import read_record
from tools.synthesis.run import synthesize_scans
from tools.synthesis.synthesizer import Synthesizer

FAST = ["--count", "1", "--steps", "2", "--attempts", "1", "--shape", "ellipsoid"]
FAST += ["--diameter_mm", "6", "--device", "cpu"]


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def patients(folder: Path) -> Path:
    """``patientN/image.nii.gz`` and ``label.nii.gz`` with a datalist, as many data sets are."""
    listed = []
    for number in (1, 2):
        write_scans(folder / "x", ("a",))
        for kind, name in (("a_image", "image"), ("a_lung", "label")):
            place = folder / f"patient{number}" / f"{name}.nii.gz"
            place.parent.mkdir(exist_ok=True)
            os.replace(folder / "x" / f"{kind}.nii.gz", place)
        listed.append({k: f"patient{number}/{k}.nii.gz" for k in ("image", "label")})
    (folder / "x").rmdir()
    (folder / "datalist.json").write_text(json.dumps({"training": listed}))
    (folder / "report.html").write_text("a report of the hospital")
    return folder


@pytest.fixture
def job() -> Synthesizer:
    return lung_job()


@pytest.mark.parametrize("place", ["", "new", "patient1", ".."])
def test_the_users_data_set_is_no_place_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    folder = patients(tmp_path / "data")
    before = tree(tmp_path)
    words = ["--scan", str(folder / "datalist.json"), "--out", str(folder / place)]
    assert main(["synthesize", *words, *FAST]) == 1
    assert "out must lie outside the folders that are read" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_scans_are_no_place_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_scans(tmp_path / "scans")
    before = tree(tmp_path)
    for scan, out in ((".", "."), (".", "new"), (".", ".."), ("a_image.nii.gz", ".")):
        words = ["--scan", str(folder / scan), "--out", str(folder / out)]
        assert main(["synthesize", *words, *FAST]) == 1
        assert "error: out must " in capsys.readouterr().err
        assert tree(tmp_path) == before


def test_cases_of_others_at_the_place_of_ours_stay(tmp_path: Path, job: Synthesizer) -> None:
    cases = find_cases(write_scans(tmp_path / "scans"))
    out = tmp_path / "out"
    for name in ("b", ".a.partial"):  # somebody's image and label, and a name like our hidden ones
        write_scans(out / name, ("a",))
        os.replace(out / name / "a_image.nii.gz", out / name / "image.nii.gz")
        os.replace(out / name / "a_lung.nii.gz", out / name / "label.nii.gz")
    before = tree(out)
    with pytest.raises(ValueError, match="out must not hold what others made"):
        synthesize_scans(cases, out, job, Rank())
    assert tree(out) == before
    os.replace(out / "b", tmp_path / "b")
    synthesize_scans(cases, out, job, Rank())
    assert {k: v for k, v in tree(out).items() if k.startswith(".a.partial")} == {
        k: v for k, v in before.items() if k.startswith(".a.partial")
    }


@pytest.mark.parametrize("name", ["datalist.json", "report.html"])
def test_lists_and_pages_of_others_stay(tmp_path: Path, job: Synthesizer, name: str) -> None:
    cases, out = find_cases(write_scans(tmp_path / "scans")), tmp_path / "out"
    out.mkdir()
    (out / name).write_text("{}")
    with pytest.raises(ValueError, match=f"out must not hold {name} of others"):
        synthesize_scans(cases, out, job, Rank())
    assert tree(out) == {name: b"{}"}
    assert job.texturer.sampled == 0


OUTSIDE = ["../s.nii.gz", "/etc/s.nii.gz", "link/../s.nii.gz", "a/../../s.nii.gz"]
READERS: dict[str, Callable[[Path, Path], object]] = {
    "synthesize": lambda path, out: find_cases(path),
    "prepare": lambda path, out: main(["prepare", "scans", "--datalist", str(path), "--out", out]),
    "export": lambda path, out: read_real(path),
    "library": lambda path, out: LibraryShapes(path),
    "hearts": lambda path, out: WallLibrary(path, load_organ("heart")),
    "training": lambda path, out: lesion_datalist(path.parent, "training"),
}


@pytest.mark.parametrize("value", OUTSIDE)
@pytest.mark.parametrize("reader", READERS)
def test_a_datalist_leads_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reader: str, value: str
) -> None:
    folder = tmp_path / "in" / "data"
    entry = write_crop(folder, "a")
    shutil.copy(folder / entry["image"], folder.parent / "s.nii.gz")
    (tmp_path / "elsewhere" / "x").mkdir(parents=True)
    shutil.copy(folder / entry["image"], tmp_path / "elsewhere" / "s.nii.gz")
    (folder / "link").symlink_to(tmp_path / "elsewhere" / "x")
    path = write_list(folder, {"training": [entry | {"label": value}]})
    try:
        assert READERS[reader](path, str(tmp_path / "out")) == 1
        said = capsys.readouterr().err
    except ValueError as error:
        said = str(error)
    assert f"label of a datalist entry must lie in {folder}, got {value} in " in said


def test_links_and_dataset_dir_lead_where_the_user_says(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    entry = write_crop(folder, "a")
    (folder / "link").symlink_to(folder / "..")
    values = {key: f"link/in/{value}" for key, value in entry.items() if key in ("image", "label")}
    path = write_list(folder, {"training": [entry | values]})
    assert find_cases(path)[0].path.is_file()
    values = {key: str(folder / value) for key, value in entry.items() if key in values}
    path = write_list(tmp_path / "lists", {"training": [entry | values]})
    words = ["prepare", "scans", "--datalist", str(path), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert main([*words, "--dataset_dir", "/"]) == 0
    found = read_real(path, "/")[1][0].image, find_cases(path, "/")[0].path
    assert found == (folder / entry["image"],) * 2


@pytest.mark.parametrize("patient", ["..", ".", "", "../../x", "report.html"])
def test_a_patients_name_leads_nowhere(tmp_path: Path, patient: str) -> None:
    download = tmp_path / "download"
    download.mkdir()
    write_download(download)
    for path in (download / "LIDC-B").rglob("*.dcm"):
        header = pydicom.dcmread(path)
        header.PatientID = patient
        header.save_as(path)
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "thesis.txt").write_text("precious")
    words = ["--out", str(out), "--workers", "1", "--size", "24,24,16", "--normal_rois", "0"]
    assert main(["prepare", "lidc", "--dicom", str(download), *words]) == 0
    assert (out / "sub" / "thesis.txt").read_text() == "precious"
    assert len(list((out / "cases").iterdir())) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["download", "out"]


def test_two_patients_of_one_safe_name_stay_two(tmp_path: Path) -> None:
    download = tmp_path / "download"
    download.mkdir()
    write_download(download)
    for name, patient in (("LIDC-B", "a/b"), ("LIDC-A", "a_b")):
        for path in (download / name).rglob("*.dcm"):
            header = pydicom.dcmread(path)
            header.PatientID = patient
            header.save_as(path)
    words = ["--out", str(tmp_path / "out"), "--workers", "1", "--size", "24,24,16"]
    assert main(["prepare", "lidc", "--dicom", str(download), *words]) == 0
    cases = tmp_path / "out" / "cases"
    assert sorted(path.name for path in cases.iterdir()) == ["LIDC-C_s1", "a_b_2_s1", "a_b_s1"]


def test_a_scans_name_leads_nowhere(tmp_path: Path) -> None:
    names = ["../../../x", "..", "a/b", "a_b"]
    entries = [
        write_crop(tmp_path / "in", f"p_{n}") | {"name": name} for n, name in enumerate(names)
    ]
    datalist = write_list(tmp_path / "in", {"training": entries})
    out = tmp_path / "out"
    words = ["--validation_fraction", "0", "--out", str(out)]
    assert main(["prepare", "scans", "--datalist", str(datalist), *words]) == 0
    assert len(list((out / "cases").glob("*/*_image.nii.gz"))) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "scans": lambda given: ["prepare", "scans", "--datalist", str(given / "datalist.json")],
    "lidc": lambda given: ["prepare", "lidc", "--dicom", str(given / "download")],
    "phantom": lambda _: ["prepare", "phantom", "--kind", "lesion_rois"],
    "pack": lambda _: ["pack", "bundles/diffmask"],
    "demo": lambda _: ["demo"],
}
OF_OTHERS = {"pack": "{zip}", "demo": "overview.png"}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_writes_over_what_others_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    write_crops(given)
    (given / "download").mkdir()
    write_download(given / "download")
    version = json.loads(Path("bundles/diffmask/configs/metadata.json").read_text())["version"]
    name = OF_OTHERS.get(command, "datalist.json").format(zip=f"diffmask_v{version}.zip")
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("precious")
    assert main([*COMMANDS[command](given), "--out", str(out)]) == 1
    assert f"out must not hold {name} of others" in capsys.readouterr().err
    assert tree(out) == {name: b"precious"}


def test_converted_weights_take_no_others_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.pt").write_bytes(b"precious")
    for name in ("lefusion", "maisi"):
        words = ["convert", name, str(tmp_path / "mine.pt"), str(tmp_path / "mine.pt")]
        assert main(words) == 1
        assert "dst must be a new file" in capsys.readouterr().err
    assert (tmp_path / "mine.pt").read_bytes() == b"precious"


def unreadable(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "not an image":
        path.write_bytes(b"hello")
    else:
        values = np.full(SHAPE, np.nan, np.float32)
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)


@pytest.mark.parametrize("how", ["truncated", "empty", "not an image", "nan"])
def test_one_unreadable_scan_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    scans, out = write_scans(tmp_path / "scans"), tmp_path / "out"
    unreadable(scans / "b_image.nii.gz", how)
    words = ["synthesize", "--scan", str(scans), "--out", str(out), *FAST]
    assert main([*words, "--json"]) == 1
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert answer["ok"] is False
    assert "1 of 3" in answer["error"]
    assert " b: " in answer["error"]
    assert "Traceback" not in said.err
    listed = json.loads((out / "datalist.json").read_text())["training"]
    assert [entry["image"] for entry in listed] == ["a/image.nii.gz", "c/image.nii.gz"]
    assert (out / "report.html").read_text().count('class="listed"') == 2
    write_scans(scans, ("b",))  # mended: the rest is done, nothing again
    stamp = (out / "a" / "image.nii.gz").stat().st_mtime_ns
    assert main(words) == 0
    assert len(json.loads((out / "datalist.json").read_text())["training"]) == 3
    assert (out / "a" / "image.nii.gz").stat().st_mtime_ns == stamp


def test_a_case_that_vanished_is_no_success(
    tmp_path: Path, job: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, out, write = (
        find_cases(write_scans(tmp_path / "scans")),
        tmp_path / "out",
        run._write_case,
    )

    def lose_a(case: Case, task: run._Task) -> None:
        write(case, task)
        if case.name == "c":
            os.replace(out / "a", tmp_path / "elsewhere")

    monkeypatch.setattr(run, "_write_case", lose_a)
    with pytest.raises(ValueError, match=r"1 of 3 that are not .* a: it was done"):
        synthesize_scans(cases, out, job, Rank())
    listed = json.loads((out / "datalist.json").read_text())["training"]
    assert [entry["image"] for entry in listed] == ["b/image.nii.gz", "c/image.nii.gz"]


class SlowStub(Stub):
    """Signals its first lesion and waits, so that another run meets it at work."""

    def __init__(self) -> None:
        super().__init__(cubes().view, noise)
        self.at_work, self.go_on = threading.Event(), threading.Event()

    def sample(self, jobs: list) -> list:
        self.at_work.set()
        assert self.go_on.wait(60)
        return super().sample(jobs)


def test_a_second_run_of_one_request_shares_the_work(tmp_path: Path, job: Synthesizer) -> None:
    cases, out = find_cases(write_scans(tmp_path / "scans")), tmp_path / "out"
    slow, fast = SlowStub(), cubes()
    ended: list[int] = []
    first = threading.Thread(
        target=lambda: ended.append(len(synthesize_scans(cases, out, replace(job, texturer=slow))))
    )
    first.start()
    assert slow.at_work.wait(60)
    second = threading.Thread(
        target=lambda: ended.append(len(synthesize_scans(cases, out, replace(job, texturer=fast))))
    )
    second.start()
    while len(list(out.glob("[bc]/lesions.json"))) < 2:
        assert second.is_alive()
    slow.go_on.set()
    first.join(60)
    second.join(60)
    assert sorted(ended) == [0, 3]  # the one that ended last wrote the summary
    assert (slow.sampled, fast.sampled) == (1, 2)
    synthesize_scans(cases, tmp_path / "alone", job)
    for name in NAMES:
        for file in ("image.nii.gz", "label.nii.gz"):
            path = Path(name) / file
            assert (out / path).read_bytes() == (tmp_path / "alone" / path).read_bytes()
    assert not list(out.glob(".synthetic-lesions.locks"))


def test_a_second_run_of_another_request_is_refused(tmp_path: Path, job: Synthesizer) -> None:
    cases, out = find_cases(write_scans(tmp_path / "scans")), tmp_path / "out"
    slow = SlowStub()
    first = threading.Thread(
        target=lambda: synthesize_scans(cases, out, replace(job, texturer=slow))
    )
    first.start()
    assert slow.at_work.wait(60)
    for other in (cases, cases[2:]):
        with pytest.raises(ValueError, match="out must be given to one request at a time, got one"):
            synthesize_scans(other, out, replace(job, seed=1))
    slow.go_on.set()
    first.join(60)
    for name in NAMES:
        assert (read_record(out / name / "lesions.json").request or {})["seed"] == 0
    assert len(json.loads((out / "datalist.json").read_text())["training"]) == 3


def test_the_lock_of_a_dead_process_is_forgotten(tmp_path: Path, repository: Path) -> None:
    code = (
        "import os, signal\nfrom pathlib import Path\n"
        "from tools.synthesis.ranks import SharedFolder\n"
        f"with SharedFolder(Path({str(tmp_path)!r}), ['a'], 'x') as shared, shared.case('a'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, check=False)
    assert done.returncode == -9
    with SharedFolder(tmp_path, ["a"], "y") as shared, shared.case("a") as mine:
        assert mine
        assert shared.others() == []
    assert list(tmp_path.iterdir()) == []


def test_a_check_empties_only_its_own_folder(tmp_path: Path) -> None:
    from ecosystem.work import empty_work_folder

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="work must be new, or a folder of an earlier check"):
        empty_work_folder(tmp_path / "data")
    assert (tmp_path / "data" / "thesis.txt").read_text() == "precious"
    for _ in range(2):
        empty_work_folder(tmp_path / "work")
        assert not (tmp_path / "work" / "old").exists()
        (tmp_path / "work" / "old").touch()
