"""Is a data set what its records say: ``python -m tools verify``, and the end of ``synthesize``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from nibabel.affines import apply_affine
from scipy.spatial import cKDTree
from tqdm import tqdm

from tools.files import read_entries, read_mark
from tools.histograms import intensity_histogram
from tools.intensity import HuWindow
from tools.scans.reader import read_planes
from tools.scans.scan import Scan
from tools.synthesis.datalist import DATALIST_FILE
from tools.synthesis.host_reaction import in_reach
from tools.synthesis.records import (
    IMAGE_FILE,
    INSTANCES_FILE,
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
    """Return what is wrong with a case: its files, places, values, label, records, background.

    Image and label are read plane by plane, so no copy of them is in memory.
    """
    paths = [folder / name for name in (IMAGE_FILE, LABEL_FILE, RECORD_FILE)]
    if not all(path.is_file() and path.stat().st_size for path in paths):
        return ["a file is missing or empty"]
    try:
        record = read_record(folder / RECORD_FILE)
        image, label = Scan(folder / IMAGE_FILE), Scan(folder / LABEL_FILE)
        scan = original if isinstance(original, Scan) or original is None else Scan(original)
        findings = [*_grid_findings(record, image, label)]
        if findings:
            return findings
        if scan is not None:
            findings += _source_findings(record, scan, image)
            scan = None if findings else scan
        marked = _read_marked(image, label, scan, _lesion_values(record))
        findings += _label_findings(record, image, marked)
        if (folder / INSTANCES_FILE).is_file():
            findings += _instance_findings(record, Scan(folder / INSTANCES_FILE), label)
        findings += _background_findings(record, image, marked)
    except (ValueError, OSError) as error:
        return [str(error)]
    return findings


class _Marked(NamedTuple):
    """What is read of image and label: labelled voxels, and changed ones outside of lesions."""

    voxels: np.ndarray
    labels: np.ndarray
    values: np.ndarray
    changed: np.ndarray


def _lesion_values(record: ScanRecord) -> list[int]:
    return sorted({lesion.label for lesion in record.lesions})


def _read_marked(image: Scan, label: Scan, scan: Scan | None, lesions: list[int]) -> _Marked:
    parts: list[tuple[np.ndarray, ...]] = []
    planes = (
        read_planes(each.nifti, each.path, name)
        for each, name in ((image, "image"), (label, "label"))
    )
    for k, (values, labels) in enumerate(zip(*planes, strict=True)):
        inside = labels != 0
        changed: tuple[np.ndarray, ...] = (np.zeros(0, int), np.zeros(0, int))
        if scan is not None:
            before = scan.stored[..., k]
            other = before != values
            if before.dtype.kind == "f":
                other &= ~(np.isnan(before) & np.isnan(values))
            # a label map of the organ marks what must stay, too
            changed = np.nonzero(other & ~np.isin(labels, lesions))
        here = np.nonzero(inside)
        places = (np.stack([*index, np.full(len(index[0]), k)], 1) for index in (here, changed))
        voxels, beyond = places
        parts.append((voxels, labels[here], values[here], beyond))
    return _Marked(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _is_case(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and read_mark(path) is not None


def _datalist_findings(out: Path, names: list[str]) -> Iterator[str]:
    if not (out / DATALIST_FILE).is_file():
        yield f"{DATALIST_FILE} is missing"
        return
    listed = read_entries(out / DATALIST_FILE, "dir")
    counted = [name for name in names if (out / name / INSTANCES_FILE).is_file()]
    files = {"image": (IMAGE_FILE, names), "label": (LABEL_FILE, names)}
    for kind, (file, those) in (files | {"instances": (INSTANCES_FILE, counted)}).items():
        found = [entry[kind] for entry in listed if entry.get(kind) is not None]
        wanted = [f"{name}/{file}" for name in those]
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


def _label_findings(record: ScanRecord, image: Scan, marked: _Marked) -> Iterator[str]:
    """Compare volumes and histograms of the records with label and image."""
    from tools.synthesis.dicom.segmentation import lesion_numbers  # slow to import

    parts = "labels" in (record.organ_mask or {})  # a label map with its own lesions, maybe
    others = sorted(set(np.unique(marked.labels).tolist()) - {0, *_lesion_values(record)})
    if others and not parts:
        yield f"label holds {others}, of which no record tells"
    voxels, labels = marked.voxels, marked.labels
    numbers = lesion_numbers(voxels, labels, image.shape, image.affine, record.lesions)
    voxel = float(abs(np.linalg.det(image.affine[:3, :3])))
    for number, lesion in enumerate(record.lesions, 1):
        inside = numbers == number
        if not inside.any():
            yield f"lesion {number} of the record is not in the label"
            continue
        volume = float(inside.sum()) * voxel
        if abs(volume - lesion.volume_mm3) > voxel / 2 + 1e-3:
            if not parts:
                yield f"lesion {number} has {volume:.1f} mm3, its record {lesion.volume_mm3:.1f}"
        elif (apart := _bins_apart(lesion, image.values_of(marked.values[inside]))) is not None:
            yield f"lesion {number}: {apart:.0%} of its voxels lie in other bins than recorded"


def _instance_findings(record: ScanRecord, instances: Scan, label: Scan) -> Iterator[str]:
    """Compare which lesion each voxel belongs to with label and records."""
    if instances.shape != label.shape or not np.allclose(instances.affine, label.affine, atol=1e-4):
        yield "instances and label lie at different places"
        return
    numbers, values = np.asarray(instances.stored), np.asarray(label.stored)
    lesions = np.isin(values, _lesion_values(record))
    parts = "labels" in (record.organ_mask or {})  # a label map with its own lesions, maybe
    if ((numbers > 0) & ~lesions).any() or (not parts and (lesions & (numbers == 0)).any()):
        yield "instances and label do not mark the same voxels"
    wanted = {int(each.sampler.get("lesion", 0)) for each in record.lesions}
    found = set(np.unique(numbers[numbers > 0]).tolist())
    if found != wanted:
        yield f"instances hold the lesions {sorted(found)}, the records {sorted(wanted)}"


def _bins_apart(lesion: LesionRecord, values: np.ndarray) -> float | None:
    """Return the share of voxels in other bins than recorded; None where it is small."""
    limits = lesion.sampler.get("intensity_range")
    if lesion.histogram_achieved is None or limits is None:
        return None
    if limits[0] < 0 and values.dtype == np.uint16:
        values = values.view(np.int16)  # no HU is above 32767: they have lost their sign
    row = torch.as_tensor(HuWindow(*limits).scaled(values.astype(np.float64)))[None]
    found = intensity_histogram(row, torch.ones_like(row), len(lesion.histogram_achieved))[0]
    apart = float(np.abs(found.numpy() - lesion.histogram_achieved).sum()) / 2
    return apart if apart > MOST_APART + 1.5 / len(values) else None


def _source_findings(record: ScanRecord, scan: Scan, image: Scan) -> Iterator[str]:
    if scan.sha256 != record.sha256:
        yield f"it was made of another scan than {scan.path or 'the one given'}"
    kind, before = (each.nifti.get_data_dtype().newbyteorder("=") for each in (image, scan))
    if kind != before:
        yield f"image is stored as {kind}, the scan as {before}"


def _background_findings(record: ScanRecord, image: Scan, marked: _Marked) -> Iterator[str]:
    """Nothing may differ outside of the lesions, their margin, and where the host reacted."""
    far = marked.changed
    far = far[~in_reach(record, apply_affine(image.affine, far))]
    margin = max((float(x.sampler.get("margin_mm", 0)) for x in record.lesions), default=0.0)
    lesions = marked.voxels[np.isin(marked.labels, _lesion_values(record))]
    if len(far) and margin and len(lesions):
        spacing = image.spacing_mm
        near, _ = cKDTree(lesions * spacing).query(far * spacing)
        far = far[near >= margin]
    if len(far):
        yield f"{len(far)} voxels outside of label and margin differ from the scan, as at {far[0]}"
