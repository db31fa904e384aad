"""How time and memory of ``synthesize`` grow with the scan and with the number of lesions."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from tools.phantoms.chest_ct import chest_ct
from tools.synthesis.generator import LesionGenerator
from tools.synthesis.lung_mask import lung_mask
from tools.synthesis.pipeline import synthesize_lesions
from tools.synthesis.plan import Request, TextureChoice, plan_lesions
from tools.synthesis.scan import Scan
from tools.synthesis.shapes import EllipsoidShapes

__all__ = ["benchmark_synthesis"]

STAGES = ("read", "lungs", "plan", "synthesis", "write")


def benchmark_synthesis(
    bundle: str = "lefusion_lidc",
    shapes: Sequence[Sequence[int]] = ((128, 128, 128), (256, 256, 160), (512, 512, 300)),
    count: int = 3,
    threads: int = 2,
    repeats: int = 3,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Time each stage of a run on the embedded chest at several sizes, and print a table.

    The body is the same in all scans, only the voxels get smaller, and so are the lesions' sizes in
    mm: what grows is the scan alone. The peak memory is that of the process so far.

    Args:
        bundle: name or folder.
        shapes: voxels of each scan, smallest first.
        count: lesions per scan.
        threads: processor threads.
        repeats: runs per size; the median of each stage is given.
        seed: of the plan.

    Returns:
        One dictionary per size: ``shape``, median seconds by stage, ``seconds_per_lesion`` of the
        synthesis alone, and ``peak_mb``.
    """
    torch.set_num_threads(threads)
    generator = LesionGenerator(bundle, "cpu")
    body = chest_ct(seed=seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for shape in shapes:
            path = _write_enlarged(body.image, body.affine, shape, Path(folder) / "scan.nii.gz")
            runs = [_run(path, generator, count, seed) for _ in range(repeats)]
            row = {stage: float(np.median([run[stage] for run in runs])) for stage in STAGES}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            per_lesion = row["synthesis"] / count
            rows.append(
                {"shape": list(shape), **row, "seconds_per_lesion": per_lesion, "peak_mb": peak}
            )
            print(
                json.dumps(
                    {k: round(v, 2) if isinstance(v, float) else v for k, v in rows[-1].items()}
                )
            )
    return rows


def _write_enlarged(
    image: np.ndarray, affine: np.ndarray, shape: Sequence[int], path: Path
) -> Path:
    """Write the image with its voxels repeated or dropped to a shape, the body's size kept."""
    index = [np.arange(n) * size // n for n, size in zip(shape, image.shape, strict=True)]
    scale = np.diag([*(np.array(image.shape) / np.array(shape)), 1.0])
    nib.save(nib.Nifti1Image(image[np.ix_(*index)], affine @ scale), path)
    return path


def _run(path: Path, generator: LesionGenerator, count: int, seed: int) -> dict[str, float]:
    """Return seconds by stage for one scan."""
    marks = [time.perf_counter()]
    scan = Scan(path)
    image = scan.image
    marks.append(time.perf_counter())
    lungs = lung_mask(image, scan.affine)
    marks.append(time.perf_counter())
    textures = TextureChoice("mixed", generator.presets)
    rng = np.random.default_rng(seed)
    request = Request(count, (8.0, 16.0))
    plans = plan_lesions(image, scan.affine, lungs, request, EllipsoidShapes(), textures, rng)
    marks.append(time.perf_counter())
    result = synthesize_lesions(scan, lungs, plans, generator, max_attempts=1)
    marks.append(time.perf_counter())
    scan.write(path.with_name("out.nii.gz"), result.stored)
    scan.write_label(path.with_name("label.nii.gz"), result.label)
    marks.append(time.perf_counter())
    return dict(zip(STAGES, np.diff(marks).tolist(), strict=True))
