"""Is a data set what its records say: ``python -m tools verify``, and the end of ``synthesize``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from tqdm import tqdm

from tools.files import read_entries, read_mark
from tools.histograms import intensity_histogram
from tools.intensity import HuWindow
from tools.scans.scan import Scan
from tools.synthesis.case_folder import is_whole
from tools.synthesis.datalist import DATALIST_FILE
from tools.synthesis.records import (
    IMAGE_FILE,
    LABEL_FILE,
    RECORD_FILE,
    LesionRecord,
    ScanRecord,
    read_record,
)

__all__ = ["verify_case", "verify_dataset"]

MOST_APART = 0.02  # share of voxels in other bins; the record rounds the ends of its bins


def verify_dataset(out: str | Path, originals: Mapping[str, Path] | None = None) -> list[str]:
    """Return what is wrong with a data set, a sentence each; an empty list is a sound one.

    Args:
        out: folder that ``synthesize`` wrote.
        originals: scans by the name of their case; those of others are not compared.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    out = Path(out)
    if not out.is_dir():
        raise FileNotFoundError(f"dir must be an existing folder, got {out}")
    folders = [path for path in sorted(out.iterdir()) if _is_case(path)]
    if not folders:
        return [f"{out} holds no case"]
    findings = [*_datalist_findings(out, [folder.name for folder in folders])]
    for folder in tqdm(folders, desc="verify", unit="scan", leave=False):
        original = (originals or {}).get(folder.name)
        findings += [f"{folder.name}: {text}" for text in verify_case(folder, original)]
    return findings


def verify_case(folder: Path, original: Scan | Path | None = None) -> list[str]:
    """Return what is wrong with a case: its files, places, values, label, records, background."""
    if not is_whole(folder):
        return ["a file is missing, cut short or damaged"]
    try:
        record = read_record(folder / RECORD_FILE)
        image, label = Scan(folder / IMAGE_FILE), Scan(folder / LABEL_FILE)
        findings = [*_grid_findings(record, image, label)]
        if not findings:
            findings += _label_findings(record, image, label.stored)
            if original is not None:
                scan = original if isinstance(original, Scan) else Scan(original)
                findings += _background_findings(record, scan, image, label.stored)
    except (ValueError, OSError) as error:
        return [str(error)]
    return findings


def _is_case(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and read_mark(path) is not None


def _datalist_findings(out: Path, names: list[str]) -> Iterator[str]:
    if not (out / DATALIST_FILE).is_file():
        yield f"{DATALIST_FILE} is missing"
        return
    listed = read_entries(out / DATALIST_FILE, "dir")
    for kind, file in (("image", IMAGE_FILE), ("label", LABEL_FILE)):
        found = [entry.get(kind) for entry in listed]
        wanted = [f"{name}/{file}" for name in names]
        if sorted(map(str, found)) != sorted(wanted):
            apart = sorted(set(map(str, found)) ^ set(wanted)) or ["an entry twice"]
            yield f"{DATALIST_FILE} does not list each {kind} once: {apart[0]}"


def _grid_findings(record: ScanRecord, image: Scan, label: Scan) -> Iterator[str]:
    if not image.shape == label.shape == tuple(record.shape):
        yield (
            f"image, label and record have different shapes: {image.shape}, {label.shape}, "
            f"{tuple(record.shape)}"
        )
    elif not np.allclose(image.affine, label.affine, atol=1e-4):
        yield "image and label lie at different places"
    elif not np.allclose(image.spacing_mm, record.spacing_mm, rtol=1e-4):
        yield f"voxels are of {image.spacing_mm} mm, the record says {record.spacing_mm}"


def _label_findings(record: ScanRecord, image: Scan, label: np.ndarray) -> Iterator[str]:
    """Compare volumes and histograms of the records with label and image."""
    from tools.dicom.segmentation import separate_lesions  # slow to import

    parts = "labels" in (record.organ_mask or {})  # a label map with its own lesions, maybe
    values = {lesion.label for lesion in record.lesions}
    others = sorted(set(np.unique(label).tolist()) - values - {0})
    if others and not parts:
        yield f"label holds {others}, of which no record tells"
    separate = separate_lesions(label, image.affine, record.lesions)
    voxel = float(abs(np.linalg.det(image.affine[:3, :3])))
    boxes = ndimage.find_objects(separate)
    for number, lesion in enumerate(record.lesions, 1):
        box = boxes[number - 1] if number <= len(boxes) else None
        if box is None:
            yield f"lesion {number} of the record is not in the label"
            continue
        inside = separate[box] == number
        volume = float(inside.sum()) * voxel
        if abs(volume - lesion.volume_mm3) > voxel / 2 + 1e-3:
            if not parts:
                yield f"lesion {number} has {volume:.1f} mm3, its record {lesion.volume_mm3:.1f}"
        elif (apart := _bins_apart(lesion, image.values_of(image.stored[box][inside]))) is not None:
            yield f"lesion {number}: {apart:.0%} of its voxels lie in other bins than recorded"


def _bins_apart(lesion: LesionRecord, values: np.ndarray) -> float | None:
    """Return the share of voxels in other bins than recorded; None where it is small."""
    limits = lesion.sampler.get("intensity_range")
    if lesion.histogram_achieved is None or limits is None:
        return None
    row = torch.as_tensor(HuWindow(*limits).scaled(values.astype(np.float64)))[None]
    found = intensity_histogram(row, torch.ones_like(row), len(lesion.histogram_achieved))[0]
    apart = float(np.abs(found.numpy() - lesion.histogram_achieved).sum()) / 2
    return apart if apart > MOST_APART + 1.5 / len(values) else None


def _background_findings(
    record: ScanRecord, scan: Scan, image: Scan, label: np.ndarray
) -> Iterator[str]:
    """Compare with the original: nothing may differ outside of the label or its margin."""
    if scan.sha256 != record.sha256:
        yield f"it was made of another scan than {scan.path or 'the one given'}"
        return
    if scan.stored.dtype.newbyteorder("=") != image.stored.dtype.newbyteorder("="):
        yield f"image is stored as {image.stored.dtype}, the scan as {scan.stored.dtype}"
    before, after = scan.stored, image.stored
    changed = before != after
    if before.dtype.kind == "f":
        changed &= ~(np.isnan(before) & np.isnan(after))
    changed &= label == 0
    if not changed.any():
        return
    margin = max((float(x.sampler.get("margin_mm", 0)) for x in record.lesions), default=0.0)
    far = np.argwhere(changed)
    if margin:
        near = ndimage.distance_transform_edt(label == 0, sampling=scan.spacing_mm)
        far = far[near[tuple(far.T)] >= margin]
    if len(far):
        yield f"{len(far)} voxels outside of label and margin differ from the scan, as at {far[0]}"
