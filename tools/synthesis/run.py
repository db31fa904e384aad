"""Many scans in, a dataset out: folders, datalist and report (``python -m tools synthesize``)."""

from __future__ import annotations

import logging
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.synthesis.generator import LesionGenerator
from tools.synthesis.lung_mask import lung_mask
from tools.synthesis.pipeline import synthesize_lesions
from tools.synthesis.plan import Request, TextureChoice, plan_lesions
from tools.synthesis.records import (
    ScanRecord,
    read_record,
    sha256_file,
    write_datalist,
    write_record,
)
from tools.synthesis.report import write_report
from tools.synthesis.scan import Scan
from tools.synthesis.shapes import MaskFileShape, ShapeSource

__all__ = ["Job", "find_scans", "synthesize_scans"]

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
        organ_mask: mask file of the one scan, or None for the built-in recipe.
        lesion_mask: file of existing lesions of the one scan, or None.
        max_attempts: samples per lesion at most.
    """

    generator: LesionGenerator
    request: Request
    shapes: ShapeSource
    textures: TextureChoice
    seed: int = 0
    organ_mask: str | None = None
    lesion_mask: str | None = None
    max_attempts: int = 3


def find_scans(path: str | Path) -> list[Path]:
    """Return the scan, or the NIfTI files of a folder in the order of their names.

    Raises:
        FileNotFoundError: if there is nothing.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    found = sorted(p for p in path.glob("*") if p.name.endswith((".nii", ".nii.gz")))
    if not found:
        raise FileNotFoundError(f"scan must be a NIfTI file or a folder with some, got {path}")
    return found


def synthesize_scans(scans: Sequence[Path], out: str | Path, job: Job) -> list[dict[str, Any]]:
    """Synthesise lesions into every scan and write the dataset.

    A case is written to a temporary folder and renamed when it is complete, so a folder that exists
    is a finished case; it is kept if the same scan made it, which lets an interrupted run go on.

    Args:
        scans: NIfTI files.
        out: folder of the dataset.
        job: what to do.

    Returns:
        One dictionary per case: ``name``, ``folder``, ``original``.

    Raises:
        ValueError: if one mask is given for several scans, if names collide, or if a finished case
            comes from another scan.
    """
    names = [_case_name(path) for path in scans]
    if len(set(names)) < len(names):
        raise ValueError(f"scan names must differ, got {sorted(names)}")
    if len(scans) > 1 and (
        job.organ_mask or job.lesion_mask or isinstance(job.shapes, MaskFileShape)
    ):
        raise ValueError(f"a mask file goes with one scan, got {len(scans)} scans")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    cases = []
    for path, name in tqdm(list(zip(scans, names, strict=True)), desc="scans", unit="scan"):
        folder = out / name
        if not _finished(folder, path):
            _write_case(path, folder, job)
        cases.append({"name": name, "folder": folder, "original": path})
    write_datalist(out, cases)
    write_report(out, cases, window=job.generator.window)
    return cases


def _case_name(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_image")


def _finished(folder: Path, scan: Path) -> bool:
    if not folder.exists():
        return False
    record = read_record(folder / "lesions.json")
    if record.sha256 != sha256_file(scan):
        raise ValueError(
            f"out must not hold a case of another scan, got {folder} from {record.name}"
        )
    logger.info("%s is complete already, kept", folder)
    return True


def _write_case(path: Path, folder: Path, job: Job) -> None:
    scan = Scan(path)
    organ, existing = _masks(scan, job)
    # the name enters by a checksum: its own hash would change with each process
    rng = np.random.default_rng([job.seed, zlib.crc32(folder.name.encode())])
    plans = plan_lesions(
        scan.image,
        scan.affine,
        organ,
        job.request,
        job.shapes,
        job.textures,
        rng,
        existing,
    )
    cut = None if isinstance(job.shapes, MaskFileShape) else organ
    result = synthesize_lesions(scan, cut, plans, job.generator, job.max_attempts)
    record = ScanRecord(
        name=path.name,
        sha256=sha256_file(path),
        spacing_mm=scan.spacing_mm,
        shape=scan.nifti.shape,
        bundle=job.generator.record,
        lesions=result.records,
        phantom=scan.phantom,
    )
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        scan.write(partial / "image.nii.gz", result.stored)
        scan.write_label(partial / "label.nii.gz", result.label)
        write_record(partial / "lesions.json", record)
        partial.chmod(0o755)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _masks(scan: Scan, job: Job) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return organ and existing lesions on the scan's grid."""
    existing = None
    if job.lesion_mask is not None:
        existing = scan.load_mask(job.lesion_mask, "lesion_mask")
    if job.organ_mask is not None:
        return scan.load_mask(job.organ_mask, "organ_mask"), existing
    if isinstance(job.shapes, MaskFileShape):
        return None, existing
    return lung_mask(scan.image, scan.affine), existing
