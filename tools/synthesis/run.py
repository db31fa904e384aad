"""Many scans in, a dataset out: folders, datalist and report (``python -m tools synthesize``)."""

from __future__ import annotations

import errno
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from tqdm import tqdm

from tools.dicom.files import choose_series
from tools.files import claimed, read_mark, require_apart, require_room, safe_names
from tools.scans.scan import Scan
from tools.sentences import a_few
from tools.synthesis.case_folder import (
    is_whole,
    new_case_folder,
    remove_broken,
    request_hash,
    require_same,
)
from tools.synthesis.cases import Case
from tools.synthesis.datalist import DATALIST_FILE, write_datalist
from tools.synthesis.dicom.deidentify import pseudonym
from tools.synthesis.dicom.derived import add_dicom, is_dicom_whole, require_derivable, write_dicom
from tools.synthesis.lesion import SynthesisResult, instance_map
from tools.synthesis.ranks import Rank, SharedFolder
from tools.synthesis.records import (
    IMAGE_FILE,
    INSTANCES_FILE,
    LABEL_FILE,
    RECORD_FILE,
    read_record,
    write_record,
)
from tools.synthesis.synthesizer import Plan, Synthesizer
from tools.synthesis.verify import verify_case

__all__ = ["OUTPUT_FORMATS", "Report", "synthesize_scans"]

OUTPUTS = (DATALIST_FILE, "report.html")
OUTPUT_FORMATS = ("nifti", "dicom")  # dicom: as well as NIfTI, which report and datalist read
PATIENT = {
    False: "carry the patient's name, numbers and dates as the source does (see --deidentify)",
    True: "are de-identified by the basic profile of DICOM PS3.15; their pixels are not looked at",
}

# what the many readers of files raise where one cannot be read; OSError: gzip, links, rights
UNREADABLE = (ValueError, OSError, EOFError, zlib.error, ImageFileError, HeaderDataError)

logger = logging.getLogger(__name__)


class Report(Protocol):
    """Pages for people, made by whoever calls this; the runtime itself draws none."""

    def add(
        self, folder: Path, name: str, original: nib.Nifti1Image, values: Sequence[Any] | None
    ) -> None:
        """Write what there is to say of a case; values: stored before, after, and the label."""
        ...

    def write(self, out: Path, cases: Sequence[Mapping[str, Any]]) -> None:
        """Write the page of all cases."""
        ...


def synthesize_scans(
    cases: Sequence[Case],
    out: str | Path,
    job: Synthesizer,
    rank: Rank | None = None,
    output_format: str = "nifti",
    report: Report | None = None,
    deidentify: bool = False,
    instances: bool = False,
) -> list[dict[str, Any]]:
    """Synthesise lesions into every scan and write the dataset; one that is there grows.

    A case is written to a hidden folder and renamed when it is complete. A case that is whole is
    kept if the same scan and request made it; one that is not is made again: so an interrupted run
    goes on. A scan that cannot be done does not keep the others from being done; datalist and
    report hold what is there. Only what an earlier run wrote is ever replaced.

    In several processes, each does every n-th case; a second run of the same request shares the
    work of the first. The one that ends last writes datalist and report. What is written does not
    depend on the number of processes.

    Args:
        cases: the scans, names all different.
        out: folder of the dataset.
        job: what to do.
        rank: this process; None: as ``torchrun`` states it, else the only one.
        report: draws pages; None: none are drawn.
        output_format: ``nifti``, or ``dicom`` for a derived series and a segmentation beside it;
            cases that are finished but for their DICOM files get them, nothing is sampled again.
        deidentify: replace what tells who the patient is in the DICOM files, and the names of cases
            (and with them their chance) by pseudonyms of the series.
        instances: write which lesion each voxel belongs to, as well.

    Returns:
        One dictionary per case: ``name``, ``folder``, ``original`` (path of the scan), ``lesions``
        (their number). Empty if another process writes the summary.

    Raises:
        ValueError: if one mask is the shape in several scans, if names collide, if a finished case
            comes from another scan or request, if another request is at work on a case, if ``out``
            holds what others made where something is to be written, if scans could not be done, if
            DICOM is asked for and a scan is none, or if ``deidentify`` goes with another format.
    """
    _check_format(cases, output_format, deidentify)
    rank = Rank.from_environment() if rank is None else rank
    _check_cases(cases, Path(out), job)
    if output_format == "dicom" and rank.rank == 0:
        logger.info("derived series and segmentations %s", PATIENT[deidentify])
    if deidentify:
        cases = _pseudonymous(cases)
    mine = rank.share(list(cases))
    with claimed(out, OUTPUTS) as folder:
        task = _Task(folder, job, output_format, tuple(cases), report, deidentify, instances)
        _check_others(task)
        made, failures = _run(task, mine, rank)
    _require_all(mine, task, failures)
    _require_lesions(made, task)
    return made if rank.world_size == 1 or len(made) == len(cases) else []


