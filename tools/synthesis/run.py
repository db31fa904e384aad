"""Many scans in, a dataset out: folders, datalist and report (``python -m tools synthesize``)."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from tools.dicom.derived import add_dicom, is_dicom_whole, write_dicom
from tools.synthesis.case_folder import (
    is_whole,
    new_case_folder,
    remove_broken,
    require_same,
)
from tools.synthesis.cases import Case
from tools.synthesis.datalist import write_datalist
from tools.synthesis.generator import LesionGenerator
from tools.synthesis.ranks import Rank, folder_lock
from tools.synthesis.records import (
    IMAGE_FILE,
    LABEL_FILE,
    RECORD_FILE,
    ScanRecord,
    read_record,
    write_record,
)
from tools.synthesis.report.page import REPORT_FILE, write_report
from tools.synthesis.sampling import ScanWork, sample_scans
from tools.synthesis.scan import Scan

__all__ = ["OUTPUT_FORMATS", "LesionJob", "synthesize_scans"]

OUTPUT_FORMATS = ("nifti", "dicom")  # dicom: as well as NIfTI, which report and datalist read

logger = logging.getLogger(__name__)


class LesionJob(Protocol):
    """Everything that is the same for all scans of a run, and how one of them is done."""

    @property
    def seed(self) -> int:
        """Of the run; each scan draws from the seed and its own name."""
        ...

    @property
    def generator(self) -> LesionGenerator:
        """The bundle."""
        ...

    @property
    def one_scan_only(self) -> bool:
        """Whether the shape is a mask drawn on one scan."""
        ...

    def describe(self, case: Case) -> dict[str, Any]:
        """Return all that decides what a case becomes, beside scan and bundle; JSON values only."""
        ...

    @property
    def max_attempts(self) -> int:
        """Samples per lesion at most."""
        ...

    def plan(
        self, scan: Scan, case: Case, rng: np.random.Generator
    ) -> tuple[ScanWork, dict[str, Any]]:
        """Return the lesions of a scan, ready to be sampled, and where its organ comes from."""
        ...


def synthesize_scans(
    cases: Sequence[Case],
    out: str | Path,
    job: LesionJob,
    rank: Rank | None = None,
    output_format: str = "nifti",
) -> list[dict[str, Any]]:
    """Synthesise lesions into every scan and write the dataset.

    A case is written to a hidden folder and renamed when it is complete. A case that is whole is
    kept if the same scan and request made it; one that is not is made again: so an interrupted run
    goes on. A scan that cannot be done does not keep the others from being done.

    In several processes, each does every n-th case; the one that ends last writes datalist and
    report. What is written does not depend on the number of processes.

    Args:
        cases: the scans, names all different.
        out: folder of the dataset.
        job: what to do.
        rank: this process; None: as ``torchrun`` states it, else the only one.
        output_format: ``nifti``, or ``dicom`` for a derived series and a segmentation beside it;
            cases that are finished but for their DICOM files get them, nothing is sampled again.

    Returns:
        One dictionary per case: ``name``, ``folder``, ``original`` (path of the scan), ``lesions``
        (their number). Empty if another process writes the summary.

    Raises:
        ValueError: if one mask is the shape in several scans, if names collide, if a finished case
            comes from another scan or request, if scans could not be done, or if DICOM is asked
            for and a scan is none.
    """
    _check_format(cases, output_format)
    rank = Rank.from_environment() if rank is None else rank
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise ValueError(f"scan names must differ, got {sorted(names)}")
    if len(cases) > 1 and job.one_scan_only:
        raise ValueError(f"a mask file as shape goes with one scan, got {len(cases)} scans")
    started = time.time()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    # all finished cases are checked before the first is made: a changed request costs no time
    mine = rank.share(list(cases))
    pending = [case for case in mine if not _finished(out / case.name, case, job, output_format)]
    if len(pending) < len(mine):
        logger.info(
            "%d of %d cases are complete already, kept", len(mine) - len(pending), len(mine)
        )
    _work(pending, out, job, rank, output_format, alone=len(cases) == 1)
    return _summarize(cases, out, job, started, output_format)


def _check_format(cases: Sequence[Case], output_format: str) -> None:
    if output_format not in OUTPUT_FORMATS:
        raise ValueError(
            f"output_format must be one of {', '.join(OUTPUT_FORMATS)}, got {output_format!r}"
        )
    other = [case.path.name for case in cases if not case.path.is_dir()]
    if output_format == "dicom" and other:
        raise ValueError(
            "output_format dicom needs DICOM series as scans (the new series is derived from its "
            f"source), got {len(other)} other, the first is {other[0]}"
        )


def _work(
    cases: Sequence[Case],
    out: Path,
    job: LesionJob,
    rank: Rank,
    output_format: str,
    alone: bool,
) -> None:
    """Make the cases; those that cannot be made are reported together at the end."""
    label = "scans" if rank.world_size == 1 else f"scans of process {rank.rank}"
    failures = []
    for case in tqdm(cases, desc=label, unit="scan", position=rank.local_rank):
        try:
            _write_case(case, out / case.name, job, output_format)
        except ValueError as error:
            if alone:
                raise
            failures.append(f"{case.name}: {error}")
            logger.error("scan %s cannot be done: %s", case.name, error)
    if failures:
        raise ValueError(
            f"scans must all be fit, got {len(failures)} of {len(cases)} that are not (the others "
            f"are done; leave these out to get datalist and report): {'; '.join(failures)}"
        )


def _summarize(
    cases: Sequence[Case], out: Path, job: LesionJob, started: float, output_format: str
) -> list[dict[str, Any]]:
    """Write datalist and report once all cases of all processes are there."""
    folders = [out / case.name for case in cases]
    if not all(_is_complete(folder, output_format) for folder in folders):
        logger.info("other processes are still at work; the last one writes the report")
        return []
    made = [
        {
            "name": case.name,
            "folder": folder,
            "original": case.path,
            "lesions": len(read_record(folder / RECORD_FILE).lesions),
        }
        for case, folder in zip(cases, folders, strict=True)
    ]
    report = out / REPORT_FILE
    with folder_lock(out):
        newest = max((folder / RECORD_FILE).stat().st_mtime for folder in folders)
        if report.is_file() and report.stat().st_mtime >= max(started, newest):
            return []  # a process that ended in the same moment was faster
        write_datalist(out, made, modality="CT" if job.generator.window else "MR")
        write_report(out, _with_originals(cases, made), window=job.generator.window)
    return made


def _with_originals(
    cases: Sequence[Case], made: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the cases for the report; a DICOM series is read when its turn comes."""
    for case, entry in zip(cases, made, strict=True):
        series = case.path.is_dir()
        yield {**entry, "original": Scan(case.path, case.series_uid).nifti} if series else entry


