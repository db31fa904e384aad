"""Nodules of Duke Lung Cancer Screening (DLCS24), as downloaded (``prepare dlcs``).

The release has low-dose chest CT as NIfTI files and a table with a row per nodule: the middle of
its box in mm, the sides of the box, and whether it was malignant. There are no outlines: the mask
of a nodule is the ellipsoid that touches the sides of its box.

References:
    Wang et al., The Duke Lung Cancer Screening (DLCS) Dataset, Radiology: Artificial Intelligence
    7(4):e240248, 2025.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from tools.files import claimed, write_json
from tools.prepare.lesions import Rule
from tools.prepare.scans import Cases, check_rule, prepare_scans, run_cases, volume
from tools.scans.scan import Scan

__all__ = ["Nodule", "box_mask", "prepare_dlcs", "read_annotations"]

LICENCE = "as the release says: Wang et al., Radiology: Artificial Intelligence 7(4):e240248, 2025"
MIDDLE, SIDES = ("coordX", "coordY", "coordZ"), ("w", "h", "d")
FILE, PATIENT, NAME = "ct_nifti_file", "patient-id", "nodule_id"
MALIGNANT, SPLIT = "Malignant_lbl", "benchmark_split"
SECTIONS = {"train": "training", "val": "validation", "test": "test"}
CLASSES = ("benign", "malignant")
TO_RAS = {"lps": (-1.0, -1.0, 1.0), "ras": (1.0, 1.0, 1.0)}
LARGEST_LABEL = 255


class Nodule(NamedTuple):
    """A row of the table: plain values, since it is kept with the record of its scan."""

    name: str
    middle_mm: tuple[float, ...]  # RAS
    sides_mm: tuple[float, ...]
    malignancy: str | None


class _Case(NamedTuple):
    image: str
    patient: str
    section: str
    nodules: Sequence[Nodule]


def read_annotations(path: Path, coordinates: str = "lps") -> dict[str, list[tuple[dict, Nodule]]]:
    """Return rows and nodules by the file of the scan.

    Args:
        path: of the table.
        coordinates: of its middles: lps, as ITK has them, or ras.

    Raises:
        ValueError: if coordinates are neither, a column is missing, or a number is none.
    """
    if coordinates not in TO_RAS:
        raise ValueError(f"coordinates must be one of {list(TO_RAS)}, got {coordinates!r}")
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    columns = set(rows[0]) if rows else set()
    if missing := {FILE, *MIDDLE, *SIDES} - columns:
        raise ValueError(f"annotations must have the columns {sorted(missing)}, got {path}")
    found: dict[str, list[tuple[dict, Nodule]]] = {}
    for number, row in enumerate(rows, start=2):
        name = row.get(NAME) or f"row {number}"
        try:
            middle, sides = ([float(row[key]) for key in keys] for keys in (MIDDLE, SIDES))
        except (TypeError, ValueError):
            middle = sides = [np.nan]
        if not np.isfinite([*middle, *sides]).all() or min(sides) <= 0:
            raise ValueError(
                f"annotations must have numbers of mm in {[*MIDDLE, *SIDES]}, sides above 0, got "
                f"{[row[key] for key in (*MIDDLE, *SIDES)]} of {name} in {path}"
            )
        label = str(row.get(MALIGNANT) or "").strip()
        known = CLASSES[int(float(label))] if label in ("0", "1", "0.0", "1.0") else None
        turned = tuple(float(a * b) for a, b in zip(middle, TO_RAS[coordinates], strict=True))
        nodule = Nodule(name, turned, tuple(sides), known)
        found.setdefault(Path(row[FILE]).name, []).append((row, nodule))
    return found


def prepare_dlcs(
    source: str | Path,
    annotations: str | Path,
    out: str | Path,
    rule: Rule,
    coordinates: str = "lps",
    workers: int = 1,
    validation_fraction: float = 0.2,
) -> dict[str, Any]:
    """Write label maps with a value per nodule, and of them what a bundle trains on.

    Images stay where they are. ``scans.json`` lists them in the sections of the release, training,
    validation and test, or all in training where the table does not say; it goes through
    :func:`tools.prepare.scans.prepare_scans`, whose result and errors these are. Entries say
    ``malignancy``, benign or malignant, where the table does. Scans of the table that were not
    downloaded are counted as ``not_there``.

    Raises:
        FileNotFoundError: if ``source`` or the table do not exist.
        ValueError: if the table is not as it should be, or none of its scans is there.
    """
    check_rule(rule, workers, validation_fraction)
    folder, table = Path(source), Path(annotations)
    if not folder.is_dir():
        raise FileNotFoundError(f"source must be an existing folder, got {source}")
    if not table.is_file():
        raise FileNotFoundError(f"annotations must be an existing table, got {annotations}")
    listed = read_annotations(table, coordinates)
    cases = _cases(folder, listed)
    if not cases:
        raise ValueError(f"source must hold scans of the table, such as {next(iter(listed))}")
    out, facts = Path(out), {"not_there": len(listed) - len(cases)}
    with claimed(out, ("scans", "scans.json", "cases", "datalist.json")):
        place = Cases(out / "scans", {"coordinates": coordinates}, workers)
        records, broken = run_cases(place, cases, _write_case)
        sections: dict[str, list[dict[str, Any]]] = {}
        for name, case in cases.items():
            if name in records:
                sections.setdefault(case.section, []).append(records[name]["entry"])
        content = {"name": "DLCS24", "licence": LICENCE, "modality": {"0": "CT"}, **sections}
        write_json(out / "scans.json", content, indent=1)
        if not records:
            return {"training": 0, "validation": 0, "left_out": {}, **facts, "broken": broken}
        # the list is our own, the images lie where the user said
        anywhere = out.resolve().anchor
        summary = prepare_scans(
            out / "scans.json", out, rule, workers, validation_fraction, dataset_dir=anywhere
        )
    return {**summary, **facts, "broken": broken | summary["broken"]}


def _cases(folder: Path, listed: Mapping[str, Sequence[tuple[dict, Nodule]]]) -> dict[str, _Case]:
    """Return the scans of the table that are there, at any depth, by name."""
    there = {path.name: path for path in sorted(folder.rglob("*.nii*"))}
    cases = {}
    for file, rows in listed.items():
        if file in there:
            name, row = file.partition(".")[0], rows[0][0]
            split = str(row.get(SPLIT) or "train").lower()
            section = next(
                (s for word, s in SECTIONS.items() if split.startswith(word)), "training"
            )
            nodules = [nodule for _, nodule in rows]
            patient = str(row.get(PATIENT) or name)
            cases[name] = _Case(str(there[file].resolve()), patient, section, nodules)
    return cases


def _write_case(name: str, case: _Case, folder: Path) -> dict[str, Any]:
    """Write the label map of a scan, nodule by nodule from 1."""
    scan = Scan(case.image, in_hu=True, argument="image")
    if len(case.nodules) > LARGEST_LABEL:
        raise ValueError(f"scan must have at most {LARGEST_LABEL} nodules, got {len(case.nodules)}")
    label, lesions = np.zeros(scan.shape, np.uint8), []
    for value, nodule in enumerate(case.nodules, start=1):
        box, inside = box_mask(scan.shape, scan.affine, nodule.middle_mm, nodule.sides_mm)
        if not inside.any():
            raise ValueError(
                f"nodules must lie in the scan, got {nodule.name} at {list(nodule.middle_mm)} mm "
                "(RAS); were the coordinates lps or ras?"
            )
        label[box][inside & (label[box] == 0)] = value
        facts = {"value": value, "nodule": nodule.name, "mask": "ellipsoid of the box"}
        lesions.append(facts | ({"malignancy": nodule.malignancy} if nodule.malignancy else {}))
    nib.save(volume(label, scan.affine), folder / "label.nii.gz")
    paths = {"image": case.image, "label": f"scans/{name}/label.nii.gz"}
    return {"entry": {"name": name, "patient": case.patient, **paths, "lesions": lesions}}


def box_mask(
    shape: Sequence[int],
    affine: np.ndarray,
    middle_mm: Sequence[float],
    sides_mm: Sequence[float],
) -> tuple[tuple[slice, ...], np.ndarray]:
    """Return the ellipsoid that touches the sides of a box along the axes of the patient.

    One that holds no middle of a voxel is the voxel nearest to its own middle.

    Args:
        shape: of the scan.
        affine: voxel to RAS mm.
        middle_mm: of the box, RAS.
        sides_mm: along R, A and S, above 0.

    Returns:
        The part of the scan round it, which is empty outside the scan, and the mask of that part.

    Example:
        >>> box, inside = box_mask((8, 8, 8), np.eye(4), (4, 4, 4), (3, 3, 1))
        >>> box[0], int(inside.sum())
        (slice(2, 7, None), 9)
    """
    corners = np.array(middle_mm) + np.array(sides_mm) / 2 * _SIGNS
    reached = nib.affines.apply_affine(np.linalg.inv(affine), corners)
    low = np.clip(np.floor(reached.min(0)).astype(int), 0, shape)
    high = np.clip(np.ceil(reached.max(0)).astype(int) + 1, 0, shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    if (high <= low).any():
        return box, np.zeros([max(0, n) for n in high - low], bool)
    index = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1)
    away = (nib.affines.apply_affine(affine, index) - middle_mm) / (np.array(sides_mm) / 2)
    distance = (away**2).sum(-1)
    inside = distance <= 1
    return box, inside if inside.any() else distance == distance.min()


_SIGNS = np.stack(np.meshgrid(*[[-1, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
