"""Runs over many scans: resumed without loss, never mixed, the same in one or two processes."""

import errno
import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.synthesis.jobs import lung_job
from tools.files import MARK, mark_folder
from tools.report.page import PageReport
from tools.scans.scan import Scan
from tools.shapes import EllipsoidShapes
from tools.synthesis import run
from tools.synthesis.cases import Case, find_cases
from tools.synthesis.ranks import Rank
from tools.synthesis.records import read_record
from tools.synthesis.run import synthesize_scans
from tools.synthesis.synthesizer import Synthesizer

NAMES = ("a", "b", "c")
SHAPE = (44, 44, 36)
LARGEST = 5.5


def write_scans(folder: Path, names: Sequence[str] = NAMES) -> Path:
    """Scans like lung, each with a mask of where lesions may lie."""
    folder.mkdir(parents=True, exist_ok=True)
    organ = np.zeros(SHAPE, np.uint8)
    organ[3:-3, 3:-3, 3:-3] = 1
    for name in names:
        values = np.random.default_rng(ord(name)).normal(-850, 30, SHAPE).astype(np.int16)
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"{name}_image.nii.gz")
        nib.save(nib.Nifti1Image(organ, np.eye(4)), folder / f"{name}_lung.nii.gz")
    return folder


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    return find_cases(write_scans(tmp_path / "scans"))


@pytest.fixture
def job() -> Synthesizer:
    return lung_job()


def contents(out: Path) -> dict[str, Any]:
    """Bytes of everything a run wrote; times, which no two runs share, are left out."""
    found: dict[str, Any] = {}
    for path in sorted(item for item in out.rglob("*") if item.is_file()):
        key = path.relative_to(out).as_posix()
        found[key] = path.read_bytes()
        if path.name == "lesions.json":
            found[key] = json.loads(path.read_text())
            for lesion in found[key]["lesions"]:
                assert lesion.pop("seconds") >= 0
        if path.name == "report.html":
            found[key] = len(re.findall('class="(?:scan|listed)"', path.read_text()))
    return found


