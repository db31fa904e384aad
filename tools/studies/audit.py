"""What can be said for and against a data set that ``synthesize`` wrote (``tools audit``)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage
from tqdm import tqdm

from tools.bundle import bundle_folders, sha256_file
from tools.export.entries import read_modality
from tools.files import read_mark, read_object
from tools.metrics.copies import like_sized, nearest
from tools.report.page import lesion_labels
from tools.report.slices import OrientedVolume, changed_outside
from tools.scans.crops import Crop
from tools.scans.scan import Scan
from tools.studies.judge import Measured, each_crop, measure, read_crops
from tools.studies.memory import memory, pictures_apart
from tools.studies.statistics import quartiles
from tools.synthesis.cases import Case, find_cases
from tools.synthesis.datalist import DATALIST_FILE
from tools.synthesis.host_reaction import in_reach
from tools.synthesis.records import IMAGE_FILE, RECORD_FILE, ScanRecord, read_record
from tools.synthesis.verify import verify_dataset

__all__ = ["Audit", "audit_dataset"]

WINDOW_HU = (-1000.0, 400.0)
SAME = 0.01  # pictures that correlate by more than 1 less this are of one lesion
DRAWS = 50
MAP = 64  # pixels along each side of a scan
OWNER = "nothing is said of it: the scans stay under the terms of their owner"


class Audit(NamedTuple):
    """What was found, and arrays for plots of it."""

    facts: dict[str, Any]  # JSON values
    maps: list[np.ndarray]  # mean projections of scans along x, y, z; (64, 64) each
    pictures: np.ndarray  # (N, 32, 32) axial, in [-1, 1]
    training_pictures: np.ndarray | None


def audit_dataset(
    folder: str | Path,
    scan: str | Path = "",
    dataset_dir: str | Path | None = None,
    training: str | Path = "",
    section: str | None = "training",
    seed: int = 0,
) -> Audit:
    """Return all that can be measured of a data set.

    Args:
        folder: that ``synthesize`` wrote.
        scan: what it was made of; empty: the background is not compared.
        dataset_dir: of a datalist of scans.
        training: lesions that the model was trained on, a datalist or folder; empty: none.
        section: list of that datalist.
        seed: of draws of real lesions.

    Returns:
        The facts: ``dir``, ``made_by``, ``cases``, ``background``, ``control``, ``sizes``,
        ``places``, ``training`` (None without), ``diversity``, ``licences``.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if it holds no case or no lesion.
    """
    folder = Path(folder)
    records = _records(folder)
    lesions = [lesion for record in records.values() for lesion in record.lesions]
    if not lesions:
        raise ValueError(f"dir must hold synthetic lesions, got none in {folder}")
    originals = {case.name: case for case in find_cases(scan, dataset_dir)} if scan else {}
    content = read_object(folder / DATALIST_FILE, "dir")
    units = read_modality(content, "dir") in (None, "CT")
    crops = list(each_crop(folder))
    window = WINDOW_HU if units else _window(crops)
    made = measure(crops, window, units)
    values = sorted({lesion.label for lesion in lesions})
    known = measure(_trained_on(training, section, values), window, units) if training else None
    facts = {
        "dir": folder.name,
        "unit": "HU" if units else "",
        "made_by": _made_by(folder, records),
        "cases": [_case(name, record) for name, record in records.items()],
        "background": _background(folder, records, originals),
        "control": _control(records),
        "sizes": _sizes(records),
        "places": {"asked": _asked(records, "placement"), "sites": _sites(folder, records)},
        "training": None if known is None else memory(made, known, seed),
        "diversity": _diversity(made, known, seed),
        "licences": {"weights": _weights(records), "scans": _licence(scan)},
    }
    maps = _maps(folder, records, originals, window)
    of_training = None if known is None else known.pictures["axial"]
    return Audit(facts, maps, made.pictures["axial"], of_training)


def _trained_on(training: str | Path, section: str | None, values: Sequence[int]) -> list[Crop]:
    """Return real lesions: where 1 is no lesion of ours, the labels may hold the organ too."""
    found = [] if 1 in values else list(each_crop(training, values, section))
    return found or read_crops(training, section=section)  # masks of lesions alone


def _records(folder: Path) -> dict[str, ScanRecord]:
    if not folder.is_dir():
        raise FileNotFoundError(f"dir must be an existing folder, got {folder}")
    found = {
        path.parent.name: read_record(path) for path in sorted(folder.glob(f"*/{RECORD_FILE}"))
    }
    if not found:
        raise ValueError(f"dir must be a folder that synthesize wrote, got {folder} without a case")
    return found


def _made_by(folder: Path, records: Mapping[str, ScanRecord]) -> list[dict[str, Any]]:
    """Return each bundle with its version, weights, software and how many cases it made."""
    found: dict[tuple, int] = {}
    for name, record in records.items():
        software = (read_mark(folder / name) or {}).get("version", "unknown")
        bundle = record.bundle
        key = (bundle.name, bundle.version, bundle.weights_sha256, software)
        found[key] = found.get(key, 0) + 1
    keys = ("name", "version", "weights_sha256", "software")
    return [{**dict(zip(keys, key, strict=True)), "cases": n} for key, n in found.items()]


def _case(name: str, record: ScanRecord) -> dict[str, Any]:
    return {
        "name": name,
        "sha256": record.sha256,
        "phantom": record.phantom,
        "lesions": len(record.lesions),
        "seed": (record.request or {}).get("seed"),
        "seeds": [lesion.seed for lesion in record.lesions],
        "organ": (record.organ_mask or {}).get("source"),
        "notes": list(record.notes),
    }


def _background(
    folder: Path, records: Mapping[str, ScanRecord], originals: Mapping[str, Case]
) -> dict[str, Any]:
    """Return findings of verify, and how many voxels differ from the scans outside of lesions."""
    paths = {name: case.path for name, case in originals.items()}
    findings, cases = verify_dataset(folder, paths), []
    for name, record in tqdm(records.items(), desc="comparing with the scans", unit="scan"):
        margin = max((float(x.sampler.get("margin_mm", 0)) for x in record.lesions), default=0.0)
        row: dict[str, Any] = {"name": name, "margin_mm": margin, "changed": None}
        row["reacted"] = any("host_reaction" in x.sampler for x in record.lesions)
        row["image_sha256"] = sha256_file(folder / name / IMAGE_FILE)
        if name in originals:
            original = Scan(originals[name].path, originals[name].series_uid)
            row["same_scan"] = original.sha256 == record.sha256
            before, after = (
                OrientedVolume(original.nifti),
                OrientedVolume(folder / name / IMAGE_FILE),
            )
            labels = lesion_labels(folder / name, record, None)
            row["voxels"] = int(np.prod(labels.shape))
            row["labelled"] = int(np.count_nonzero(labels.box((slice(None),) * 3)))
            row["changed"] = None
            if row["same_scan"] and before.shape == after.shape == labels.shape:
                reached = partial(in_reach, record)
                row["changed"] = changed_outside(before, after, labels, margin, reached)
        cases.append(row)
    failed = bool(findings) or any(row["changed"] for row in cases)
    compared = sum(row["changed"] is not None for row in cases)
    verdict = "failed" if failed else "proven" if compared == len(cases) else "not compared"
    return {"verdict": verdict, "compared": compared, "findings": findings, "cases": cases}


def _control(records: Mapping[str, ScanRecord]) -> dict[str, Any]:
    """Return what was asked for and what came: diameters in mm, JSD in nats, sites in mm."""
    rows: list[dict[str, Any]] = []
    for name, record in records.items():
        site = (record.request or {}).get("site")
        for number, lesion in enumerate(record.lesions):
            # only the first lesion of a scan can be given a place
            given = site if number == 0 else None
            away = None if given is None else np.linalg.norm(np.subtract(given, lesion.site_mm))
            rows.append(
                {
                    "case": name,
                    "texture": lesion.texture,
                    "diameter_mm": lesion.diameter_mm,
                    "asked_mm": lesion.diameter_requested_mm,
                    "jsd": lesion.histogram_jsd,
                    "attempts": lesion.attempts,
                    "site_mm": None if away is None else float(away),
                }
            )
    errors = [
        None if row["asked_mm"] is None else row["diameter_mm"] - row["asked_mm"] for row in rows
    ]
    return {
        "lesions": rows,
        "diameter_error_mm": quartiles(errors),
        "largest_error_mm": max((abs(e) for e in errors if e is not None), default=None),
        "jsd": quartiles([row["jsd"] for row in rows]),
        "site_error_mm": quartiles([row["site_mm"] for row in rows]),
    }


def _asked(records: Mapping[str, ScanRecord], key: str) -> list[Any]:
    found = [(record.request or {}).get(key) for record in records.values()]
    return [value for k, value in enumerate(found) if value is not None and value not in found[:k]]


def _sizes(records: Mapping[str, ScanRecord]) -> dict[str, Any]:
    """Return the diameters, and the parts of what they were drawn from: weight, low, high in mm."""
    mixes = _asked(records, "sizes") or [
        [[1.0, *(asked if isinstance(asked, list) else [asked, asked])]]
        for asked in _asked(records, "diameter_mm")
    ]
    parts = [list(map(float, part)) for mix in mixes for part in mix]
    lesions = [lesion for record in records.values() for lesion in record.lesions]
    # a part of a lesion, such as no-reflow, has a record of its own and no size asked for
    asked = [each for each in lesions if each.diameter_requested_mm is not None] or lesions
    values = [lesion.diameter_mm for lesion in asked]
    within = [any(low * 0.95 <= v <= high * 1.05 for _, low, high in parts) for v in values]
    return {"values_mm": values, "asked": parts, "within": sum(within) if parts else None}


def _sites(folder: Path, records: Mapping[str, ScanRecord]) -> list[list[float]]:
    """Return each site as shares of its scan: from left, back and foot, 0 to 1."""
    found = []
    for name, record in records.items():
        scan = Scan(folder / name / IMAGE_FILE)
        axes, direction = nib.io_orientation(scan.affine).astype(int).T
        for lesion in record.lesions:
            index = apply_affine(np.linalg.inv(scan.affine), lesion.site_mm)
            share, place = (index + 0.5) / scan.shape, np.zeros(3)
            place[axes] = np.where(direction < 0, 1 - share, share)
            found.append(place.clip(0, 1).round(4).tolist())
    return found


def _window(crops: Sequence[Crop]) -> tuple[float, float]:
    values = np.concatenate([crop.image.ravel() for crop in crops])
    low, high = np.percentile(values, (0.5, 99.5)).tolist()
    return low, max(high, low + 1e-6)


def _diversity(made: Measured, known: Measured | None, seed: int) -> dict[str, Any] | None:
    """Return how near each lesion is to another synthetic one; None of one lesion.

    The band is of as many real lesions of like size, drawn again and again: among more the nearest
    is nearer.
    """
    count = len(made.crops)
    if count < 2:
        return None
    apart, names = pictures_apart(made.crops, made.crops), range(count)
    distances, _ = nearest(apart, names, names)
    same = np.argwhere(np.triu(np.maximum(apart, apart.T) <= SAME, 1))
    found: dict[str, Any] = {
        "distances": distances.tolist(),
        "distance": quartiles(distances),
        "duplicates": [[made.crops[i].name, made.crops[k].name] for i, k in same],
        "band": None,
    }
    like: Any = (
        [] if known is None else np.unique(like_sized(made.diameters_mm, known.diameters_mm))
    )
    if known is not None and len(like) > count:
        real = [known.crops[k] for k in like]
        rng, whole = np.random.default_rng(seed), pictures_apart(real, real)
        drawn = [rng.choice(len(like), count, replace=False) for _ in range(DRAWS)]
        middles = [np.nanmedian(nearest(whole[np.ix_(k, k)], names, names)[0]) for k in drawn]
        ends = np.percentile(middles, [5, 50, 95]).tolist()
        found["band"] = dict(zip(("low", "value", "high"), ends, strict=True))
    return found


def _maps(
    folder: Path,
    records: Mapping[str, ScanRecord],
    originals: Mapping[str, Case],
    window: Sequence[float],
) -> list[np.ndarray]:
    """Return mean projections along x, y, z: of organ masks that are there, else of the images."""
    total = [np.zeros((MAP, MAP)) for _ in range(3)]
    for name in records:
        scan = Scan(folder / name / IMAGE_FILE)
        mask = originals[name].organ_mask if name in originals else None
        step = tuple(slice(None, None, max(1, n // (2 * MAP))) for n in scan.shape)
        values = np.asarray(scan.image[step], np.float32).clip(window[0], window[1])
        values = (values - window[0]) / (window[1] - window[0])
        if mask is not None:
            values = 0.25 * values + 0.75 * np.asarray(scan.load_mask(mask, "organ_mask"))[step]
        orientation = nib.io_orientation(scan.affine)
        upright = nib.apply_orientation(values, orientation)
        for axis in range(3):
            flat = upright.mean(axis)
            total[axis] += ndimage.zoom(
                flat, np.divide(MAP, flat.shape), order=1, grid_mode=True, mode="nearest"
            )
    return [each / len(records) for each in total]


def _weights(records: Mapping[str, ScanRecord]) -> list[dict[str, Any]]:
    """Return the licence of each file of weights that lesions came from."""
    used: dict[str, str] = {}
    for record in records.values():
        shape = (record.request or {}).get("shape")
        if record.bundle.weights_sha256:
            used[record.bundle.weights_sha256] = f"texture, {record.bundle.name}"
        if isinstance(shape, Mapping) and shape.get("weights_sha256"):
            used[shape["weights_sha256"]] = f"shape, {shape.get('kind')}"
    shipped = {}
    if used:
        files = [path for each in bundle_folders() for path in sorted(each.glob("*/models/*.pt"))]
        shipped = {sha256_file(path): path for path in files}
    found = []
    for sha256, what in used.items():
        text = _terms(shipped[sha256]) if sha256 in shipped else ""
        licences = re.findall(r"Licence:\s+(.+(?:\n {8,}\S.*)*)", text)
        short = list(dict.fromkeys(" ".join(each.split()).rstrip(".") for each in licences))
        found.append({"of": what, "sha256": sha256, "licences": short, "text": text})
    return found


def _terms(weights: Path) -> str:
    """Return what a bundle says of its weights, of this file where it tells files apart."""
    path = weights.parents[1] / "docs" / "data_license.txt"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    parts = re.split(r"\n(?=[^\n]+\n-{3,}\n)", text)
    own = [part for part in parts if f"models/{weights.name}" in part.split("\n")[0]]
    return "\n".join(own).strip() or text


def _licence(scan: str | Path) -> str:
    """Return what the datalist of the scans says of their licence."""
    path = Path(scan) / DATALIST_FILE if scan and Path(scan).is_dir() else Path(scan)
    if path.suffix == ".json" and path.is_file():
        content = read_object(path, "scan")
        said = content.get("licence") or content.get("license")
        if isinstance(said, str) and said.strip():
            return said.strip()
    return OWNER