def _is_complete(folder: Path, output_format: str) -> bool:
    return is_whole(folder) and (output_format == "nifti" or is_dicom_whole(folder))


def _finished(folder: Path, case: Case, job: LesionJob, output_format: str) -> bool:
    if not is_whole(folder):
        remove_broken(folder)
        return False
    sha256 = Scan(case.path, case.series_uid).sha256
    require_same(folder, sha256, job.generator.record, job.describe(case))
    return output_format == "nifti" or is_dicom_whole(folder)


def _write_case(case: Case, folder: Path, job: LesionJob, output_format: str) -> None:
    scan = Scan(case.path, case.series_uid)
    organ_labels = case.organ_mask or case.lesion_mask
    if folder.exists():  # whole, or it had been removed: DICOM is all that it lacks
        add_dicom(folder, scan, organ_labels)
        return
    # the name enters by a checksum: its own hash would change with each process
    rng = np.random.default_rng([job.seed, zlib.crc32(case.name.encode())])
    work, organ = job.plan(scan, case, rng)
    (result,) = sample_scans([work], job.generator, job.max_attempts)
    stored = scan.storable(result.stored)
    record = ScanRecord(
        name=scan.name,
        sha256=scan.sha256,
        spacing_mm=scan.spacing_mm,
        shape=scan.nifti.shape,
        bundle=job.generator.record,
        lesions=result.records,
        phantom=scan.phantom,
        organ_mask=organ,
        request=job.describe(case),
    )
    with new_case_folder(folder) as partial:
        scan.write(partial / IMAGE_FILE, stored)
        scan.write_label(partial / LABEL_FILE, result.label)
        write_record(partial / RECORD_FILE, record)
        if output_format == "dicom":
            write_dicom(partial, scan, stored, result.label, organ_labels)
