"""The datalist of scans: its sections, the names of its cases, whose scan each is."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.files import read_object
from tools.scans.reader import bare_name

__all__ = [
    "case_names",
    "divided_sections",
    "listed_twice",
    "patient_of",
    "read_datalist",
    "validation_patient",
]


def validation_patient(patient: str, seed: int, fraction: float) -> bool:
    """Return whether a patient is for validation: a hash of his name decides.

    Example:
        >>> [validation_patient("LIDC-IDRI-0001", 0, fraction) for fraction in (0.0, 1.0)]
        [False, True]
    """
    digest = hashlib.sha256(f"{seed}:{patient}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def read_datalist(datalist: str | Path) -> tuple[dict[str, Any], Path]:
    """Return what a datalist holds, and the folder that its paths start from."""
    content = read_object(datalist, "datalist")
    if not any(map(_is_section, content.values())):
        raise ValueError(f"datalist must have a list of scans, got none in {datalist}")
    return content, Path(datalist).resolve().parent


def _is_section(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(e, dict | str) for e in value)


def divided_sections(
    content: Mapping[str, Any], fold: int, fraction: float, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Return entries by section: those of the datalist, or ``training`` divided by patient."""
    sections = {
        name: [dict(e) if isinstance(e, dict) else {"image": e} for e in value]
        for name, value in content.items()
        if _is_section(value)
    }
    if "validation" not in sections and "training" in sections:
        entries = sections.pop("training")
        folds = fraction > 0 and any("fold" in entry for entry in entries)
        divided: dict[str, list[dict[str, Any]]] = {"training": [], "validation": []}
        for entry in entries:
            mine = entry.get("fold") == fold
            mine = mine if folds else validation_patient(patient_of(entry), seed, fraction)
            divided["validation" if mine else "training"].append(entry)
        sections = divided | sections
    owner: dict[str, str] = {}
    for name in sections.keys() - {"normal"}:
        for entry in sections[name]:
            patient = patient_of(entry)
            if owner.setdefault(patient, name) != name:
                raise ValueError(
                    f"patients must be in one section, got {patient} in {owner[patient]} and {name}"
                )
    return sections


def listed_twice(base: Path, cases: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return a sentence for each entry that lists what another does, or another's patient."""
    files: set[tuple[str, ...]] = set()
    patients: dict[str, str] = {}
    broken: dict[str, str] = {}
    for name, entry in cases.items():
        own = tuple(_place(base, entry, key) for key in ("image", "label"))
        image = own[0] and f"{own[0]} {entry.get('series_uid', '')}".strip()
        if (*own, image) in files:
            broken[name] = f"scans must be listed once, got {own[0] or own[1]} again"
        elif image and patients.setdefault(image, patient_of(entry)) != patient_of(entry):
            broken[name] = (
                f"patient must be one for each scan, got {patients[image]} and {patient_of(entry)} "
                f"for {own[0]}"
            )
        files.add((*own, image))
    return broken


def _place(base: Path, entry: Mapping[str, Any], key: str) -> str:
    path = entry.get(key)
    return os.path.realpath(base / path) if isinstance(path, str) and path else ""


def patient_of(entry: Mapping[str, Any]) -> str:
    """Return whose scan it is; who is not named is told by the file."""
    return str(entry.get("patient") or entry.get("image") or entry.get("label"))


def case_names(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name cases by their file, by its folders too where that is not enough."""
    paths = [Path(str(entry.get("image") or entry.get("label") or "")) for entry in entries]
    stems = []
    for entry, path in zip(entries, paths, strict=True):
        bare = bare_name(path.name).removesuffix("_image").removesuffix("_label")
        stems.append(str(entry.get("name") or bare))
    count = Counter(stems)
    return [
        "_".join([*path.parent.parts[-2:], stem]) if count[stem] > 1 or stem == "image" else stem
        for path, stem in zip(paths, stems, strict=True)
    ]