def _run(
    task: _Task, cases: Sequence[Case], rank: Rank
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Do this process's share; return what is there for the summary, and what went wrong."""
    with SharedFolder(task.out, [case.name for case in cases], task.request) as shared:
        # all finished cases are checked before the first is made: a changed request costs no time
        pending = [case for case in cases if not task.finished(case)]
        if len(pending) < len(cases):
            done = len(cases) - len(pending)
            logger.info("%d of %d cases are complete already, kept", done, len(cases))
        failures = _work(pending, task, shared, rank)
        with shared.summary():
            return ([] if shared.others() else _summarize(task)), failures


@dataclass(frozen=True)
class _Task:
    """What all processes of a run do."""

    out: Path
    job: Synthesizer
    output_format: str
    cases: tuple[Case, ...]
    report: Report | None = None
    deidentify: bool = False
    instances: bool = False
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def request(self) -> str:
        """What tells this run from another that has the same cases; no hash of each mask."""
        bare = replace(self.cases[0], organ_mask=None, lesion_mask=None)
        return request_hash(self.job.texturer.record, self.describe(bare))

    def describe(self, case: Case) -> dict[str, Any]:
        """What is asked for; a case with the patient's tags is none without."""
        more = {name: True for name in ("deidentify", "instances") if getattr(self, name)}
        return self.job.describe(case) | more

    def folder(self, case: Case) -> Path:
        return self.out / case.name

    def open(self, case: Case) -> Scan:
        job = self.job
        in_hu = job.organ.modality == "CT"
        scan = Scan(case.path, case.series_uid, in_hu, job.hu_offset, job.fill_nan)
        if self.output_format == "dicom":
            require_derivable(scan, self.deidentify)
        return scan

    def complete(self, case: Case) -> bool:
        folder = self.folder(case)
        return is_whole(folder) and (self.output_format == "nifti" or is_dicom_whole(folder))

    def finished(self, case: Case) -> bool:
        """Return whether a case need not be made; another scan or request is refused."""
        folder = self.folder(case)
        if not is_whole(folder):
            require_room(folder)
            return False
        try:
            sha256 = self.open(case).sha256
        except UNREADABLE:  # said when its turn comes
            return False
        require_same(folder, sha256, self.job.texturer.record, self.describe(case))
        return self.output_format == "nifti" or is_dicom_whole(folder)

    def make(self, case: Case) -> None:
        """Make a case that is ours, if no other process has done so in the meantime."""
        if self.finished(case):
            return
        if not is_whole(self.folder(case)):
            remove_broken(self.folder(case))
        _write_case(case, self)


def _check_cases(cases: Sequence[Case], out: Path, job: Synthesizer) -> None:
    names = [case.name for case in cases]
    if safe_names(names) != names:
        raise ValueError(f"scan names must differ and be file names, got {sorted(names)}")
    if len(cases) > 1 and job.one_scan_only:
        raise ValueError(f"a mask file as shape goes with one scan, got {len(cases)} scans")
    if out.resolve() in {case.path.resolve().parent for case in cases}:
        raise ValueError(f"out must not be the folder of a scan, got {out}")
    require_apart(out, [case.path for case in cases if case.path.is_dir()])


def _pseudonymous(cases: Sequence[Case]) -> list[Case]:
    """Name cases by their series: folders are often named by the patient."""
    names = []
    for number, case in enumerate(cases, 1):
        try:
            header = choose_series(case.path, case.series_uid)[0].header
            names.append(pseudonym("series", str(header.SeriesInstanceUID)))
        except UNREADABLE:  # said when its turn comes
            names.append(f"unreadable_{number}")
    return [replace(c, name=name) for c, name in zip(cases, safe_names(names), strict=True)]


def _check_others(task: _Task) -> None:
    """Refuse to put cases without the patient beside some with."""
    for folder in task.out.iterdir() if task.deidentify else ():
        ours = read_mark(folder) is not None and (folder / RECORD_FILE).is_file()
        if ours and not (read_record(folder / RECORD_FILE).request or {}).get("deidentify"):
            raise ValueError(
                f"out must hold de-identified cases only with deidentify, got {folder}; name "
                "another folder"
            )


def _check_format(cases: Sequence[Case], output_format: str, deidentify: bool) -> None:
    if output_format not in OUTPUT_FORMATS:
        raise ValueError(
            f"output_format must be one of {', '.join(OUTPUT_FORMATS)}, got {output_format!r}"
        )
    if deidentify and output_format != "dicom":
        raise ValueError(
            f"deidentify must go with output_format dicom, got {output_format} (NIfTI files carry "
            "no tags of the patient)"
        )
    other = [case.path.name for case in cases if not case.path.is_dir()]
    if output_format == "dicom" and other:
        raise ValueError(
            "output_format dicom needs DICOM series as scans (the new series is derived from its "
            f"source), got {len(other)} other, the first is {other[0]}"
        )


def _work(cases: Sequence[Case], task: _Task, shared: SharedFolder, rank: Rank) -> dict[str, str]:
    """Make the cases, those that other processes are at work on last; return what went wrong."""
    label = "scans" if rank.world_size == 1 else f"scans of process {rank.rank}"
    failures: dict[str, str] = {}
    taken: list[Case] = []
    with tqdm(total=len(cases), desc=label, unit="scan", position=rank.local_rank) as bar:
        for wait, part in ((False, cases), (True, taken)):
            for case in part:
                with shared.case(case.name, wait) as mine:
                    if not mine:
                        taken.append(case)
                        continue
                    try:
                        task.make(case)
                    except _SkippedError:
                        logger.warning("scan %s is skipped: %s", case.name, task.skipped[case.name])
                    except Exception as error:
                        _report_failure(case, error, task)
                        failures[case.name] = _sentence(error)
                bar.update()
    return failures


def _report_failure(case: Case, error: Exception, task: _Task) -> None:
    """Say why a case cannot be made; go on only if the next one may do better."""
    expected, alone = isinstance(error, UNREADABLE), len(task.cases) == 1
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    if full:
        raise OSError(
            f"out must be a place that can be written and has room, got {task.out} at scan "
            f"{case.name} ({error}); what is done stays, the same command goes on"
        ) from error
    if alone and isinstance(error, ValueError | OSError):
        raise error
    logger.error("scan %s cannot be done: %s", case.name, _sentence(error))
    if not expected:
        logger.debug("unexpected", exc_info=error)


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _require_all(cases: Sequence[Case], task: _Task, failures: Mapping[str, str]) -> None:
    """Refuse to end well unless all cases of this process are there, or were to be skipped."""
    missing = {
        case.name: failures.get(case.name, "it was done, and is not there any more")
        for case in cases
        if case.name not in task.skipped and not task.complete(case)
    }
    if missing:
        listed = a_few(f"{name}: {reason}" for name, reason in missing.items())
        raise ValueError(
            f"scans must all be fit, got {len(missing)} of {len(cases)} that are not (the others "
            f"are done): {listed}"
        )


def _require_lesions(made: Sequence[Mapping[str, Any]], task: _Task) -> None:
    """Refuse to end well where no scan took any lesion: nothing could be learnt from it."""
    skipped = len(task.skipped) == len(task.cases)
    if skipped or (len(made) == len(task.cases) and not any(case["lesions"] for case in made)):
        reasons = next(iter(task.skipped.values()), "see the notes in the records")
        raise ValueError(
            f"scan must have room for a lesion, got none in any of {len(task.cases)} ({reasons})"
        )


def _summarize(task: _Task) -> list[dict[str, Any]]:
    """Write datalist and report of all cases that are there; return those of this run."""
    there = []
    for folder in sorted(path for path in task.out.iterdir() if path.is_dir()):
        if read_mark(folder) is not None and (folder / RECORD_FILE).is_file():
            record = read_record(folder / RECORD_FILE)
            entry = {"name": folder.name, "folder": folder, "lesions": len(record.lesions)}
            there.append({**entry, "notes": list(record.notes)})
    if there:
        write_datalist(task.out, there, modality=task.job.organ.modality)
        if task.report is not None:
            task.report.write(task.out, there)
    paths = {case.name: case.path for case in task.cases}
    return [{**e, "original": paths[e["name"]]} for e in there if e["name"] in paths]


def _write_case(case: Case, task: _Task) -> None:
    job, folder = task.job, task.folder(case)
    scan = task.open(case)
    organ_labels = case.organ_mask or case.lesion_mask
    if is_whole(folder):  # DICOM is all that it lacks
        add_dicom(folder, scan, organ_labels, task.deidentify)
        return
    description = task.describe(case)
    request = request_hash(job.texturer.record, {"scan": scan.sha256, **description})
    # the name enters by a checksum: its own hash would change with each process
    rng = np.random.default_rng([job.seed, zlib.crc32(case.name.encode())])
    several = "fewer" if len(task.cases) > 1 else "error"
    with new_case_folder(folder, request) as partial:
        try:
            plan = job.plan(scan, case, rng, several)
        except ValueError as error:
            if job.if_impossible != "skip":
                raise
            task.skipped[case.name] = str(error)
            raise _SkippedError from error
        for note in plan.notes:
            logger.warning("scan %s: %s", case.name, note)
        (result,) = job.finish([plan])
        scan.write(partial / IMAGE_FILE, result.changed)
        _write_labels(partial, scan, plan, result, task.instances)
        record = job.record(plan, result, description)
        # as it is, the folder is often named by the patient
        record = replace(record, name=case.name) if task.deidentify else record
        write_record(partial / RECORD_FILE, record)
        if task.output_format == "dicom":
            write_dicom(partial, scan, result.stored, result.label, organ_labels, task.deidentify)
        if task.report is not None:
            values = (scan.stored, result.changed, result.label)
            task.report.add(partial, case.name, scan.nifti, values)
        findings = verify_case(partial, scan)
        if findings:
            raise ValueError(f"what is written must be sound, got {'; '.join(findings)}")


def _write_labels(
    folder: Path, scan: Scan, plan: Plan, result: SynthesisResult, instances: bool
) -> None:
    scan.write_label(folder / LABEL_FILE, result.label)
    if instances:
        numbers = instance_map(plan.canvas, plan.lesions)
        scan.write_label(folder / INSTANCES_FILE, numbers, dtype=np.uint16)


class _SkippedError(Exception):
    """A scan that cannot take the lesions, where that is no error."""
