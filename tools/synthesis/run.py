"""Many scans in, a dataset out: folders, datalist and report (``python -m tools synthesize``)."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.synthesis.case_folder import (
    describe_source,
    is_whole,
    new_case_folder,
    remove_broken,
    require_same,
)
from tools.synthesis.cases import Case
from tools.synthesis.datalist import write_datalist
from tools.synthesis.generator import LesionGenerator
from tools.synthesis.organ_masks import OrganSource, RecipeOrgan
from tools.synthesis.pipeline import synthesize_lesions
from tools.synthesis.plan import Request, TextureChoice, plan_lesions
from tools.synthesis.ranks import Rank, folder_lock
from tools.synthesis.records import (
    IMAGE_FILE,
    LABEL_FILE,
    RECORD_FILE,
    ScanRecord,
    sha256_file,
    write_record,
)
from tools.synthesis.report import REPORT_FILE, write_report
from tools.synthesis.scan import Scan
from tools.synthesis.shapes import MaskFileShape, ShapeSource

__all__ = ["Job", "synthesize_scans"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Everything that is the same for all scans of a run.

    Args:
        generator: the bundle.
        request: sizes, numbers and places.
        shapes: source of shapes.
        textures: source of histograms.
        seed: of the run; each scan draws from the seed and its own name.
        max_attempts: samples per lesion at most.
        organs: finds the organ in scans that come without a mask of it.
    """

    generator: LesionGenerator
    request: Request
    shapes: ShapeSource
    textures: TextureChoice
    seed: int = 0
    max_attempts: int = 3
    organs: OrganSource = field(default_factory=RecipeOrgan)


def synthesize_scans(
    cases: Sequence[Case], out: str | Path, job: Job, rank: Rank | None = None
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

    Returns:
        One dictionary per case: ``name``, ``folder``, ``original`` (path of the scan). Empty if
        another process writes the summary.

    Raises:
        ValueError: if one mask is the shape in several scans, if names collide, if a finished case
            comes from another scan or request, or if scans could not be done.
    """
    rank = Rank.from_environment() if rank is None else rank
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise ValueError(f"scan names must differ, got {sorted(names)}")
    if len(cases) > 1 and isinstance(job.shapes, MaskFileShape):
        raise ValueError(f"a mask file as shape goes with one scan, got {len(cases)} scans")
    started = time.time()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    # all finished cases are checked before the first is made: a changed request costs no time
    mine = rank.share(list(cases))
    pending = [case for case in mine if not _finished(out / case.name, case, job)]
    if len(pending) < len(mine):
        logger.info(
            "%d of %d cases are complete already, kept", len(mine) - len(pending), len(mine)
        )
    _work(pending, out, job, rank, alone=len(cases) == 1)
    return _summarize(cases, out, job, started)


def _work(cases: Sequence[Case], out: Path, job: Job, rank: Rank, alone: bool) -> None:
    """Make the cases; those that cannot be made are reported together at the end."""
    label = "scans" if rank.world_size == 1 else f"scans of process {rank.rank}"
    failures = []
    for case in tqdm(cases, desc=label, unit="scan", position=rank.local_rank):
        try:
            _write_case(case, out / case.name, job)
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


def _summarize(cases: Sequence[Case], out: Path, job: Job, started: float) -> list[dict[str, Any]]:
    """Write datalist and report once all cases of all processes are there."""
    folders = [out / case.name for case in cases]
    if not all(is_whole(folder) for folder in folders):
        logger.info("other processes are still at work; the last one writes the report")
        return []
    made = [
        {"name": case.name, "folder": folder, "original": case.path}
        for case, folder in zip(cases, folders, strict=True)
    ]
    report = out / REPORT_FILE
    with folder_lock(out):
        newest = max((folder / RECORD_FILE).stat().st_mtime for folder in folders)
        if report.is_file() and report.stat().st_mtime >= max(started, newest):
            return []  # a process that ended in the same moment was faster
        write_datalist(out, made)
        write_report(out, _with_originals(cases, made), window=job.generator.window)
    return made


def _with_originals(
    cases: Sequence[Case], made: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the cases for the report; a DICOM series is read when its turn comes."""
    for case, entry in zip(cases, made, strict=True):
        series = case.path.is_dir()
        yield {**entry, "original": Scan(case.path, case.series_uid).nifti} if series else entry


def _finished(folder: Path, case: Case, job: Job) -> bool:
    if not is_whole(folder):
        remove_broken(folder)
        return False
    sha256 = Scan(case.path, case.series_uid).sha256
    require_same(folder, sha256, job.generator.record, _request(case, job))
    return True


def _request(case: Case, job: Job) -> dict[str, Any]:
    """Return all that decides what a case becomes, beside scan and bundle; JSON values only."""
    masks = {"organ_mask": case.organ_mask, "lesion_mask": case.lesion_mask}
    return {
        **asdict(job.request),
        "texture": job.textures.names,
        "texture_histogram": job.textures.file_histogram,
        "shape": describe_source(job.shapes),
        "organ_source": "file" if case.organ_mask else job.organs.record["source"],
        **{f"{k}_sha256": None if v is None else sha256_file(v) for k, v in masks.items()},
        "seed": job.seed,
        "attempts": job.max_attempts,
        "sampler": job.generator.settings,
    }


def _write_case(case: Case, folder: Path, job: Job) -> None:
    scan = Scan(case.path, case.series_uid)
    existing = None
    if case.lesion_mask is not None:
        existing = scan.load_mask(case.lesion_mask, "lesion_mask", empty=True)
    organ, organ_record = _organ(scan, case, job)
    # the name enters by a checksum: its own hash would change with each process
    rng = np.random.default_rng([job.seed, zlib.crc32(case.name.encode())])
    plans = plan_lesions(
        scan.image, scan.affine, organ, job.request, job.shapes, job.textures, rng, existing
    )
    cut = None if isinstance(job.shapes, MaskFileShape) else organ
    result = synthesize_lesions(scan, cut, plans, job.generator, job.max_attempts)
    record = ScanRecord(
        name=scan.name,
        sha256=scan.sha256,
        spacing_mm=scan.spacing_mm,
        shape=scan.nifti.shape,
        bundle=job.generator.record,
        lesions=result.records,
        phantom=scan.phantom,
        organ_mask=organ_record,
        request=_request(case, job),
    )
    with new_case_folder(folder) as partial:
        scan.write(partial / IMAGE_FILE, result.stored)
        scan.write_label(partial / LABEL_FILE, result.label)
        write_record(partial / RECORD_FILE, record)


def _organ(scan: Scan, case: Case, job: Job) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Return the organ on the scan's grid, and where it comes from."""
    if case.organ_mask is not None:
        mask = scan.load_mask(case.organ_mask, "organ_mask")
        return mask, {"source": "file", "name": case.organ_mask.name}
    if isinstance(job.shapes, MaskFileShape):
        return None, {"source": "none", "name": "the mask file decides"}
    return job.organs(scan), dict(job.organs.record)