def test_run_writes_every_case_and_says_how(
    tmp_path: Path, cases: list[Case], job: Synthesizer
) -> None:
    made = synthesize_scans(cases, tmp_path / "out", job, Rank())
    assert [entry["name"] for entry in made] == list(NAMES)
    listed = json.loads((tmp_path / "out" / "datalist.json").read_text())
    assert [entry["image"] for entry in listed["training"]] == [f"{n}/image.nii.gz" for n in NAMES]
    record = read_record(tmp_path / "out" / "a" / "lesions.json")
    assert record.organ_mask == {"source": "file", "name": "a_lung.nii.gz"}
    assert record.request["seed"] == 0
    assert len(record.request["organ_mask_sha256"]) == 64
    assert str(tmp_path) not in (tmp_path / "out" / "a" / "lesions.json").read_text()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_interrupted_run_goes_on_without_repeat_or_loss(
    tmp_path: Path,
    cases: list[Case],
    job: Synthesizer,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    whole = tmp_path / "whole"
    synthesize_scans(cases, whole, job, Rank())
    out = tmp_path / "out"
    write = run.write_record

    def stop_at_b(path: Path, record: Any) -> Path:
        if record.name.startswith("b"):
            raise error  # image and label of b are written, its record is not
        return write(path, record)

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_record", stop_at_b)
        with pytest.raises(type(error)):
            synthesize_scans(cases, out, job, Rank())
    assert sorted(path.name for path in out.iterdir()) == [MARK, "a"]
    (out / "b").mkdir()
    mark_folder(out / "b", ["image.nii.gz"])
    (out / "b" / "image.nii.gz").write_bytes(b"half")
    stamp = (out / "a" / "image.nii.gz").stat().st_mtime_ns
    job.texturer.jobs.clear()
    assert len(synthesize_scans(cases, out, job, Rank())) == 3
    assert job.texturer.sampled == 2
    assert (out / "a" / "image.nii.gz").stat().st_mtime_ns == stamp
    assert contents(out) == contents(whole)


CHANGES: dict[str, Callable[[Synthesizer], Synthesizer]] = {
    "seed": lambda job: replace(job, seed=1),
    "count": lambda job: replace(job, count=2),
    "diameter_mm": lambda job: replace(job, diameter_mm=(6.0, 9.0)),
    "texture": lambda job: lung_job(texture="none"),
    "shape": lambda job: replace(job, shapes=EllipsoidShapes(0.0)),
    "attempts": lambda job: replace(job, attempts=2),
}


def test_changed_request_is_refused_before_any_work(
    tmp_path: Path, cases: list[Case], job: Synthesizer
) -> None:
    out = tmp_path / "out"
    synthesize_scans(cases[1:], out, job, Rank())
    before = contents(out)
    for key, change in CHANGES.items():
        with pytest.raises(ValueError, match=f"one request only, got .* made with {key}="):
            synthesize_scans(cases, out, change(job), Rank())
    assert contents(out) == before
    # more scans with the same request are no change
    assert len(synthesize_scans(cases, out, job, Rank())) == 3


def test_a_case_does_not_depend_on_its_company(
    tmp_path: Path, cases: list[Case], job: Synthesizer
) -> None:
    synthesize_scans(cases, tmp_path / "all", job, Rank())
    synthesize_scans([cases[2], cases[0]], tmp_path / "two", job, Rank())
    together, alone = contents(tmp_path / "all"), contents(tmp_path / "two")
    for key in ("a/image.nii.gz", "a/label.nii.gz", "c/image.nii.gz", "c/lesions.json"):
        assert together[key] == alone[key]


def test_ranks_together_write_what_one_process_writes(
    tmp_path: Path, cases: list[Case], job: Synthesizer
) -> None:
    synthesize_scans(cases, tmp_path / "one", job, Rank())
    out = tmp_path / "two"
    assert synthesize_scans(cases, out, job, Rank(1, 2)) == []
    assert sorted(path.name for path in out.iterdir()) == [MARK, "b", "datalist.json"]
    assert len(synthesize_scans(cases, out, job, Rank(0, 2))) == 3  # the last one, whichever it is
    assert contents(out) == contents(tmp_path / "one")


def test_a_folder_grows_and_lists_all_that_is_there(
    tmp_path: Path, cases: list[Case], job: Synthesizer
) -> None:
    out, report = tmp_path / "out", PageReport((-1000, 400))
    synthesize_scans(cases[:1], out, job, Rank(), report=report)
    synthesize_scans(cases[1:], out, replace(job, seed=5), Rank(), report=report)
    listed = json.loads((out / "datalist.json").read_text())["training"]
    assert [entry["image"] for entry in listed] == [f"{name}/image.nii.gz" for name in NAMES]
    page = (out / "report.html").read_text()
    assert [page.count(f'href="{name}/report.html"') for name in NAMES] == [2] * 3
    with pytest.raises(ValueError, match="made with seed=0 where 5 is asked for"):
        synthesize_scans(cases[:1], out, replace(job, seed=5), Rank(), report=report)


@pytest.mark.parametrize("choice", [None, "error", "fewer", "skip"])
def test_a_scan_without_room_does_as_was_asked(
    tmp_path: Path, cases: list[Case], job: Synthesizer, choice: str | None
) -> None:
    organ = np.zeros(SHAPE, np.uint8)
    organ[20:24, 20:24, 16:20] = 1
    nib.save(nib.Nifti1Image(organ, np.eye(4)), tmp_path / "scans" / "b_lung.nii.gz")
    out, run_job = tmp_path / "out", replace(job, if_impossible=choice)
    if choice == "error":
        with pytest.raises(ValueError, match=r"1 of 3 that .* b: organ_mask must have room"):
            synthesize_scans(cases, out, run_job, Rank())
    else:
        synthesize_scans(cases, out, run_job, Rank())
    listed = json.loads((out / "datalist.json").read_text())["training"]
    fewer = choice in (None, "fewer")  # the default where there are several scans
    assert len(listed) == (3 if fewer else 2)
    if fewer:
        record = read_record(out / "b" / "lesions.json")
        assert record.lesions == ()
        assert record.notes == ("1 of 1 lesions found no room in the organ",)


@pytest.mark.parametrize("choice", ["fewer", "skip"])
def test_a_data_set_without_any_lesion_is_no_success(
    tmp_path: Path, cases: list[Case], job: Synthesizer, choice: str
) -> None:
    organ = np.zeros(SHAPE, np.uint8)
    organ[20:24, 20:24, 16:20] = 1
    nib.save(nib.Nifti1Image(organ, np.eye(4)), tmp_path / "scans" / "a_lung.nii.gz")
    with pytest.raises(ValueError, match="scan must have room for a lesion, got none in any of 1"):
        synthesize_scans(cases[:1], tmp_path / "out", replace(job, if_impossible=choice), Rank())


def test_dicom_series_runs_like_a_file_and_resumes(
    tmp_path: Path, job: Synthesizer, write_series: Callable[..., None]
) -> None:
    scans = tmp_path / "scans"
    write_scans(scans, ("a",))
    stored = np.random.default_rng(1).normal(174, 30, (16, 40, 44)).astype(int)  # -850 HU
    write_series(scans / "patient" / "series", stored)

    class Everywhere:
        def __init__(self) -> None:
            self.record = {"source": "test"}

        def __call__(self, scan: Scan) -> np.ndarray:
            return np.ones(scan.stored.shape, bool)

    job = replace(job, organs=Everywhere())
    cases, out = find_cases(scans), tmp_path / "out"
    assert [case.name for case in cases] == ["a", "series"]
    synthesize_scans(cases, out, job, Rank(), report=PageReport((-1000, 400)))
    before, after = Scan(cases[1].path), Scan(out / "series" / "image.nii.gz")
    label = Scan(out / "series" / "label.nii.gz").stored
    assert after.nifti.get_data_dtype() == np.int16
    assert np.allclose(after.affine, before.affine, atol=1e-5)
    assert np.array_equal(before.stored[label == 0], after.stored[label == 0])
    assert (before.stored != after.stored).any()
    record = read_record(out / "series" / "lesions.json")
    assert (record.name, record.sha256) == ("series", before.sha256)
    assert record.organ_mask == {"source": "test"}
    assert "0 voxels" in (out / "series" / "report.html").read_text()
    job.texturer.jobs.clear()
    assert len(synthesize_scans(cases, out, job, Rank())) == 2
    assert job.texturer.sampled == 0


def test_unfit_scan_is_named_and_keeps_no_other_from_being_done(
    tmp_path: Path, cases: list[Case], job: Synthesizer
) -> None:
    affine = np.eye(4)
    affine[:3, 3] = 1000
    image = nib.Nifti1Image(np.ones((5, 5, 5), np.uint8), affine)
    nib.save(image, tmp_path / "scans" / "b_lung.nii.gz")
    with pytest.raises(ValueError, match=r"1 of 3 that are not .* b: organ_mask must lie in the"):
        synthesize_scans(cases, tmp_path / "out", job, Rank())
    listed = json.loads((tmp_path / "out" / "datalist.json").read_text())["training"]
    assert [entry["image"] for entry in listed] == ["a/image.nii.gz", "c/image.nii.gz"]
    assert not (tmp_path / "out" / "b").exists()
    with pytest.raises(ValueError, match=r"^organ_mask must lie in the scan"):
        synthesize_scans(cases[1:2], tmp_path / "out", job, Rank())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_is_one_sentence(
    tmp_path: Path, cases: list[Case], job: Synthesizer, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    out = tmp_path / "out"
    write = Scan.write_label

    def full(scan: Scan, path: Path, label: np.ndarray) -> None:
        if scan.name.startswith("b"):
            path.write_bytes(b"half")
            raise OSError(code, os.strerror(code))
        write(scan, path, label)

    monkeypatch.setattr(Scan, "write_label", full)
    with pytest.raises(OSError, match=r"^out must be a place .* has room, got .* at scan b "):
        synthesize_scans(cases, out, job, Rank())
    assert sorted(path.name for path in out.iterdir()) == [MARK, "a"]


def test_no_room_for_the_first_file_leaves_nothing(
    tmp_path: Path, cases: list[Case], job: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_text

    def full(path: Path, *args: Any, **options: Any) -> int:
        if path.name.endswith(".run.json"):
            raise OSError(errno.ENOSPC, "full")
        return write(path, *args, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"^out must be a place that can be written and has room"):
        synthesize_scans(cases, tmp_path / "out", job, Rank())
    assert not (tmp_path / "out").exists()


def test_a_file_that_vanishes_keeps_no_other_from_being_done(
    tmp_path: Path, cases: list[Case], job: Synthesizer
) -> None:
    cases[1].path.unlink()
    with pytest.raises(ValueError, match=r"1 of 3 that are not .* b: FileNotFoundError: scan must"):
        synthesize_scans(cases, tmp_path / "out", job, Rank())
    assert [p.name for p in sorted((tmp_path / "out").iterdir())][1:4] == [
        "a",
        "c",
        "datalist.json",
    ]


@pytest.mark.parametrize("inter", [0.0, -1024.0, 0.5])
def test_memory_is_little_more_than_the_scan(
    tmp_path: Path, job: Synthesizer, inter: float
) -> None:
    folder, shape, affine = tmp_path / "scans", (160, 160, 200), np.diag([0.4, 0.4, 0.4, 1])
    folder.mkdir()
    values = np.random.default_rng(0).normal(-850 - inter, 30, shape).astype(np.int16)
    image = nib.Nifti1Image(values, affine)
    image.header.set_slope_inter(1, inter)
    nib.save(image, folder / "x_image.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(shape, np.uint8), affine), folder / "x_lung.nii.gz")
    cases, report = find_cases(folder), PageReport((-1000, 400))
    tracemalloc.start()
    synthesize_scans(cases, tmp_path / "out", job, Rank(), report=report)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < LARGEST * values.nbytes, peak / values.nbytes


@pytest.mark.slow
def test_torchrun_with_two_processes_writes_the_same_bytes(
    tmp_path: Path, repository: Path
) -> None:
    scans = write_scans(tmp_path / "scans")
    words = ["-m", "tools", "synthesize", "--scan", str(scans), "--count", "1", "--steps", "2"]
    words += ["--attempts", "1", "--diameter_mm", "6", "--device", "cpu", "--jump_n_sample", "1"]
    words += ["--shape", "ellipsoid"]
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for start, out in (([], "one"), (two, "two")):
        command = [sys.executable, *start, *words, "--out", str(tmp_path / out)]
        result = subprocess.run(
            command, cwd=repository, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("report.html") == 1  # written by one of them
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        MARK,
        *NAMES,
        "datalist.json",
        "report.html",
    ]
