"""How time and memory of ``synthesize`` grow with the scan and with the number of lesions."""

from __future__ import annotations

import gc
import json
import logging
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser

from tools.bundle import find_bundle
from tools.organs.lung_recipe import lung_mask
from tools.phantoms.chest_ct import chest_ct
from tools.scans.changed import give_back_memory
from tools.scans.scan import Scan
from tools.synthesis.arrays import open_synthesizer
from tools.synthesis.cases import Case
from tools.synthesis.lesion import SynthesisResult
from tools.synthesis.synthesizer import Plan, Synthesizer

STAGES = ("read", "lungs", "plan", "synthesis", "write")
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # see proc(5)
# key of the file in inference.json -> key of the network it holds
NETWORKS = {"ckpt_path": "network_def", "autoencoder_path": "autoencoder_def"}

logger = logging.getLogger(__name__)


def benchmark_synthesis(
    bundle: str = "lefusion_lidc",
    shapes: Sequence[Sequence[int]] = ((128, 128, 128), (256, 256, 160), (512, 512, 300)),
    count: int = 3,
    threads: int = 2,
    repeats: int = 3,
    seed: int = 0,
    steps: int | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Time each stage of a run on the embedded chest at several sizes, and print a table.

    The body is the same in all scans, only the voxels get smaller, and so are the lesions' sizes in
    mm: what grows is the scan alone. ``shapes`` are their voxels, smallest first. A bundle whose
    weights are not there is measured with random ones, which cost the same. One run goes before
    those that count.

    Returns:
        One dictionary per size: ``shape``, median seconds by stage, ``seconds_per_lesion`` of the
        synthesis alone, ``cpu_seconds_per_lesion`` (of all threads; it does not suffer from what
        else runs on the machine), ``peak_mb`` of the process so far, ``synthesis_mb`` and, on a
        GPU, ``gpu_mb``. ``synthesis_mb`` is by how much the process grew at most during synthesis,
        the scan that it returns not counted; None where the system does not tell.
    """
    for name, value in (("count", count), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    torch.set_num_threads(threads)
    body = chest_ct(seed=seed)
    rows: list[dict[str, Any]] = []
    peak = 0.0
    with tempfile.TemporaryDirectory() as folder:
        weighted = with_weights(find_bundle(bundle), Path(folder))
        options: dict[str, Any] = {"steps": steps, "count": count, "attempts": 1, "seed": seed}
        options |= {"diameter_mm": (8.0, 16.0), "shape": "ellipsoid", "organ_source": "recipe"}
        job = open_synthesizer(weighted, device, options=options).get("synthesizer")
        for shape in shapes:
            path = _write_enlarged(body.image, body.affine, shape, Path(folder) / "scan.nii.gz")
            if not rows:  # the first run of all prepares what later ones find ready
                _run(path, job, seed)
            runs = [_run(path, job, seed) for _ in range(repeats)]
            peak = max(peak, *[run["peak_mb"] for run in runs])
            row = {"shape": list(shape), **_median(runs), "peak_mb": peak}
            row["seconds_per_lesion"] = row["synthesis"] / count
            row["cpu_seconds_per_lesion"] = row.pop("cpu") / count
            rows.append(row)
            shown = {k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()}
            print(json.dumps(shown))
    return rows


def _write_enlarged(
    image: np.ndarray, affine: np.ndarray, shape: Sequence[int], path: Path
) -> Path:
    """Write the image with its voxels repeated or dropped to a shape, the body's size kept."""
    index = [np.arange(n) * size // n for n, size in zip(shape, image.shape, strict=True)]
    scale = np.diag([*(np.array(image.shape) / np.array(shape)), 1.0])
    nib.save(nib.Nifti1Image(image[np.ix_(*index)], affine @ scale), path)
    return path


def _median(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return medians of the times, and the most memory that a run took."""
    names = (*STAGES, "cpu")
    row: dict[str, Any] = {name: float(np.median([run[name] for run in runs])) for name in names}
    for name in ("synthesis_mb", "gpu_mb"):
        values = [run[name] for run in runs if run.get(name) is not None]
        if values or name == "synthesis_mb":
            row[name] = max(values) if values else None
    return row


def _run(path: Path, job: Synthesizer, seed: int) -> dict[str, Any]:
    """Return seconds by stage for one scan, and memory in MiB."""
    marks = [time.perf_counter()]
    scan = Scan(path)
    image = scan.image
    marks.append(time.perf_counter())
    lungs = lung_mask(image, scan.affine)
    marks.append(time.perf_counter())
    rng = np.random.default_rng(seed)
    mask = nib.Nifti1Image(np.asarray(lungs, np.uint8), scan.affine)
    plan = job.plan(scan, Case("scan", path, organ_mask=mask), rng, "error")
    marks.append(time.perf_counter())
    result, memory = _synthesize(job, plan)
    marks.append(time.perf_counter())
    scan.write(path.with_name("out.nii.gz"), result.changed)
    scan.write_label(path.with_name("label.nii.gz"), result.label)
    marks.append(time.perf_counter())
    memory["peak_mb"] = max(memory["peak_mb"], _peak_mb())
    return dict(zip(STAGES, np.diff(marks).tolist(), strict=True)) | memory


def _synthesize(job: Synthesizer, plan: Plan) -> tuple[SynthesisResult, dict[str, Any]]:
    """Return the scan with lesions, and what memory that took."""
    device = job.texturer.device
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    memory: dict[str, Any] = {"peak_mb": _peak_mb()}  # measuring resets it
    start = time.process_time()
    with PeakMemory() as used:
        (result,) = job.finish([plan])
    memory["cpu"] = time.process_time() - start
    memory["synthesis_mb"] = used.mb
    if on_gpu:
        memory["gpu_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return result, memory


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class PeakMemory:
    """Measure by how much the memory of this process rises at most inside a ``with`` block.

    The kernel keeps the highest resident memory of a process and lets it be reset, so nothing is
    missed between samples. Memory that was freed but not given back is returned first, or the work
    would fill it without any rise. After the block, ``mb`` is the rise in MiB; None where the
    system does not tell (Linux does).
    """

    mb: float | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        give_back_memory()
        self._before: float | None = None
        try:
            CLEAR_REFS.write_text(RESET_PEAK)
            self._before = _status_mb("VmRSS")
        except OSError:
            pass
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            self.mb = max(0.0, _status_mb("VmHWM") - self._before)


def _status_mb(name: str) -> float:
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) / 1024
    raise OSError(f"{STATUS} must have {name}, got none")


def with_weights(bundle: Path, folder: Path) -> Path:
    """Return the bundle, or where weights are missing a copy of it in a folder with random ones."""
    if not (bundle / "configs" / "inference.json").is_file():
        raise FileNotFoundError(f"bundle must have configs/inference.json, got none in {bundle}")
    if not _missing(bundle)[1]:
        return bundle
    copy = folder / bundle.resolve().name
    for name in ("configs", "models"):
        if (bundle / name).is_dir():
            shutil.copytree(bundle / name, copy / name)
    parser, missing = _missing(copy)
    for key in missing:
        target = Path(parser.get_parsed_content(key))
        logger.warning("%s is not there: random weights are measured", target.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save(parser.get_parsed_content(NETWORKS[key]).state_dict(), target)
    return copy


def _missing(bundle: Path) -> tuple[ConfigParser, list[str]]:
    """Return the config and the keys of the weights that are not there."""
    parser = ConfigParser(ConfigParser.load_config_file(bundle / "configs" / "inference.json"))
    parser["bundle_root"] = str(bundle)
    keys = [key for key in NETWORKS if parser.get(key)]
    return parser, [key for key in keys if not Path(parser.get_parsed_content(key)).is_file()]
