"""What a rebuild of the house must not change: hashes of what about twenty commands write.

    python -m tests.lock record LOCK.json [name ...]
    python -m tests.lock check LOCK.json [name ...]

Voxels, labels and records (without times and versions) at fixed seeds, on phantoms and, where
``../shared/data`` is there, on real scans. Hashes hold on one machine: convolutions differ in the
last bit between processors.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
# times, and what names this version of the code; in JSON at any depth
LEFT_OUT = {"seconds", "version", "schema_version", "processor_seconds", "seconds_per_lesion"}
FEW = ["--steps", "8", "--attempts", "1", "--device", "cpu"]


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"|".join(parts)).hexdigest()[:16]


def plain(value: Any) -> Any:
    """JSON without what differs from run to run; numbers to six digits."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in sorted(value.items()) if k not in LEFT_OUT}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def hashes(folder: Path) -> dict[str, Any]:
    """Return a hash of the content of each file that says something."""
    found: dict[str, Any] = {}
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        key = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.name.endswith((".nii.gz", ".nii")):
            image = nib.load(path)
            stored = np.ascontiguousarray(image.dataobj.get_unscaled())
            found[key] = digest(stored.tobytes(), np.round(image.affine, 4).tobytes())
        elif path.suffix == ".json":
            found[key] = digest(json.dumps(plain(json.loads(path.read_text()))).encode())
        elif path.suffix == ".dcm":
            import pydicom

            content = pydicom.dcmread(path)
            found[key] = digest(bytes(content.PixelData))
    return found


def tools(*words: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{words}: {done.stderr[-2000:]}")


def bundle_run(*words: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{words}: {(done.stderr + done.stdout)[-2000:]}")


def chest(folder: Path) -> list[object]:
    tools("prepare", "phantom", "--out", folder, "--kind", "chest")
    image, lung = folder / "phantom_chest_image.nii.gz", folder / "phantom_chest_lung.nii.gz"
    return ["--scan", image, "--organ_mask", lung]


def heart(folder: Path) -> list[object]:
    tools("prepare", "phantom", "--out", folder, "--kind", "heart")
    image, label = folder / "phantom_heart_image.nii.gz", folder / "phantom_heart_label.nii.gz"
    return ["--scan", image, "--organ_mask", label]


def lung_on_chest(given: Path, out: Path) -> None:
    words = ["--texture", "ground_glass,part_solid,solid", "--diameter_mm", "8,16"]
    tools("synthesize", *chest(given), "--out", out, *words, *FEW)


def lung_ellipsoids(given: Path, out: Path) -> None:
    words = ["--shape", "ellipsoid", "--placement", "subpleural", "--jump_n_sample", "2"]
    tools(
        "synthesize", *chest(given), "--out", out, *words, "--jump_length", "2", *FEW, "--seed", 5
    )


def lung_mask_and_like(given: Path, out: Path) -> None:
    """A mask as shape, a texture like a lesion, a site."""
    words = chest(given)
    first = given / "first"
    tools("synthesize", *words, "--out", first, "--count", 1, "--texture", "solid", *FEW)
    case = first / "phantom_chest"
    like = f"like:{case / 'image.nii.gz'}:{case / 'label.nii.gz'}"
    mask = ["--shape", case / "label.nii.gz", "--count", 1]
    tools("synthesize", *words, "--out", out / "mask", *mask, "--texture", like, *FEW)
    record = json.loads((case / "lesions.json").read_text())["lesions"][0]
    site = ",".join(str(round(v, 2)) for v in record["site_mm"])
    options = ["--site", site, "--count", 1, "--diameter_mm", 9, "--texture", "none"]
    tools("synthesize", *words, "--out", out / "site", *options, *FEW)


def lung_dicom(given: Path, out: Path) -> None:
    from tests.dicom_series import write_dicom_series

    words = chest(given)
    image = nib.load(words[1])
    values = np.asarray(image.dataobj)[40:150, 30:140, 40:100]
    positions = [(0.0, 0.0, 2.0 * k) for k in range(values.shape[2])]
    stored = np.moveaxis(values, 2, 0).transpose(0, 2, 1)
    write_dicom_series(given / "series", stored, positions=positions, spacing=(2.0, 2.0))
    options = ["--output_format", "dicom", "--shape", "ellipsoid", "--organ_source", "recipe"]
    tools("synthesize", "--scan", given / "series", "--out", out, "--count", 2, *options, *FEW)


def hearts(given: Path, out: Path) -> None:
    words = ["--bundle", "lefusion_emidec", *heart(given)]
    tools("synthesize", *words, "--out", out / "joint", *FEW)
    more = ["--no_reflow_share", "0.3", "--texture", "bright", "--seed", "3"]
    tools("synthesize", *words, "--out", out / "more", *more, "--diameter_mm", "60", *FEW)


def subtypes(given: Path, out: Path) -> None:
    steps = ["--steps", "50", "--attempts", "1", "--device", "cpu"]
    words = ["--bundle", "hr_ldm", "--texture", "solid,ground_glass", "--count", 2]
    tools("synthesize", *words, *chest(given), "--out", out, *steps)


def two_processes(given: Path, out: Path) -> None:
    scans = given / "scans"
    scans.mkdir()
    _, image, _, lung = chest(given / "x")
    for name in "abc":
        os.symlink(str(image), scans / f"{name}_image.nii.gz")
        os.symlink(str(lung), scans / f"{name}_lung.nii.gz")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "tools"]
    words = ["synthesize", "--scan", scans, "--out", out, "--count", "1", "--shape", "ellipsoid"]
    done = subprocess.run(
        [sys.executable, *command, *map(str, words), *FEW],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def training_loop(given: Path, out: Path) -> None:
    code = f"""
import numpy as np, nibabel as nib, torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from tools.phantoms.datasets import write_chest_phantom
from tools.synthesis.on_the_fly import OrganMaskd, SynthesizeLesiond
paths = write_chest_phantom({str(given / "chest")!r})
put = SynthesizeLesiond("image", label_key="label", organ_key="lung", bundle="lefusion_lidc",
    count=2, diameter_mm=[(6, 10), (10, 20)], size_weights=[2, 1], shape="ellipsoid", steps=8)
put.set_random_state(7)
sample = Compose([LoadImaged(["image", "lung"]), EnsureChannelFirstd(["image", "lung"]), put])(
    {{"image": paths["image"], "lung": paths["lung"]}})
for key in ("image", "label"):
    values = np.asarray(sample[key][0]).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), {str(out)!r} + "/" + key + ".nii.gz")
"""
    out.mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def inference(bundle: str, *options: object) -> Callable[[Path, Path], None]:
    def run(given: Path, out: Path) -> None:
        config = f"bundles/{bundle}/configs/inference.json"
        few = ["--displayable_configs#num_inference_steps", options[0] if options else 2]
        bundle_run("run", "--config_file", config, "--output_dir", out, "--device", "cpu", *few)

    return run


def evaluate(*words: object) -> Callable[[Path, Path], None]:
    def run(given: Path, out: Path) -> None:
        tools("evaluate", "--out", out, "--dataset_dir", "", *words)

    return run


def real_chest(given: Path, out: Path) -> None:
    scan = DATA / "lung_ct" / "case1_image.nii.gz"
    words = ["--count", 2, "--diameter_mm", "8,14", "--organ_source", "recipe"]
    tools("synthesize", "--scan", scan, "--out", out, *words, *FEW)


def real_heart(given: Path, out: Path) -> None:
    stem = DATA / "cardiac_lge" / "emidec8bit_Case_N012"
    words = ["--scan", f"{stem}_image.nii.gz", "--organ_mask", f"{stem}_label.nii.gz"]
    tools("synthesize", "--bundle", "lefusion_emidec", *words, "--out", out, *FEW)


COMMANDS: dict[str, Callable[[Path, Path], None]] = {
    "lung_on_chest": lung_on_chest,
    "lung_ellipsoids": lung_ellipsoids,
    "lung_mask_and_like": lung_mask_and_like,
    "lung_dicom": lung_dicom,
    "hearts": hearts,
    "subtypes": subtypes,
    "two_processes": two_processes,
    "training_loop": training_loop,
    "inference_lefusion_lidc": inference("lefusion_lidc"),
    "inference_lefusion_emidec": inference("lefusion_emidec"),
    "inference_diffmask": inference("diffmask"),
    "inference_hr_ldm": inference("hr_ldm", 50),
    "evaluate_lefusion_lidc": evaluate("--steps", 4, "--limit", 6),
    "evaluate_lefusion_emidec": evaluate(
        "--bundle", "bundles/lefusion_emidec", "--steps", 4, "--limit", 3, "--samples", 1
    ),
    "evaluate_diffmask": evaluate("--bundle", "bundles/diffmask", "--limit", 12),
    "evaluate_hr_ldm": evaluate("--bundle", "bundles/hr_ldm", "--steps", 50, "--limit", 2),
    "evaluate_autoencoder": evaluate(
        "--bundle", "bundles/hr_ldm", "--stage", "autoencoder", "--limit", 3
    ),
    "real_chest": real_chest,
    "real_heart": real_heart,
}


def measure(name: str) -> dict[str, Any] | None:
    if name.startswith("real") and not DATA.is_dir():
        return None
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "given", Path(folder) / "out"
        given.mkdir()
        COMMANDS[name](given, out)
        return hashes(out)


def main() -> int:
    action, path, *names = sys.argv[1:]
    locked = json.loads(Path(path).read_text()) if Path(path).is_file() else {}
    differ = 0
    for name in names or COMMANDS:
        try:
            found = measure(name)
        except (RuntimeError, AssertionError, OSError) as error:
            print(f"{name}: FAILED {error}", flush=True)
            differ += 1
            continue
        if found is None:
            continue
        if action == "record":
            locked[name] = found
            Path(path).write_text(json.dumps(locked, indent=1, sort_keys=True) + "\n")
            print(f"{name}: {len(found)} files", flush=True)
            continue
        before = locked.get(name, {})
        changed = sorted(k for k in before.keys() | found.keys() if before.get(k) != found.get(k))
        differ += bool(changed)
        print(f"{name}: {'same' if not changed else f'DIFFERS in {changed}'}", flush=True)
    return int(bool(differ))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, io.UnsupportedOperation):
        sys.exit(main())
